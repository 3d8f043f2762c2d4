"""Rows of unlike texts one after another, small trainers that learn them, and a detector that knows the boundaries."""

from __future__ import annotations

import random
from typing import Any

import torch
from peft import get_peft_model
from transformers import AutoModel

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments
from hf_lifelong.streams import Verdict
from hf_lifelong.training import StreamCallback, unannounced

WORDS = {
    "film": ("film actor scene plot director screen drama role", ("bad", "good")),
    "money": ("shares bank market profit prices stock trade bonds", ("down", "up")),
    "match": ("goal team season coach player cup league fans", ("lost", "won")),
}
SAME = Verdict("same", None, None, 0.1)


def rows(topic: str, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts of a topic; the last word is the label."""
    draw, (words, labels) = random.Random(f"{topic}/{seed}"), WORDS[topic]
    found = []
    for _ in range(count):
        label = draw.choice(labels)
        found.append({"text": " ".join([*draw.choices(words.split(), k=5), label]), "label": label})
    return found


def unlabelled(topic: str, count: int, seed: int = 0) -> list[dict[str, Any]]:
    return [{**row, "label": None} for row in rows(topic, count, seed)]


def announced(boundaries: dict[int, Verdict]) -> type:
    """A detector that finds these boundaries, each after so many inputs."""

    class Announced:
        def __init__(self, known, current=None, expected_run=2000):
            self.known, self.current, self.seen = dict(known), current, 0
            self.sum = torch.zeros(())

        def update(self, features):
            self.seen += 1
            self.sum = self.sum + features.double().sum()
            return boundaries.get(self.seen, SAME)

        def begin(self, name):
            assert name is None or name in self.known
            self.current = name

        def learn(self, name, reference):
            self.known[name] = reference

        def state_dict(self):
            return {"known": sorted(self.known), "current": self.current, "seen": self.seen, "sum": self.sum}

        def load_state_dict(self, state):
            assert state["known"] == sorted(self.known)
            self.current, self.seen, self.sum = state["current"], state["seen"], state["sum"]

    return Announced


def announce(monkeypatch, **boundaries: tuple[str, str | None, int]) -> None:
    """Lets streams be learned with boundaries that are known: `at_150=("new", None, 140)`."""
    told = {int(at.removeprefix("at_")): Verdict(*verdict, 1.5) for at, verdict in boundaries.items()}
    monkeypatch.setattr(unannounced, "BoundaryDetector", announced(told))


class Heard(StreamCallback):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.boundaries, self.answers = [], []

    def on_boundary(self, boundary):
        self.boundaries.append(boundary)

    def on_answers(self, answers):
        self.answers += answers


def make_model(folder, **config):
    torch.manual_seed(0)
    base = AutoModel.from_pretrained(folder, dtype=torch.float32)
    return get_peft_model(
        base, DriftAdapterConfig(r=4, members=2, max_length=32, stride=4, signature_rank=4, **config)
    )


def make_trainer(
    model, folder, stream, tokenizer, *, kind="text-classification", columns=None, callbacks=(), **arguments
):
    settings = {
        "max_steps": 6,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 16,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "logging_steps": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "stream_least": 10,
        "stream_save_steps": 25,
    }
    args = DriftTrainingArguments(str(folder), **{**settings, **arguments})
    options = {"stream": stream, "kind": kind, "columns": columns, "callbacks": list(callbacks)}
    return DriftTrainer(model, args, processing_class=tokenizer, **options)
