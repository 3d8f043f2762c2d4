"""Texts: HateCheck by the people that it is about, with an encoder and any `Trainer`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_lifelong.fairness import FairTrainerMixin, GroupFairness

EPOCHS, BATCH, RATE, WINDOW = 4, 32, 1e-4, 20


class FairTrainer(FairTrainerMixin, Trainer):
    pass


def hatecheck(data_dir: str, tokenizer: Any, seed: int) -> tuple[Any, Any, list[str]]:
    """Encoded halves to train and to test with, and the names of the groups; rows about nobody are of no group."""
    rows = load_dataset(str(Path(data_dir, "hatecheck")))["train"]
    names = sorted({name for name in rows["target"] if name})

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        groups = [names.index(name) if name else -100 for name in batch["target"]]
        labels = [int(label == "hateful") for label in batch["label"]]
        return {**tokenizer(batch["text"], truncation=True, max_length=64), "labels": labels, "group": groups}

    halves = rows.map(encode, batched=True, remove_columns=rows.column_names).train_test_split(0.5, seed=seed)
    return halves["train"], halves["test"], names


def hate_speech(weight: float, seed: int, data_dir: str, model: str) -> dict[str, Any]:
    """Trains with a weight of fairness, and measures the spread of equal opportunity over the groups and accuracy."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    train, test, names = hatecheck(data_dir, tokenizer, seed)
    set_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = FairTrainer(
            AutoModelForSequenceClassification.from_pretrained(model, num_labels=2, dtype="float32"),
            TrainingArguments(
                folder,
                num_train_epochs=EPOCHS,
                per_device_train_batch_size=BATCH,
                per_device_eval_batch_size=128,
                learning_rate=RATE,
                warmup_steps=0.1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                seed=seed,
            ),
            train_dataset=train,
            data_collator=DataCollatorWithPadding(tokenizer),
            fairness=GroupFairness("eop", len(names)),
            fairness_weight=weight,
            fairness_window=WINDOW,
        )
        trainer.train()
        return {part: measured(trainer, rows, len(names)) for part, rows in (("train", train), ("test", test))}


def measured(trainer: Trainer, rows: Any, groups: int) -> dict[str, Any]:
    found = trainer.predict(rows)
    scores = torch.tensor(found.predictions).softmax(-1)[:, 1]
    soft, decided = GroupFairness("eop", groups), GroupFairness("eop", groups, threshold=0.5)
    for fairness in (soft, decided):
        fairness.update(scores, rows["labels"][:], rows["group"][:])
    right = (scores >= 0.5).numpy() == np.array(rows["labels"][:])
    return {
        "spread": round(soft.value(), 4),
        "spread_decisions": round(decided.value(), 4),
        "accuracy": round(float(right.mean()), 4),
        "rates": [round(rate, 4) for rate in soft.rates().tolist()],
    }
