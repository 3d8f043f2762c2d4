"""The rows of the shared matrix of behaviours: kinds of tasks on tiny bases, under different settings.

A new kind is one row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image

from hf_lifelong import Task

FILMS = ["a fine film", "a dull and slow film", "the best of the year", "nobody needs this"] * 6
PLACES = ["the weather in the north", "trains to the south are late", "a storm at sea", "a quiet town"] * 6


@dataclass(frozen=True)
class Row:
    """Args:
    name (`str`): Shown as the test's parameter.
    base (`str`): `model_type` of the tiny base.
    tasks (`Callable`): Makes the two tasks that are learned.
    ask (`Callable`): What the pipeline is given for a row of their data.
    causal (`bool`): Whether the base is a language model.
    images (`bool`): Whether the base takes images.
    config (`dict`): Of the adapter.
    arguments (`dict`): Of the training.
    dtype (`str`): Of the base.
    """

    name: str
    base: str
    tasks: Callable[[], list[Task]]
    ask: Callable[[dict[str, Any]], Any]
    causal: bool = False
    images: bool = False
    config: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)
    dtype: str = "float32"


def two(kind: str, rows: Callable[[list[str], int], dict[str, list]], names: tuple[str, str] = ("films", "places")):
    """Two tasks of a kind: the same form, other texts."""

    def make() -> list[Task]:
        made = []
        for seed, (name, texts) in enumerate(zip(names, (FILMS, PLACES), strict=True)):
            data = Dataset.from_dict(rows(texts, seed))
            made.append(Task(name, kind, data, validation=data.select(range(8)), test=data.select(range(4))))
        return made

    return make


def classes(texts: list[str], seed: int) -> dict[str, list]:
    labels = (("bad", "good"), ("early", "late", "never"))[seed]
    return {"text": texts, "label": [labels[i % len(labels)] for i in range(len(texts))]}


def questions(texts: list[str], seed: int) -> dict[str, list]:
    words = [text.split()[-1] for text in texts]
    answers = [{"text": [word], "answer_start": [text.rindex(word)]} for text, word in zip(texts, words, strict=True)]
    return {"question": ["what comes last?"] * len(texts), "context": texts, "answers": answers}


def tags(texts: list[str], seed: int) -> dict[str, list]:
    tokens = [text.split() for text in texts]
    name = ("LAST", "FIRST")[seed]
    last = [[name if i == len(words) - 1 else "O" for i in range(len(words))] for words in tokens]
    return {"tokens": tokens, "ner_tags": last}


def lengths(texts: list[str], seed: int) -> dict[str, list]:
    return {"text": texts, "label": [(100.0, -1.0)[seed] * len(text) for text in texts]}


def written(texts: list[str], seed: int) -> dict[str, list]:
    return {"prompt": texts, "completion": [text.split()[-1] for text in texts]}


def pictures() -> list[Task]:
    """Two tasks of noise in which one colour is brighter: the label."""
    made, rng = [], np.random.default_rng(0)
    for name, labels, base in (("lights", ("red", "green"), 0), ("flags", ("blue", "white", "red"), 90)):
        noise = rng.integers(base, base + 60, (24, 20, 16, 3), dtype=np.uint8)
        for i, pixels in enumerate(noise):
            pixels[..., i % len(labels)] += 100
        rows = {
            "image": [Image.fromarray(pixels) for pixels in noise],
            "label": [labels[i % len(labels)] for i in range(24)],
        }
        data = Dataset.from_dict(rows)
        made.append(
            Task(name, "image-classification", data, validation=data.select(range(8)), test=data.select(range(4)))
        )
    return made


ROWS = [
    Row("text-classification", "bert", two("text-classification", classes), lambda row: row["text"]),
    Row(
        "text-classification in bfloat16, by ensemble and cascade",
        "distilbert",
        two("text-classification", classes),
        lambda row: row["text"],
        config={"answer": "ensemble", "retrieval": "cascade"},
        dtype="bfloat16",
    ),
    Row(
        "question-answering in windows",
        "roberta",
        two("question-answering", questions),
        lambda row: {"question": row["question"], "context": row["context"]},
        config={"stride": 2, "max_length": 12},
    ),
    Row(
        "token-classification by uncertainty",
        "modernbert",
        two("token-classification", tags),
        lambda row: {"tokens": row["tokens"]},
        config={"retrieval": "uncertainty"},
    ),
    Row("text-regression", "bert", two("text-regression", lengths), lambda row: row["text"]),
    Row(
        "text-generation",
        "llama",
        two("text-generation", written),
        lambda row: row["prompt"],
        causal=True,
        config={"max_new_tokens": 8},
    ),
    Row("image-classification", "dinov2", pictures, lambda row: row["image"], images=True),
    Row(
        "text-classification with full members",
        "bert",
        two("text-classification", classes),
        lambda row: row["text"],
        config={"r": "full"},
    ),
    Row(
        "text-generation with full members",
        "gpt2",
        two("text-generation", written),
        lambda row: row["prompt"],
        causal=True,
        config={"r": "full", "max_new_tokens": 8},
    ),
    Row(
        "image-classification with full members, by ensemble and cascade",
        "vit",
        pictures,
        lambda row: row["image"],
        images=True,
        config={"r": "full", "answer": "ensemble", "retrieval": "cascade"},
    ),
    Row(
        "image-classification by ensemble and cascade",
        "vit",
        pictures,
        lambda row: row["image"],
        images=True,
        config={"answer": "ensemble", "retrieval": "cascade"},
    ),
]
