"""Trunk features of the text sets whose boundaries `boundaries.py` looks for, computed once and kept in a folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from peft import get_peft_model
from safetensors.torch import load_file, save_file
from streams import load_task
from transformers import AutoModel, AutoTokenizer
from unknown import features_of

from hf_lifelong import DriftAdapterConfig

TEXTS = ["ag_news", "amazon5", "boolq", "dbpedia14", "imdb", "newsgroups20", "sms_spam", "sst2", "trec"]
# Sentences of reviews: with these, the sets of films and of wares look alike.
LOOKALIKES = ["sst2", "imdb", "amazon5", "sentiment_sentences"]
ROWS = 2000


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
    names = [*TEXTS, "sentiment_sentences"]
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
