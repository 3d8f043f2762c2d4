"""Trunk features of the text sets whose boundaries `boundaries.py` looks for, computed once and kept in a folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_dataset
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from streams import load_task
from transformers import AutoModel, AutoTokenizer
from unknown import features_of

from hf_lifelong import DriftAdapterConfig

TEN = [
    *("ag_news", "amazon5", "banking77", "boolq", "dbpedia14", "imdb", "newsgroups20", "sms_spam", "sst2", "trec"),
]
# Reviews, of films and of wares.
LOOKALIKES = ["sst2", "imdb", "amazon5", "sentiment_sentences"]
ROWS = 2000
SEGMENT = 300


@dataclass(frozen=True)
class Features:
    """Features of one data set, float32.

    Args:
        train, test (`Tensor`): `[n, D]`.
        labels (`Tensor`): `[n]`, int64, class of each training row.
    """

    train: torch.Tensor
    test: torch.Tensor
    labels: torch.Tensor


def _banking(data_dir: str) -> dict[str, Any]:
    data = load_dataset(str(Path(data_dir) / "banking77"))
    parts = {part: data[part].shuffle(seed=0) for part in ("train", "test")}
    parts = {part: rows.select(range(min(ROWS, len(rows)))) for part, rows in parts.items()}
    return {**parts, "columns": {"text": "text", "label": "label"}}


def _clinc(data_dir: str) -> dict[str, dict[str, Any]]:
    """The ten domains of CLINC-150, each with its fifteen intents."""
    folder = Path(data_dir) / "clinc150"
    data, domains = load_dataset(str(folder)), json.loads((folder / "domains.json").read_text())
    names = data["train"].features["label"].names
    tasks = {}
    for domain, intents in domains.items():
        ids = {names.index(intent): i for i, intent in enumerate(intents)}
        parts = {}
        for part in ("train", "test"):
            rows = data[part].filter(lambda label, ids=ids: label in ids, input_columns="label").shuffle(seed=0)
            parts[part] = rows
        tasks[f"clinc150 {domain}"] = {**parts, "columns": {"text": "text", "label": "label"}}
    return tasks


def features(data_dir: str, model_name: str, cache: Path) -> dict[str, Features]:
    """The features of all sets, read from `cache` as far as they are there."""
    cache.mkdir(parents=True, exist_ok=True)
    names = dict.fromkeys([*TEN, *LOOKALIKES])
    tasks = {name: lambda name=name: load_task(name, data_dir, 0, ROWS, test_size=ROWS) for name in names}
    tasks["banking77"] = lambda: _banking(data_dir)
    clinc = json.loads((Path(data_dir) / "clinc150" / "domains.json").read_text())
    tasks |= {f"clinc150 {d}": lambda d=d: _clinc(data_dir)[f"clinc150 {d}"] for d in clinc}
    model, found = None, {}
    for name, load in tasks.items():
        file = cache / f"{name.replace(' ', '_')}.safetensors"
        if not file.exists():
            if model is None:
                tokenizer = AutoTokenizer.from_pretrained(model_name)
                base = AutoModel.from_pretrained(model_name, dtype=torch.float32)
                model = get_peft_model(base, DriftAdapterConfig(max_length=64, stride=16)).eval()
            task = load()
            parts = {part: features_of(model, tokenizer, task[part], task["columns"]) for part in ("train", "test")}
            classes = sorted(set(task["train"]["label"]))
            labels = torch.tensor([classes.index(label) for label in task["train"]["label"]])
            save_file({**{part: rows.contiguous() for part, rows in parts.items()}, "labels": labels}, file)
        found[name] = Features(**load_file(file))
    return found


def draw(rows: torch.Tensor, count: int, rng: np.random.Generator) -> torch.Tensor:
    """`count` rows in random order; all are taken once before any is taken again."""
    order = [rng.permutation(len(rows)) for _ in range(-(-count // len(rows)))]
    return rows[np.concatenate(order)[:count]]


def change(old: torch.Tensor, new: torch.Tensor, blur: float, rng: np.random.Generator) -> torch.Tensor:
    """A segment of `new` that follows on one of `old`. Over the first `blur` of it, inputs of both are mixed, with an
    even growing share of new ones."""
    rows, mixed = draw(new, SEGMENT, rng), round(blur * SEGMENT)
    still_old = np.flatnonzero(rng.random(mixed) > (np.arange(mixed) + 0.5) / max(mixed, 1))
    rows[still_old] = draw(old, max(len(still_old), 1), rng)[: len(still_old)]
    return rows


def pairs() -> list[tuple[str, str, str]]:
    """All changes from one set to another: which kind, from, to."""
    ten = [(a, b) for a, b in permutations(TEN, 2) if not {a, b} <= set(LOOKALIKES)]
    return [("unlike", *pair) for pair in ten] + [("lookalike", *pair) for pair in permutations(LOOKALIKES, 2)]


def visits(names: list[str], times: int, rng: np.random.Generator) -> list[str]:
    """Every set `times` times, in random order, no set twice in a row."""
    left, order = dict.fromkeys(names, times), []
    while any(left.values()):
        free = [name for name, count in left.items() if count and order[-1:] != [name]]
        if not free:
            return visits(names, times, rng)
        order.append(str(rng.choice(free)))
        left[order[-1]] -= 1
    return order
