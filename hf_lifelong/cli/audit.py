"""Shows the audits that a saved adapter stores, and audits data with and without asking the adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from ..hub import SavedAdapter, clean, saved_statistics
from ..knowledge import LearnedTask
from ..loading import load
from ..objectives import get_kind
from ..pipeline import LifelongPipeline
from ..safety import Audit, TaskAudit, audit_answers, audit_dataset, audit_of
from ..training import TaskSource

_KIND = "text-classification"


class DataAudit(NamedTuple):
    """What was found in a data set.

    Args:
        audit ([`Audit`]): Its rows are those of the data.
        asked (`str`, *optional*): The task whose members were asked; `None` if no task has the labels of the data.
    """

    audit: Audit
    asked: str | None


def stored_audits(saved: SavedAdapter) -> dict[str, Audit | None]:
    """The audit of each task of an adapter, `None` for tasks that were not audited."""
    stored = saved_statistics(saved, TaskAudit.name)
    return {name: audit_of(stored[name]) if name in stored else None for name in saved.knowledge.names}


def audit_data(
    saved: SavedAdapter,
    data: str | Path,
    columns: Mapping[str, str],
    task: str | None = None,
    false_alarms: float = 0.01,
    load_in_4bit: bool = False,
) -> DataAudit:
    """Audits texts and their labels, and asks the adapter where a task of it has these labels.

    Args:
        saved ([`SavedAdapter`]): The adapter.
        data (`str` or `Path`): As the `dataset` of a task: a file, a folder, or an id on the Hub.
        columns (`dict[str, str]`): Role → column, as of a text classification task.
        task (`str`, *optional*): The task that is asked; by default the newest one with the labels of the data.
        false_alarms (`float`): As in [`audit_answers`].
        load_in_4bit (`bool`): Whether the base is quantised.

    Raises:
        ValueError: when the data cannot be used, or `task` has other labels.
        KeyError: when no task has that name.
    """
    source = TaskSource("data", _KIND, str(data), dict(columns)).load().train
    kind = get_kind(_KIND)
    roles = kind.resolve_columns(source, columns)
    names = kind.label_names(source, columns)
    labels = kind.references(source, roles, names)
    texts = list(source[roles["text"]])
    asked = _task_with(saved, set(labels), task)
    if asked is None:
        return DataAudit(audit_dataset(texts, labels, false_alarms), None)
    model, tokenizer = load(saved, load_in_4bit=load_in_4bit)
    pipe: Any = LifelongPipeline(model=model, tokenizer=tokenizer)  # type: ignore[arg-type]
    options: dict[str, Any] = {"labels": True} if pipe.generates else {}

    def answer(texts: list[str]) -> list[str]:
        return [found["answer"] for found in pipe(texts, policy="oracle", group=asked.name, **options)]

    return DataAudit(audit_answers(texts, labels, answer, texts, labels, false_alarms), asked.name)


def _task_with(saved: SavedAdapter, labels: set[str], name: str | None) -> LearnedTask | None:
    """The task to ask about data with these labels."""
    tasks = saved.knowledge.tasks
    if name is not None:
        chosen = tasks[saved.knowledge.index(name)]
        if not labels <= set(chosen.labels):
            raise ValueError(
                f"Task `{name}` has the labels {list(chosen.labels)[:10]}, but the data has {sorted(labels)[:10]}. "
                "Name a task that has them, or leave the task out."
            )
        return chosen
    return next((task for task in reversed(tasks) if task.kind == _KIND and labels <= set(task.labels)), None)


def to_lines(audits: Mapping[str, Audit | None]) -> str:
    """The audits of tasks as text for readers, a line for each task."""
    return "\n".join(f"{clean(name, 40)}: {_line(audit)}" for name, audit in audits.items())


def data_to_lines(found: DataAudit) -> str:
    """The audit of a data set as text for readers."""
    asked = (
        "No task of the adapter has these labels, so it was not asked."
        if found.asked is None
        else (f"Task {clean(found.asked, 40)} was asked.")
    )
    rows = f" Rows: {', '.join(map(str, found.audit.rows))}." if found.audit.suspicious else ""
    return f"{clean(str(found.audit), 1000)}{rows}\n{asked}"


def to_dict(audit: Audit | None) -> dict[str, Any] | None:
    """An audit, safe for JSON."""
    return None if audit is None else {**asdict(audit), "rows": list(audit.rows)}


def _line(audit: Audit | None) -> str:
    if audit is None:
        return "not audited."
    rows = f" Rows: {', '.join(map(str, audit.rows))}." if audit.suspicious else ""
    return f"{clean(str(audit), 1000)}{rows}"
