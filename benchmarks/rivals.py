"""What people use instead: one PEFT LoRA per task (the task given), and one PEFT LoRA trained on task after task.

Both are stock `Trainer` + stock `LoraConfig` on `AutoModelForSequenceClassification`.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ["query", "value"]}


def encode(data: Dataset, columns: dict[str, str], tokenizer: Any, max_length: int, offset: int = 0) -> Dataset:
    """Tokenises one split; `offset` moves the labels into a head that several tasks share."""

    def tokenise(rows: dict[str, list]) -> dict[str, list]:
        pair = rows[columns["text_pair"]] if "text_pair" in columns else None
        strategy = "only_second" if pair is not None else True
        out = tokenizer(rows[columns["text"]], pair, truncation=strategy, max_length=max_length)
        out["labels"] = [label + offset for label in rows[columns["label"]]]
        return dict(out)

    return data.map(tokenise, batched=True, remove_columns=data.column_names)


def lora_model(name: str, num_labels: int, seed: int) -> torch.nn.Module:
    set_seed(seed)
    base = AutoModelForSequenceClassification.from_pretrained(name, dtype=torch.float32, num_labels=num_labels)
    return get_peft_model(base, LoraConfig(task_type="SEQ_CLS", **LORA))


def trainer_settings(seed: int, budget: dict[str, Any]) -> dict[str, Any]:
    """Trainer's arguments for the budget that every method of the benchmark gets."""
    return {
        "seed": seed,
        "num_train_epochs": budget["epochs"],
        "per_device_train_batch_size": budget["batch_size"],
        "learning_rate": budget["learning_rate"],
        "warmup_steps": 0.1,
        "bf16": True,
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "logging_steps": 100,
        "report_to": "none",
        "disable_tqdm": True,
    }


def fit(
    model: torch.nn.Module, tokenizer: Any, train: Dataset, seed: int, budget: dict[str, Any], loss: Any = None
) -> None:
    """One plain fine-tuning run at the budget that every method of the benchmark gets."""
    with tempfile.TemporaryDirectory() as out:
        args = TrainingArguments(out, **trainer_settings(seed, budget))
        collator = DataCollatorWithPadding(tokenizer)
        Trainer(
            model,
            args,
            train_dataset=train,
            data_collator=collator,
            processing_class=tokenizer,
            compute_loss_func=loss,
        ).train()


def own_labels(first: int, end: int) -> Any:
    """Loss over the labels from `first` to `end` of a head that several tasks share.

    Over all labels, each task would first push down those of the others: so hard that the adapter diverged (a loss
    above chance from the second task on, at 2e-3 and at 5e-4), and there was nothing left that could be forgotten.
    """

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(outputs.logits[:, first:end].float(), labels - first)

    return loss


@torch.no_grad()
def logits_of(model: torch.nn.Module, tokenizer: Any, data: Dataset, batch_size: int = 64) -> np.ndarray:
    """Logits `[rows, labels]`, rows in the order of `data`; batches are sorted by length to save padding."""
    model.eval()
    rows = data.remove_columns("labels")
    order = np.argsort([len(ids) for ids in rows["input_ids"]])
    parts = []
    for start in range(0, len(order), batch_size):
        batch = tokenizer.pad([rows[int(i)] for i in order[start : start + batch_size]], return_tensors="pt")
        parts.append(model(**batch.to(model.device)).logits.float().cpu().numpy())
    out = np.concatenate(parts)
    return out[np.argsort(order)]


def separate_lora(tasks: list[dict], name: str, seed: int, budget: dict[str, Any], split: str = "test") -> dict:
    """One LoRA per task, the task given at test time: what is possible without any forgetting or sharing."""
    tokenizer = AutoTokenizer.from_pretrained(name)
    scores = {}
    for i, task in enumerate(tasks):
        classes = task["train"].features[task["columns"]["label"]].num_classes
        model = lora_model(name, classes, seed + i)
        fit(
            model, tokenizer, encode(task["train"], task["columns"], tokenizer, budget["max_length"]), seed + i, budget
        )
        data = encode(task[split], task["columns"], tokenizer, budget["max_length"])
        hit = logits_of(model, tokenizer, data).argmax(1) == np.array(data["labels"])
        scores[task["name"]] = float(hit.mean())
    return {"scores": scores, "accuracy": float(np.mean(list(scores.values())))}


def sequential_lora(tasks: list[dict], name: str, seed: int, budget: dict[str, Any]) -> dict:
    """One LoRA and one head over all labels, trained on task after task, each on its own labels of the head.

    `matrix` scores without a task id (argmax over all labels), `matrix_task_given` among the task's own labels only;
    each task is scored when it was learned and at the end.
    """
    tokenizer = AutoTokenizer.from_pretrained(name)
    widths = [task["train"].features[task["columns"]["label"]].num_classes for task in tasks]
    offsets = np.cumsum([0, *widths])
    model = lora_model(name, int(offsets[-1]), seed)
    length = budget["max_length"]
    tests = [encode(t["test"], t["columns"], tokenizer, length, int(o)) for t, o in zip(tasks, offsets, strict=False)]
    matrix, given = [], []
    for i, task in enumerate(tasks):
        train = encode(task["train"], task["columns"], tokenizer, length, int(offsets[i]))
        fit(model, tokenizer, train, seed + i, budget, own_labels(int(offsets[i]), int(offsets[i + 1])))
        free_row: list[float | None] = [None] * len(tasks)
        given_row: list[float | None] = [None] * len(tasks)
        for j in range(len(tasks)) if i == len(tasks) - 1 else [i]:
            logits, labels = logits_of(model, tokenizer, tests[j]), np.array(tests[j]["labels"])
            free_row[j] = float((logits.argmax(1) == labels).mean())
            own = logits[:, offsets[j] : offsets[j + 1]].argmax(1) + offsets[j]
            given_row[j] = float((own == labels).mean())
        matrix.append(free_row)
        given.append(given_row)
    return {
        "matrix": matrix,
        "matrix_task_given": given,
        "accuracy": float(np.mean(matrix[-1])),
        "accuracy_task_given": float(np.mean(given[-1])),
    }
