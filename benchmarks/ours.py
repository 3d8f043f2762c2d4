"""The lifelong learner on a stream, scored under every retrieval policy from one training."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from transformers import AutoModel, AutoTokenizer, set_seed

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, Task
from hf_lifelong.training.scoring import Scored

POLICIES = ("signature", "cascade", "uncertainty")


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
            out,
            seed=seed,
            num_train_epochs=budget["epochs"],
            per_device_train_batch_size=budget["batch_size"],
            per_device_eval_batch_size=64,
            learning_rate=budget["learning_rate"],
            warmup_steps=0.1,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_steps=100,
            report_to="none",
            disable_tqdm=True,
            **(drift or {}),
        )
        trainer = DriftTrainer(
            get_peft_model(base, config), args, tasks=[Task(**task) for task in tasks], processing_class=tokenizer
        )
        trainer.train()
        matrix = trainer.matrix
        size = Path(out, "adapter_model.safetensors").stat().st_size
    scored: dict[str, dict[str, Scored]] = {
        policy: {
            t.name: trainer.scorer.score(trainer.prepared(t), trainer.prepared(t).test, policy) for t in trainer.tasks
        }
        for policy in POLICIES
    }
    return {
        "accuracy": matrix.average_accuracy(),
        "matrix": matrix.to_dict(),
        "summary": matrix.summary(),
        "groups": [task.group for task in trainer.knowledge.tasks],
        "validation": [task.score for task in trainer.knowledge.tasks],
        "bytes": size,
        **{f"accuracy_{p}": float(np.mean([s.metrics["accuracy"] for s in scored[p].values()])) for p in POLICIES},
        **{f"retrieval_{p}": float(np.mean([s.retrieval for s in scored[p].values()])) for p in POLICIES},
    }
