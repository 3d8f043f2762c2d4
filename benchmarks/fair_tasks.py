"""Adult as sentences, ten tasks by work class: learned one after another, fair over all of them from stored sums."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset
from peft import get_peft_model
from transformers import AutoModel, AutoTokenizer, set_seed

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, Task
from hf_lifelong.adapter import statistics_of
from hf_lifelong.fairness import METRICS, FairnessSums, NamedSums
from hf_lifelong.training import Split

TRAIN, TEST = 300, 100  # rows of a task, at most
BUDGET = {"num_train_epochs": 2, "per_device_train_batch_size": 16, "learning_rate": 2e-3, "warmup_steps": 0.1}
WORDS = {
    "Private": "a private company",
    "Self-emp-not-inc": "their own unincorporated business",
    "Self-emp-inc": "their own corporation",
    "Federal-gov": "the federal government",
    "Local-gov": "a local government",
    "State-gov": "a state government",
}
# Two thirds work for private companies; they are four tasks by what they do there.
PRIVATE = {
    "Adm-clerical": "office",
    "Exec-managerial": "office",
    "Prof-specialty": "office",
    "Tech-support": "office",
    "Sales": "sales",
    "Other-service": "service",
    "Priv-house-serv": "service",
    "Protective-serv": "service",
}


def task_of(row: dict[str, Any]) -> str:
    if row["workclass"] == "Private":
        return f"Private, {PRIVATE.get(row['occupation'], 'craft')}"
    return row["workclass"] if row["workclass"] in WORDS else "no work class"


def sentence(row: dict[str, Any]) -> str:
    def words(name: str) -> str:
        return str(row[name] or "unknown").replace("-", " ").lower()

    work = WORDS.get(row["workclass"], "nobody known")
    return (
        f"Works for {work} as {words('occupation')}, {row['hours_per_week']} hours a week. {row['age']} years old, "
        f"{words('education')}, {words('marital_status')}, {words('relationship')}, {words('race')}, {words('sex')}, "
        f"from {words('native_country')}. Capital gain {row['capital_gain']}, loss {row['capital_loss']}."
    )


def tasks(data_dir: str, seed: int) -> list[Task]:
    """The ten tasks: rows drawn from the official training and test parts, in the order of first occurrence."""
    found = load_dataset(str(Path(data_dir, "adult")))
    draw = np.random.default_rng(seed)

    def parts(split: str, most: int) -> dict[str, Dataset]:
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in found[split]:
            kept = {"text": sentence(row), "label": row["income"], "sex": row["sex"], "race": row["race"]}
            rows.setdefault(task_of(row), []).append(kept)
        drawn = {name: draw.permutation(len(of_task))[:most] for name, of_task in rows.items()}
        return {name: Dataset.from_list([rows[name][i] for i in which]) for name, which in drawn.items()}

    train, test = parts("train", TRAIN), parts("test", TEST)
    return [
        Task(name, "text-classification", rows, test=test[name], columns={"group": "sex"})
        for name, rows in train.items()
    ]


def over_tasks(weight: float, seed: int, data_dir: str, model: str) -> dict[str, Any]:
    """Learns the tasks, and compares what the stored sums say of all of them with the answers to all rows."""
    set_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(model)
    base = AutoModel.from_pretrained(model, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        args = DriftTrainingArguments(
            folder,
            fairness="sp",
            fairness_weight=weight,
            per_device_eval_batch_size=64,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
            **BUDGET,
        )
        config = DriftAdapterConfig(r=8, lora_alpha=16, max_length=96)
        stream = tasks(data_dir, seed)
        trainer = DriftTrainer(get_peft_model(base, config), args, tasks=stream, processing_class=tokenizer)
        trainer.train()
    statistic = FairnessSums()
    stored = statistic.read(statistic.total(statistics_of(trainer.model, statistic.name).values()))
    truth, test = (answered(trainer, part) for part in ("train", "test"))
    numbers = trainer.matrix.numbers
    return {
        "tasks": len(stream),
        "rows": sum(len(trainer.prepared(task).train) for task in stream),
        "accuracy": trainer.matrix.average_accuracy(),
        "retrieval": trainer.matrix.retrieval_accuracy(),
        **{f"stored_{name}": stored.value(name) for name in METRICS},
        **{f"truth_{name}": truth.value(name) for name in METRICS},
        **{f"bound_{name}": numbers[f"fairness_{name}_stale"] for name in METRICS},
        **{f"test_{name}": test.value(name) for name in METRICS},
    }


def answered(trainer: DriftTrainer, part: str) -> NamedSums:
    """The sums of all rows of all tasks, each answered by the members that the model chooses."""
    of_tasks = []
    for task in trainer.tasks:
        prepared = trainer.prepared(task)
        split = prepared.test if part == "test" else Split(prepared.train_examples, prepared.asked)
        names = trainer.evaluator.routed(prepared, split)
        rows = trainer.evaluator.answers(prepared, split, names)
        scores = torch.tensor(np.stack([row[0] for row in rows]))
        labels = torch.tensor(split.features["labels"][:])
        of_tasks.append(NamedSums.of_rows(scores, labels, split.examples["sex"][:], prepared.labels))
    return sum(of_tasks[1:], start=of_tasks[0])
