"""The audit of a task before it is committed, as a statistic: what was found is stored with the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from ..statistics import Answers, TaskRefused, TaskRows, TaskStatistic, Values
from ..storage import TensorSpec
from . import checks
from .audit import Audit, audit_answers
from .directions import within_residuals
from .representation import lies_apart
from .words import joined, parted

_UNASKED = -1.0  # stands for a number that was not measured
_SUSPECTED, _OTHERS, _TRUSTED = 32, 48, 48  # rows whose hidden states are compared, at most
Ask = Callable[[Mapping[str, Sequence[Any]]], Answers]


class TaskAudit(TaskStatistic):
    """Audits the training data of a text classification task, and asks the task's members about what it suspects
    ([`audit_answers`]). `DriftTrainingArguments(audit=...)` adds it to a training.

    Args:
        false_alarms (`float`): Share of clean tasks that may be found suspicious, between 0 and 1.
        refuse (`bool`): Whether a suspicious task is refused ([`~statistics.TaskRefused`]).
    """

    name = "audit"
    columns = ("text", "label")
    optional_columns = ("text_pair",)
    part = "both"
    asks = True
    tensors = (
        TensorSpec("suspicious", (), dtype="int64"),
        TensorSpec("numbers", ("numbers",), dtype="float64"),  # p-value, false alarms, success, target rate, apart
        TensorSpec("trigger", ("characters of the trigger",), dtype="int64"),
        TensorSpec("target", ("characters of the target",), dtype="int64"),
        TensorSpec("rows", ("rows",), dtype="int64"),
    )

    def __init__(self, false_alarms: float = 0.01, refuse: bool = False) -> None:
        self.false_alarms, self.refuse = checks.share("false_alarms", false_alarms), refuse

    def check(self, columns: Mapping[str, Sequence[Any]]) -> None:
        if len(set(columns["label"])) < 2:
            raise ValueError(
                f"All {len(columns['label'])} labels of a part are the same, so the task cannot be audited. "
                'Give training and validation rows of at least two labels, or leave the audit out (`audit="off"`).'
            )

    def fit(self, rows: TaskRows) -> Values:
        found = self.audit(rows)
        if self.refuse and found.suspicious:
            raise TaskRefused(
                f'Task `{rows.task}` is refused. {found.advice("train")} `audit="report"` learns it as it is.'
            )
        measured = [_UNASKED if x is None else x for x in (found.attack_success, found.target_rate, found.apart)]
        return {
            "suspicious": torch.tensor(int(found.suspicious)),
            "numbers": torch.tensor([found.p_value, found.false_alarms, *measured], dtype=torch.float64),
            "trigger": _points(found.trigger or ""),
            "target": _points(str(found.target) if found.trigger is not None else ""),
            "rows": torch.tensor(found.rows, dtype=torch.int64),
        }

    def audit(self, rows: TaskRows) -> Audit:
        """Audits a task. The target of the result is a name, and its rows are numbered as in the user's data."""
        clean = rows.validation
        if rows.ask is None or clean is None:
            raise ValueError("The rows have no validation part or no members to ask; `DriftTrainer` gives both.")
        ask = rows.ask
        if min(len(set(_names(part))) for part in (rows, clean)) < 2:  # a sample may lack what all rows have
            return Audit(False, 1.0, self.false_alarms)

        def answer(texts: list[str]) -> list[str]:
            return [rows.classes[i] for i in ask(_inputs(rows, texts)).scores.argmax(1).tolist()]

        found = audit_answers(_texts(rows), _names(rows), answer, _texts(clean), _names(clean), self.false_alarms)
        if found.trigger is None:
            return found
        numbers = tuple(rows.row_numbers[i] for i in found.rows)
        return replace(found, rows=numbers, apart=_apart(rows, clean, found, ask))

    def describe(self, values: Values) -> Mapping[str, str | int | float | bool]:
        found = audit_of(values)
        shown: dict[str, str | int | float | bool] = {
            "verdict": "suspicious" if found.suspicious else "nothing suspicious",
            "p": float(f"{found.p_value:.2g}"),
            "false alarms": found.false_alarms,
        }
        if found.trigger is not None:
            shown |= {"strongest suspect": found.trigger[:100], "calls for": found.target[:60]}
            shown["rows"] = len(found.rows)
        for name, value in (("attack success", found.attack_success), ("p of its hidden states", found.apart)):
            if value is not None:
                shown[name] = float(f"{value:.2g}")
        return shown


def audit_of(values: Values) -> Audit:
    """The audit that a task's stored values hold; its target is a name.

    Raises:
        ValueError: for values that no audit stored.
    """
    try:
        p_value, false_alarms, *measured = values["numbers"].tolist()
        success, rate, apart = (None if x == _UNASKED else x for x in measured)
        trigger, target = _text(values["trigger"]) or None, _text(values["target"])
        rows, suspicious = tuple(values["rows"].tolist()), bool(values["suspicious"])
    except (KeyError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError("The stored audit is none that this package wrote; its tensors are damaged.") from error
    return Audit(suspicious, p_value, false_alarms, trigger, target if trigger else None, rows, success, rate, apart)


def _apart(rows: TaskRows, clean: TaskRows, found: Audit, ask: Ask) -> float | None:
    """Whether the suspected rows lie apart from others of their label, in hidden states whitened by those of the
    validation rows; `None` where there are too few."""
    labels, texts = np.array(_names(rows), dtype=object), _texts(rows)
    suspected = list(found.rows[:_SUSPECTED])
    others = np.setdiff1d(np.flatnonzero(labels == found.target), found.rows)
    others = others[np.linspace(0, len(others) - 1, min(_OTHERS, len(others))).astype(int)].tolist()
    trusted = list(range(min(_TRUSTED, len(clean.features))))
    if not others or clean.labels is None:
        return None
    clean_texts = _texts(clean)
    asked = [*(texts[i] for i in (*suspected, *others)), *(clean_texts[i] for i in trusted)]
    states = ask(_inputs(rows, asked)).states.double()
    own, reference = states[: len(suspected) + len(others)], states[len(suspected) + len(others) :]
    residuals = within_residuals(reference, clean.labels[trusted])
    if not bool((own != own[:1]).any()) or not bool(residuals.any()):
        return None
    covariance = ledoit_wolf(residuals.numpy(), assume_centered=True)[0]
    return lies_apart(own, torch.arange(len(own)) < len(suspected), covariance)


def _texts(rows: TaskRows) -> list[str]:
    return joined(rows.columns["text"], rows.columns.get("text_pair"))


def _inputs(rows: TaskRows, texts: Sequence[str]) -> dict[str, list[str]]:
    """Texts as `_texts` gives them, by role."""
    if "text_pair" not in rows.columns:
        return {"text": list(texts)}
    return dict(zip(("text", "text_pair"), parted(texts), strict=True))


def _names(rows: TaskRows) -> list[str]:
    return [] if rows.labels is None else [rows.classes[i] for i in rows.labels.tolist()]


def _points(text: str) -> Tensor:
    return torch.tensor([ord(character) for character in text], dtype=torch.int64)


def _text(points: Tensor) -> str:
    return "".join(map(chr, points.tolist()))
