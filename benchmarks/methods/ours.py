"""The lifelong learner: one training, scored under every retrieval policy; and the same with one setting changed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from transformers import AutoModel, set_seed

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments
from hf_lifelong.adapter import Lifelong, active_config, drift_modules, lifelong_of, set_knowledge
from hf_lifelong.retrieval import PolicyLike
from hf_lifelong.statistics import TaskStatistic
from hf_lifelong.training import PreparedTask, Split

from .shared import Result, Setting, training_arguments

# Test rows, of all tasks together, that `uncertainty` is scored on by default: with all members on all rows, a long
# stream would take hours.
UNCERTAINTY_ROWS = 600
# A weight of the closed-form heads beside which members do not count (those of weight 0 stay what they are).
FAR_MORE = 1e4


class Timed(DriftTrainer):
    """Counts the seconds of training steps and snapshots; those of the signature and of grouping are in
    `benchmarks/training.py`."""

    seconds = 0.0

    def train_task(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        output = super().train_task(*args, **kwargs)
        self.seconds += time.perf_counter() - start
        return output


def learn(
    tasks: Sequence[PreparedTask],
    setting: Setting,
    folder: str,
    retrieval: PolicyLike = "signature",
    statistics: Sequence[TaskStatistic] = (),
) -> Timed:
    """Learns the stream. `chosen` holds `adapter` and `training`: settings that differ from the defaults."""
    set_seed(setting.seed)
    base = AutoModel.from_pretrained(setting.model, dtype=torch.float32)
    lengths = {name: setting.budget[name] for name in ("max_length", "stride") if name in setting.budget}
    adapter = {"retrieval": retrieval, **lengths, **setting.chosen.get("adapter", {})}
    config = DriftAdapterConfig(r=8, lora_alpha=16, **adapter)
    args = DriftTrainingArguments(
        folder,
        per_device_eval_batch_size=64,
        **{**training_arguments(setting), **setting.chosen.get("training", {})},
    )
    trainer = Timed(
        get_peft_model(base, config),
        args,
        tasks=[task.task for task in tasks],
        processing_class=tasks[0].tokenizer,
        statistics=statistics,
    )
    trainer.train()
    return trainer


def ours(tasks: Sequence[PreparedTask], setting: Setting) -> Result:
    """The lifelong learner with its default retrieval and answer; `beside["variants"]` has others, from the same
    training."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = learn(tasks, setting, folder)
        result = result_of(trainer, folder)
    result.beside["variants"] = variants(trainer, setting)
    return result


def result_of(trainer: Timed, folder: str) -> Result:
    """What a learned stream gives; its adapter lies in a folder."""
    size = Path(folder, "adapter_model.safetensors").stat().st_size
    matrix, config, knowledge = trainer.matrix, active_config(trainer.model), trainer.knowledge
    if matrix is None:
        raise RuntimeError("The stream was learned, but its accuracy matrix is missing.")
    trunk = knowledge.trunk / knowledge.base["layers"]
    beside = {
        "oracle_accuracy": matrix.oracle_accuracy(),
        "retrieval_accuracy": matrix.retrieval_accuracy(),
        "validation_accuracy": float(np.mean([task.score for task in knowledge.tasks])),
        "groups": [task.group for task in knowledge.tasks],
        "trunk": trunk,
        "members": config.members,
    }
    count = len(knowledge.tasks)
    return Result(matrix, [size // count] * count, trainer.seconds, beside=beside)


def variants(trainer: DriftTrainer, setting: Setting) -> dict[str, dict[str, float]]:
    """Final scores of the same training under other retrieval policies and ways to answer: those that the budget
    names as `variants`, or all of them."""
    rows = setting.budget.get("uncertainty_rows", UNCERTAINTY_ROWS) // len(trainer.tasks)
    ways = {
        "cascade": lambda: under(trainer, "cascade"),
        "uncertainty": lambda: under(trainer, "uncertainty", rows),
        "variance": lambda: changed(trainer, "uncertainty", "variance", "uncertainty", rows),
        "ensemble": lambda: changed(trainer, "answer", "ensemble", "signature"),
        "members alone": lambda: with_closed_form(trainer, 0.0),
        "closed form alone": lambda: with_closed_form(trainer, FAR_MORE),
        "last member": lambda: with_last_members(trainer),  # last, for it replaces the members
    }
    if not setting.chosen.get("variants", True):
        return {}
    wanted = setting.budget.get("variants", ways)
    return {name: way() for name, way in ways.items() if wanted and name in wanted}


def changed(trainer: DriftTrainer, name: str, value: str, policy: str, most: int | None = None) -> dict[str, float]:
    """Final scores under a policy, with another value of a setting."""
    config = active_config(trainer.model)
    before = getattr(config, name)
    setattr(config, name, value)
    found = under(trainer, policy, most)
    setattr(config, name, before)
    return found


@torch.no_grad()
def with_closed_form(trainer: DriftTrainer, factor: float) -> dict[str, float]:
    """Final scores where the closed-form head of every task counts `factor` times what its validation part gave it."""
    root = lifelong_of(trainer.model)
    banks = [bank[root.active_adapters[0]] for bank in (root.drift_closed_weight, root.drift_closed_bias)]
    given = [bank.clone() for bank in banks]
    for bank in banks:
        bank.mul_(factor)
    trainer.evaluator.clear()
    found = under(trainer, "signature")
    for bank, values in zip(banks, given, strict=True):
        bank.copy_(values)
    trainer.evaluator.clear()
    return found


def with_last_members(trainer: DriftTrainer) -> dict[str, float]:
    """Final scores with the last member of each task in the place of all of its members: the weights as plain training
    ends. They stay there."""
    knowledge, adapter = trainer.knowledge, lifelong_of(trainer.model).active_adapters[0]
    for start, end in pairwise(knowledge.member_offsets):
        rows = knowledge.head_offsets[start : end + 1]
        for _, module in drift_modules(trainer.model):
            head = isinstance(module, Lifelong)
            width, first, last = (rows[1] - rows[0], rows[0], rows[-1]) if head else (1, start, end)
            names = ("drift_bank_head_weight", "drift_bank_head_bias") if head else ("drift_bank_A", "drift_bank_B")
            for bank in (getattr(module, name)[adapter].data for name in names):
                bank[first:last] = bank[last - width : last].repeat(end - start, *[1] * (bank.dim() - 1))
    set_knowledge(trainer.model, knowledge)
    trainer.evaluator.clear()
    return under(trainer, "signature")


def under(trainer: DriftTrainer, policy: str, most: int | None = None) -> dict[str, float]:
    """Final scores under a retrieval policy, on the first `most` test rows of each task (`None`: all)."""
    accuracies, retrieved = [], []
    for task in trainer.tasks:
        prepared = trainer.prepared(task)
        scored = trainer.evaluator.score(prepared, first_rows(prepared.test, most), policy)
        accuracies.append(scored.metrics[prepared.task_kind.metric])
        retrieved.append(scored.retrieval)
    found = {"average_accuracy": float(np.mean(accuracies)), "retrieval_accuracy": float(np.mean(retrieved))}
    return {**found, **({} if most is None else {"rows_per_task": most})}


def first_rows(split: Split, most: int | None) -> Split:
    """The first `most` examples of a split, with all of their features."""
    if most is None or most >= len(split.examples):
        return split
    features = [i for i, example in enumerate(split.features["example"]) if example < most]
    return Split(split.examples.select(range(most)), split.features.select(features))
