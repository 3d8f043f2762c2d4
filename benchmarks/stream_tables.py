"""Tables of what is kept of the streams in `results/streams`. `tables.py` writes them into the pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import images
import numpy as np
from cells import line, short, table
from lifelong import MAIN
from stream_figures import ABLATIONS, BOUNDS, IMAGE_NAMES, NAMES, TOLD, accuracies, listed, mean_of, results, told

Found = dict[str, dict[str, Any]]
"""Stream → its record."""

# Other figures below a table: label, method, key.
FIGURES = (
    ("hf_lifelong: forgetting ↓", "ours", "forgetting"),
    ("LDA: forgetting ↓", "lda", "forgetting"),
    ("hf_lifelong: forward transfer ↑", "ours", "fwt"),
    ("hf_lifelong: right group chosen ↑", "ours", "retrieval_accuracy"),
)


def full_budget(folder: Path) -> list[str]:
    return comparison(full(folder), "average accuracy ↑")


def full_budget_told(folder: Path) -> list[str]:
    scores = {stream: told(result) for stream, result in full(folder).items()}
    return means(scores, TOLD, "told the task of every input, average accuracy ↑")


def small_budget(folder: Path) -> list[str]:
    return comparison(small(folder), "average accuracy ↑, small budget")


def one_thing_changed(folder: Path) -> list[str]:
    return changed(small(folder))


def other_orders(folder: Path) -> list[str]:
    return orders(small(folder))


def of_images(folder: Path) -> list[str]:
    found = results(folder / "streams" / "images", images.STREAMS)
    return comparison(found, "average accuracy ↑", IMAGE_NAMES, "images")


def full(folder: Path) -> Found:
    return results(folder / "streams" / "full", MAIN)


def small(folder: Path) -> Found:
    return results(folder / "streams" / "small", MAIN)


def means(scores: dict[str, dict[str, list[float]]], names: dict[str, str], head: str) -> list[str]:
    """Lines of a table: means by row and stream, the best of what a stream allows in bold."""
    of = {stream: {n: round(float(np.mean(v)), 3) for n, v in column.items()} for stream, column in scores.items()}
    marked = [name for name in names if name not in BOUNDS]
    highest = {stream: max((of[stream][n] for n in marked if n in of[stream]), default=None) for stream in scores}
    most = {stream: max(map(len, column.values()), default=0) for stream, column in scores.items()}

    def cell(name: str, stream: str) -> str:
        if name not in scores[stream]:
            return "·"
        value = of[stream][name]
        text = f"**{short(value)}**" if name in marked and value == highest[stream] else short(value)
        return f"{text}¹" if len(scores[stream][name]) == 1 < most[stream] else text

    rows = [name for name in names if any(name in column for column in scores.values())]
    return table(heads(head, scores), ([names[name], *(cell(name, stream) for stream in scores)] for name in rows))


def heads(first: str, streams: Any) -> list[str]:
    return [first, *(f"*{stream}*" for stream in streams)]


def shown(value: float | None) -> str:
    return "·" if value is None else short(value)


def seeds_of(found: Found) -> str:
    """How many seeds the figures are of, in words."""
    most = {max(map(len, accuracies(result).values())) for result in found.values()}
    if most == {1}:
        return "Of one seed"
    return f"Means of {' to '.join(map(str, sorted(most)))} seeds; ¹ of the first alone"


def budgets_of(found: Found, rows: str) -> str:
    """How much each stream's tasks were trained on and tested with, in words."""
    sizes = {stream: (r["budget"]["train_texts"], r["budget"]["test_texts"]) for stream, r in found.items()}
    alike = {size: [stream for stream in sizes if sizes[stream] == size] for size in dict.fromkeys(sizes.values())}
    return "; ".join(
        f"{', '.join(streams)}: up to {train} training and {test} test {rows} a task"
        for (train, test), streams in alike.items()
    )


def comparison(found: Found, head: str, names: dict[str, str] = NAMES, rows: str = "texts") -> list[str]:
    """Lines of the table of all methods, and how it was measured."""
    models = ", ".join(sorted({result["model"] for result in found.values()}))
    lines = means({stream: accuracies(result) for stream, result in found.items()}, names, head)
    for label, method, key in FIGURES:
        values = [mean_of(listed(result), method, key) for result in found.values()]
        if any(value is not None for value in values):
            lines.append(line(f"*{label}*", *map(shown, values)))
    return [*lines, "", f"{seeds_of(found)}; {models}; 3 epochs; {budgets_of(found, rows)}."]


def changed(found: Found) -> list[str]:
    """Lines of a table: ours with one thing changed, of the streams where that was run."""
    ablated = set(ABLATIONS) - {"ours"}
    scores = {stream: accuracies(r) for stream, r in found.items() if ablated & {row["method"] for row in listed(r)}}
    return means(scores, ABLATIONS, "one thing changed, average accuracy ↑")


def orders(found: Found) -> list[str]:
    """Lines of a table: average accuracy of ours by the order of the tasks, of the streams that have several."""
    drawn = {stream: result for stream, result in found.items() if len(listed(result)) < len(result["rows"])}
    rows = []
    for number in sorted({row["order"] for result in drawn.values() for row in result["rows"]}):
        parts = [[row for row in result["rows"] if row["order"] == number] for result in drawn.values()]
        figures = [shown(mean_of(part, "ours", "average_accuracy")) for part in parts]
        rows.append([f"drawn, {number}" if number else "as listed", *figures])
    return table(heads("order of the tasks, average accuracy ↑", drawn), rows)
