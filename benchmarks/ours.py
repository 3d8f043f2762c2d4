"""The lifelong learner on a stream, scored under every retrieval policy from one training."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from rivals import trainer_settings
from transformers import AutoModel, AutoTokenizer, set_seed

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, Task
from hf_lifelong.training import Scores, Split, adapter_record

# Test rows a task that a policy is scored on; running all members on all rows takes an hour on a CPU.
OTHER_POLICIES = {"cascade": None, "uncertainty": 100}


def drift(
    tasks: list[dict],
    name: str,
    seed: int,
    budget: dict[str, Any],
    adapter: dict | None = None,
    drift: dict | None = None,
) -> dict[str, Any]:
    """Learns the stream and scores it.

    Args:
        adapter (`dict`, *optional*): Settings of the adapter that differ from the defaults.
        drift (`dict`, *optional*): Settings of the training that differ from the defaults.
    """
    tokenizer = AutoTokenizer.from_pretrained(name)
    set_seed(seed)
    base = AutoModel.from_pretrained(name, dtype=torch.float32)
    config = DriftAdapterConfig(r=8, lora_alpha=16, max_length=budget["max_length"], stride=16, **(adapter or {}))
    with tempfile.TemporaryDirectory() as out:
        args = DriftTrainingArguments(
            out, per_device_eval_batch_size=64, **trainer_settings(seed, budget), **(drift or {})
        )
        trainer = DriftTrainer(
            get_peft_model(base, config), args, tasks=[Task(**task) for task in tasks], processing_class=tokenizer
        )
        start = time.time()
        trainer.train()
        record = adapter_record(trainer, seconds=round(time.time() - start))
        matrix = trainer.matrix
        size = Path(out, "adapter_model.safetensors").stat().st_size
    others = {
        policy: [score(trainer, task, policy, rows) for task in trainer.tasks]
        for policy, rows in OTHER_POLICIES.items()
    }
    return {
        "accuracy": matrix.average_accuracy(),
        "accuracy_signature": matrix.average_accuracy(),
        "retrieval_signature": matrix.retrieval_accuracy(),
        "matrix": matrix.to_dict(),
        "summary": matrix.summary(),
        "groups": [task.group for task in trainer.knowledge.tasks],
        "validation": [task.score for task in trainer.knowledge.tasks],
        "bytes": size,
        "adapter": record,
        "rows_of_other_policies": OTHER_POLICIES,
        **{f"accuracy_{p}": float(np.mean([s.metrics["accuracy"] for s in scored])) for p, scored in others.items()},
        **{f"retrieval_{p}": float(np.mean([s.retrieval for s in scored])) for p, scored in others.items()},
    }


def score(trainer: DriftTrainer, task: Task, policy: str, most: int | None) -> Scores:
    """Scores the first test rows of a task (`None`: all) under a policy."""
    prepared = trainer.prepared(task)
    rows = range(min(most or len(prepared.test.examples), len(prepared.test.examples)))
    part = Split(prepared.test.examples.select(rows), prepared.test.features.select(rows))
    return trainer.evaluator.score(prepared, part, policy)
