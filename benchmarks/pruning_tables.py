"""Tables of pruned networks that were trained from scratch. `tables.py` writes them into the pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from cells import Record, percent, read, short, table

NETWORKS = {"mlp mnist": "MLP", "cnn mnist": "CNN, MNIST", "cnn cifar10": "CNN, CIFAR-10"}
RULES = {
    f"sap({key}) {scope}": f"SAP ({name}), {scope}"
    for key, name in ((".5,1", ".5, 1"), ("1,2", "1, 2"))
    for scope in ("neuron", "layer", "global")
} | {
    "lottery ticket": "lottery ticket, 20 % a round",
    "one shot": "one shot, 20 % a round",
    "tail": "`Tail(0.1)`",
}
LEAST_RISE = 0.005
"""Of a PQ Index that is said to rise."""
LEARNED = 0.99
"""Accuracy on its training images of a network that learns them."""


def remaining(folder: Path) -> list[str]:
    """What is left after the last pruning, with the accuracy on training and test images."""

    def cell(rows: list[Record]) -> str:
        left, train, test = (curve(rows, key)[-1] for key in ("remaining", "train", "test"))
        return f"{percent(left, 1)}: {short(train)} / {short(test)}"

    return by_network(folder, cell)


def index_course(folder: Path) -> list[str]:
    """How the PQ Index falls and rises over the rounds, and from which round on a network no longer learns."""

    def cell(rows: list[Record]) -> str:
        course, train = curve(rows, "pq(.5,1)"), curve(rows, "train")
        fails = next((str(i) for i, value in enumerate(train) if i and value < LEARNED), "–")
        return f"{in_words(course)}; {fails}"

    return by_network(folder, cell)


def by_network(folder: Path, cell: Callable[[list[Record]], str]) -> list[str]:
    found = read(folder, "pruning_scratch")["rows"]

    def rows(network: str, rule: str) -> list[Record]:
        return [row for row in found if (row["cell"], row["method"]) == (network, rule)]

    lines = ([label, *(cell(rows(network, rule)) for network in NETWORKS)] for rule, label in RULES.items())
    return table(["", *NETWORKS.values()], lines)


def curve(rows: list[Record], key: str) -> list[float]:
    """A figure of each round, mean over seeds."""
    return np.mean([[point[key] for point in row["points"]] for row in rows], 0).round(9).tolist()


def in_words(course: list[float]) -> str:
    """The lowest value before the largest rise, the highest after it, and the last, with their rounds."""
    last = len(course) - 1
    peak = max(range(len(course)), key=lambda i: course[i] - min(course[: i + 1]))
    valley = min(range(peak + 1), key=course.__getitem__)
    if course[peak] - course[valley] < LEAST_RISE:
        return f"falls to {short(course[-1])}"
    end = "" if peak == last else f" → {short(course[-1])}"
    return f"{short(course[valley])} ({valley}) → {short(course[peak])} ({peak}){end}"
