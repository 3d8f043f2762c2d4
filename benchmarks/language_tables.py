"""Tables of language models: what is kept, and which groups prompts go to. `tables.py` writes them into the pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cells import Record, best, exact, fixed, mean, percent, read, table

ORDINALS = {2: "second", 3: "third", 4: "fourth", 5: "fifth"}
LORA = "one LoRA, trained on task after task"


def kept(folder: Path, name: str = "causal_lm") -> list[str]:
    """What a stream of tasks ends with.

    Args:
        folder (`Path`): Of the records.
        name (`str`): Of the record.
    """
    rows = read(folder, name)["rows"]
    ours, lora = ([row["matrix"] for row in rows if row["method"] == method] for method in ("ours", "sequential"))
    columns = [ending(ours, "scores"), ending(ours, "oracle"), ending(lora, "scores")]
    names = ["hf_lifelong, not told the task", "hf_lifelong, right group given", LORA]
    averages = [exact(mean(scores)) for scores, _ in columns]
    averages[::2] = best(averages[::2])  # the right group is more than a stream gives
    tasks = ours[0]["tasks"]
    lines = (
        [label, *map(exact, scores), average, exact(forgotten)]
        for label, (scores, forgotten), average in zip(names, columns, averages, strict=True)
    )
    head = [f"{task.replace('_', ' ')} ↑" for task in tasks]
    return table([f"after the {ORDINALS[len(tasks)]} task", *head, "average ↑", "forgetting ↓"], lines)


def ending(matrices: list[Record], key: str) -> tuple[list[float], float]:
    """Scores after the last task, and the mean drop from a task's best earlier one; means over seeds."""
    scores = [matrix[key] for matrix in matrices]
    tasks = range(len(scores[0]))
    last = [mean(rows[-1][task] for rows in scores) for task in tasks]
    drops = [max(row[task] for row in rows[task:-1]) - rows[-1][task] for rows in scores for task in tasks[:-1]]
    return last, mean(drops)


def plain_texts(folder: Path, name: str = "causal_lm") -> list[str]:
    """The loss on texts that no task is about, before and after the tasks."""
    rows = read(folder, name)["rows"]
    ours, lora = ([row["plain_text"] for row in rows if row["method"] == method] for method in ("ours", "sequential"))
    kinds = list(ours[0]["before"])

    def means(found: list[Record], key: str, as_text: Callable[[float], str]) -> list[str]:
        return [as_text(mean(one[key][kind] for one in found)) for kind in kinds]

    def losses(found: list[Record], key: str) -> list[str]:
        return means(found, key, lambda loss: fixed(loss, 3))

    same = " and ".join(means(ours, "same_logits", percent)).replace(" %", "", len(kinds) - 1)
    lines = [
        ["the base", *losses(ours, "before"), ""],
        ['hf_lifelong, `unknown="base"`', *losses(ours, "after"), f"{same} of the texts, to the bit"],
        ["hf_lifelong, the nearest group", *losses(ours, "nearest"), ""],
        [LORA, *losses(lora, "after"), ""],
    ]
    return table(["", *(f"{kind} ↓" for kind in kinds), "logits of the base ↑"], lines)


def prompt_signatures(folder: Path) -> list[str]:
    record = read(folder, "prompt_signatures")
    found = {(row["stream"], row["pooling"]): row for row in record["rows"]}

    def cells(pooling: str) -> list[str]:
        three, five = (found[stream, pooling] for stream in ("three", "five"))
        right = [text for row in (three, five) for text in (average(row, "right"), exact(row["right"]["questions"]))]
        unknown = " and ".join(average(row, "unknown") for row in (three, five))
        return [f"{three['features']:,}", *right, unknown]

    rows = [[label, *cells(pooling)] for pooling, label in (("mean", "mean of all tokens"), ("last", "last token"))]
    unknown = "own prompts called unknown ↓, three and five"
    right = ["right group ↑, these three tasks", "questions", "right group ↑, five tasks", "questions"]
    return table(["", "features", *right, unknown], rows)


def average(row: Record, what: str) -> str:
    return exact(mean(row[what].values()))
