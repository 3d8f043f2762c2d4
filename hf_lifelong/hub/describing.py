"""Describes a saved adapter without loading its base or reading its tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..evaluation import AccuracyMatrix, format_score, summary_line, to_text
from ..knowledge import CHANCE, LearnedTask
from .markdown import clean, plain, size
from .saved import TENSORS, SavedAdapter, task_sizes

RETRIEVAL = ("retrieval", "uncertainty", "answer", "per_batch", "signature_rank", "signature_size")
SHOWN_LABELS = 4
SHOWN_TASKS = 20


def describe(saved: SavedAdapter) -> dict[str, Any]:
    """Everything known about a saved adapter, safe for JSON.

    Args:
        saved ([`SavedAdapter`]): As `hub.pull` returns it.

    Returns:
        `dict`: `name`, `commit`, `base`, `task_type`, `trunk` (layers), `r`, `settings` (retrieval and signature),
        `groups`, `tasks` (the manifest's records, each with its `size` in bytes), `scores` (the accuracy matrix),
        `summary` (its metrics) and `size` (bytes of the tensors' file).
    """
    knowledge, config = saved.knowledge, saved.config
    matrix = AccuracyMatrix.from_dict(knowledge.scores) if knowledge.scores else None
    sizes = task_sizes(saved.folder / TENSORS, knowledge)
    return {
        "name": saved.repo_id or str(saved.folder),
        "commit": saved.commit,
        "base": {**knowledge.base, "name": config["base_model_name_or_path"]},
        "task_type": config.get("task_type"),
        "trunk": knowledge.trunk,
        "r": config["r"],
        "settings": {name: config.get(name) for name in RETRIEVAL},
        "groups": knowledge.groups,
        "tasks": [{**task, "size": sizes[task["name"]]} for task in knowledge.to_dict()["tasks"]],
        "scores": knowledge.scores,
        "summary": matrix.summary() if matrix is not None else {},
        "size": saved.sizes[TENSORS],
    }


def to_report(saved: SavedAdapter) -> str:
    """The description of a saved adapter as lines of text for readers."""
    facts = describe(saved)
    base, settings = facts["base"], facts["settings"]
    members = "full weights" if facts["r"] == "full" else f"rank {facts['r']}"
    lines = [
        clean(facts["name"], 200) + (f" at commit {facts['commit']}" if facts["commit"] else ""),
        f"base:      {clean(base['name'], 200)}",
        f"adapter:   {members} above a trunk of {facts['trunk']} layers, {size(facts['size'])}",
        f"retrieval: {clean(str(settings['retrieval']), 20)}, answers {clean(str(settings['answer']), 20)}",
    ]
    if not facts["tasks"]:
        return "\n".join([*lines, "No task has been learned yet."])
    architecture = f"{clean(base['model_type'], 40)}, {base['layers']} layers of {base['hidden_size']}"
    lines[1] += f" ({architecture}, {base['dtype']})"
    members = sum(task["members"] for task in facts["tasks"])
    lines += [f"{len(facts['tasks'])} tasks in {len(facts['groups'])} groups, {members} members:", ""]
    lines += _table(facts["tasks"])
    lines += _statistics(saved.knowledge.tasks)
    for task in saved.knowledge.tasks:
        if task.at_chance:
            scores = f"{format_score(task.score)}, its most frequent answer alone {format_score(task.baseline)}"
            lines += ["", f"Not learned: {clean(task.name, 40)} scores {scores}. {CHANCE}"]
    if facts["scores"]:
        matrix = AccuracyMatrix.from_dict(facts["scores"])
        if matrix.numbers:
            numbers = (f"{clean(name, 60)} {plain(number)}" for name, number in matrix.numbers.items())
            lines += ["", f"All tasks together: {', '.join(numbers)}"]
        small = len(matrix.tasks) <= SHOWN_TASKS
        lines += ["", to_text(matrix) if small else f"{summary_line(matrix)} (the matrix is in `--json`)"]
    else:
        lines += ["", "No scores: none were measured since a task was forgotten, or at all."]
    return "\n".join(lines)


def _table(tasks: Sequence[dict[str, Any]]) -> list[str]:
    head = ("task", "kind", "group", "members", "own score", "size", "started from", "labels")
    rows = [
        (
            clean(task["name"], 40),
            clean(task["kind"], 40),
            clean(task["group"], 40),
            str(task["members"]),
            format_score(task["score"]),
            size(task["size"]),
            clean(task["started_from"], 40) if task["started_from"] else "fresh",
            _labels(task["labels"]) + (f" (added to {clean(task['extends'], 40)})" if "extends" in task else ""),
        )
        for task in tasks
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows))
    return [line.rstrip() for line in lines]


def _statistics(tasks: Sequence[LearnedTask]) -> list[str]:
    """The findings of each task's statistics."""
    lines = [
        f"{clean(task.name, 40)}, {record.name}: "
        + ", ".join(f"{clean(name, 60)} {clean(plain(finding), 200)}" for name, finding in record.shown)
        for task in tasks
        for record in task.statistics
    ]
    return ["", *lines] if lines else []


def _labels(labels: Sequence[str]) -> str:
    shown = ", ".join(clean(label, 20) for label in labels[:SHOWN_LABELS])
    return shown if len(labels) <= SHOWN_LABELS else f"{shown} and {len(labels) - SHOWN_LABELS:,} more"
