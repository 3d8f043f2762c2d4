"""Turns the scores of rows into one answer per input."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...knowledge import KnowledgeBase
from ...objectives import head_kind


def decode_answers(
    knowledge: KnowledgeBase,
    chosen: Sequence[int],
    scores: Sequence[np.ndarray],
    table: Mapping[str, Sequence[Any]],
    sources: Sequence[Any],
) -> list[dict[str, Any]]:
    """Turns the scores of rows, which different groups may have answered, into one answer per input.

    An input with several windows is answered by the task that most of its windows chose (in a tie, the first).

    Args:
        chosen (`list[int]`): Position of the task that answered each row.
        scores (`list[np.ndarray]`): Scores `[D, C]` of each row; sizes may differ.
        table (`dict`): Columns of the rows: `example` (position of the input), and `offsets` and `words` if they
            apply.
        sources (`list`): The text or words from which each input's answer is cut (`HeadKind.decode_rows`).

    Returns:
        Per input `task` (position), `rows` (those that answered it), `answer`, `score`, and the fields that the kind
        adds. `answer` is `None` if the input lacks columns that the task's kind needs.
    """
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row, example in enumerate(table["example"]):
        rows_of[int(example)].append(row)
    of_task: dict[int, list[int]] = defaultdict(list)
    answers: list[dict[str, Any]] = [{} for _ in sources]
    for example, rows in sorted(rows_of.items()):
        votes = [chosen[row] for row in rows]
        task = max(dict.fromkeys(votes), key=votes.count)
        answers[example] = {"task": task, "rows": [r for r in rows if chosen[r] == task], "answer": None, "score": 0.0}
        of_task[task].append(example)
    for task, examples in of_task.items():
        learned = knowledge.tasks[task]
        kind = head_kind(learned.kind)
        if not all(name in table for name in kind.extras):
            continue
        rows = [row for example in examples for row in answers[example]["rows"]]
        position = {example: i for i, example in enumerate(examples)}
        columns = {name: [table[name][row] for row in rows] for name in kind.extras}
        columns["example"] = [position[int(example)] for example in columns["example"]]
        task_sources = [sources[example] for example in examples]
        stacked = stack_padded([scores[r] for r in rows])
        decoded = kind.decode_rows(stacked, columns, task_sources, learned.labels, learned.constants)
        for example, answer in zip(examples, decoded, strict=True):
            answers[example] |= answer
    return answers


def stack_padded(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks `[D, C]` arrays of different sizes, zero padded: `[rows, D, C]`, float32."""
    size = [max(a.shape[axis] for a in arrays) for axis in (0, 1)]
    out = np.zeros((len(arrays), *size), dtype=np.float32)
    for i, a in enumerate(arrays):
        out[i, : a.shape[0], : a.shape[1]] = a
    return out
