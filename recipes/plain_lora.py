"""What people do without this package: one LoRA, trained on task after task. It forgets.

Stock PEFT and stock Trainer on the same linear layers, rank, data and steps as the lifelong adapter, with dropout only
where that has it. An encoder has one head a task, and at test time it is even told which task an input belongs to; a
language model answers as it is.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import ProgressCallback, Trainer, TrainingArguments, set_seed

from hf_lifelong import DriftAdapterConfig, DriftTrainingArguments
from hf_lifelong.adapter import target_names
from hf_lifelong.adapter.forward import masked_mean
from hf_lifelong.objectives import MODEL_INPUTS, head_kind
from hf_lifelong.training import PreparedTask, TaskBar


class OneLora(nn.Module):
    """A backbone with one LoRA and a head for each task; `task` says which one is trained or asked."""

    def __init__(self, backbone: nn.Module, tasks: list[PreparedTask]) -> None:
        super().__init__()
        self.backbone = backbone
        hidden = backbone.config.hidden_size
        self.heads = nn.ModuleList(nn.Linear(hidden, task.width) for task in tasks)
        self.dropout = nn.Dropout(0.1)
        self.tasks, self.task = tasks, 0

    def forward(self, attention_mask: torch.Tensor, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        kind = head_kind(self.tasks[self.task].kind)
        targets = {name: batch.pop(name) for name in kind.targets if name in batch}
        hidden = self.backbone(attention_mask=attention_mask, **batch).last_hidden_state
        seen = hidden if kind.per_token else masked_mean(hidden, attention_mask)
        logits = self.heads[self.task](self.dropout(seen))
        loss = {"loss": kind.loss(logits, targets, attention_mask)} if targets else {}
        return {**loss, "logits": logits}


def learn_in_turn(
    base: Any, tasks: list[PreparedTask], args: DriftTrainingArguments, config: DriftAdapterConfig
) -> list[list[float | None]]:
    """Trains one LoRA on the tasks in turn.

    Args:
        base: A base model of its own, as the lifelong adapter's was loaded.

    Returns:
        The accuracy matrix: row i holds the scores on the test parts of tasks 0 to i after learning task i.
    """
    set_seed(args.seed)
    lora = LoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=target_names(config, base),
        task_type=config.task_type,
    )
    model: Any = get_peft_model(base, lora)
    generates = tasks[0].generates
    model = model if generates else OneLora(model, tasks)
    if not args.drift_dropout:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    known = {f.name for f in dataclasses.fields(TrainingArguments) if f.init}
    plain = TrainingArguments(
        **{k: v for k, v in vars(args).items() if k in known} | {"save_strategy": "no", "remove_unused_columns": False}
    )
    rows: list[list[float | None]] = []
    for i, task in enumerate(tasks):
        if not generates:
            model.task = i
        trainer = Trainer(
            model, plain, train_dataset=task.train, data_collator=task.collator(), processing_class=task.tokenizer
        )
        if not generates:
            trainer.loss_is_scaled_for_ga, trainer.model_accepts_loss_kwargs = False, False
        if not args.disable_tqdm:
            trainer.remove_callback(ProgressCallback)
            trainer.add_callback(TaskBar(f"one LoRA, {task.name}"))
        trainer.train()
        ask = score_texts if generates else score
        rows.append([ask(model, j, tasks[j], args) if j <= i else None for j in range(len(tasks))])
    return rows


@torch.no_grad()
def score_texts(model: Any, index: int, task: PreparedTask, args: TrainingArguments) -> float:
    """The task's metric on its test part, of what a language model generates."""
    model.eval()
    features, texts = task.test.features, []
    ends = {"eos_token_id": task.tokenizer.eos_token_id, "pad_token_id": task.tokenizer.pad_token_id}
    for start in range(0, len(features), args.eval_batch_size):
        rows = features.select_columns(["input_ids", "attention_mask"])[start : start + args.eval_batch_size]
        batch = {name: tensor.to(args.device) for name, tensor in task.batch(rows).items()}
        out = model.generate(**batch, **ends, do_sample=False, max_new_tokens=task.config.max_new_tokens)
        texts += task.tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    references = task.task_kind.references(task.test.examples, task.columns, task.labels)
    return task.task_kind.score([text.strip() for text in texts], references)[task.task_kind.metric]


@torch.no_grad()
def score(model: OneLora, index: int, task: PreparedTask, args: TrainingArguments) -> float:
    """The task's metric on its test part, through its own head."""
    model.eval()
    model.task = index
    features, kind = task.test.features, head_kind(task.kind)
    inputs = features.select_columns([c for c in MODEL_INPUTS if c in features.column_names])[:]
    scores: list[np.ndarray] = []
    factor, summand = kind.scaling(task.constants)
    for start in range(0, len(features), args.eval_batch_size):
        rows = {name: values[start : start + args.eval_batch_size] for name, values in inputs.items()}
        batch = {name: tensor.to(args.device) for name, tensor in task.batch(rows).items()}
        logits = factor * model(**batch)["logits"] + summand
        found = kind.distributions(logits, batch["attention_mask"])[0]
        scores.extend(found.cpu().numpy())
    padded = np.zeros((len(scores), *np.max([s.shape for s in scores], axis=0)), dtype=np.float32)
    for row, found in enumerate(scores):
        padded[row, : found.shape[0], : found.shape[1]] = found
    decoded = kind.decode(padded, features, task.test.examples, task.columns, task.labels, task.constants)
    references = kind.references(task.test.examples, task.columns, task.labels)
    return kind.score([answer["answer"] for answer in decoded], references)[kind.metric]
