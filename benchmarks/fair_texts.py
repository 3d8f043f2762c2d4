"""HateCheck by the people that its texts are about: an encoder as it is, and a logistic head that `Trainer` trains."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, Trainer, TrainingArguments, set_seed

from hf_lifelong.fairness import FairTrainerMixin, GroupFairness

EPOCHS, BATCH, RATE, WINDOW = 20, 64, 3e-3, 20


class FairTrainer(FairTrainerMixin, Trainer):
    pass


class Head(nn.Module):
    """Logistic regression on the encoder's features."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 2)

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.linear(inputs)
        loss = {} if labels is None else {"loss": nn.functional.cross_entropy(logits, labels)}
        return {**loss, "logits": logits}


@functools.cache
def features(data_dir: str, model: str) -> tuple[Dataset, list[str]]:
    """The mean of the last hidden states of each text, and the names of the groups; rows about nobody are of none."""
    rows = load_dataset(str(Path(data_dir, "hatecheck")))["train"]
    names = sorted({name for name in rows["target"] if name})
    tokenizer, encoder = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model, dtype=torch.float32)

    @torch.no_grad()
    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        inputs = tokenizer(batch["text"], truncation=True, max_length=64, padding=True, return_tensors="pt")
        mask = inputs["attention_mask"][..., None]
        states = encoder(**inputs).last_hidden_state * mask
        return {
            "inputs": (states.sum(1) / mask.sum(1)).numpy(),
            "labels": [int(label == "hateful") for label in batch["label"]],
            "group": [names.index(name) if name else -100 for name in batch["target"]],
        }

    return rows.map(encode, batched=True, batch_size=64, remove_columns=["text", "label", "target"]), names


def halves(rows: Dataset, seed: int) -> dict[str, Dataset]:
    """Training and test rows, about half each. A sentence that is repeated for every group is in one of them, so that
    in both parts all groups have the same sentences."""
    frame = rows.select_columns(["functionality", "group"]).to_pandas()
    # Within a functionality each group has the sentences in the same order.
    sentence = frame["functionality"] + frame.groupby(["functionality", "group"]).cumcount().astype(str)
    names = sorted(set(sentence))
    which = sentence.isin([names[i] for i in np.random.default_rng(seed).permutation(len(names))[::2]]).to_numpy()
    parts = {"train": which, "test": ~which}
    return {part: rows.select(np.flatnonzero(of)).remove_columns("functionality") for part, of in parts.items()}


def hate_speech(weight: float, seed: int, data_dir: str, model: str) -> dict[str, Any]:
    """Trains on half of the sentences with a weight of fairness, and measures both halves."""
    rows, names = features(data_dir, model)
    parts = {part: of_part.with_format("torch") for part, of_part in halves(rows, seed).items()}
    set_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        trainer = FairTrainer(
            Head(len(rows[0]["inputs"])),
            TrainingArguments(
                folder,
                num_train_epochs=EPOCHS,
                per_device_train_batch_size=BATCH,
                per_device_eval_batch_size=1024,
                learning_rate=RATE,
                logging_strategy="no",
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                use_cpu=True,
                seed=seed,
            ),
            train_dataset=parts["train"],
            fairness=GroupFairness("eop", len(names)),
            fairness_weight=weight,
            fairness_window=WINDOW,
        )
        trainer.train()
        return {part: measured(trainer, of_part, len(names)) for part, of_part in parts.items()}


def measured(trainer: Trainer, rows: Dataset, groups: int) -> dict[str, Any]:
    """The spread of equal opportunity over the groups, of soft scores and of decisions, and accuracy."""
    scores = torch.tensor(trainer.predict(rows).predictions).softmax(-1)[:, 1]
    soft, decided = GroupFairness("eop", groups), GroupFairness("eop", groups, threshold=0.5)
    for fairness in (soft, decided):
        fairness.update(scores, rows["labels"][:], rows["group"][:])
    right = (scores >= 0.5).numpy() == np.asarray(rows["labels"][:])
    return {
        "spread": round(soft.value(), 4),
        "spread_decisions": round(decided.value(), 4),
        "accuracy": round(float(right.mean()), 4),
        "rates": [round(rate, 4) for rate in soft.rates().tolist()],
    }
