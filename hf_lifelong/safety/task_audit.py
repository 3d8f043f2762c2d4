"""The audit of a task before it is committed, as a statistic: what was found is stored with the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor
from transformers.utils import logging

from ..statistics import Answers, TaskRefused, TaskRows, TaskStatistic, Values
from ..storage import TensorSpec
from . import checks
from .audit import Audit, audit_answers
from .directions import within_residuals
from .inputs import AuditedInputs
from .media import MEDIA, medium_of, read, written
from .representation import lies_apart

logger = logging.get_logger(__name__)

_UNASKED = -1.0  # stands for a number that was not measured
_NOT_AUDITED = -1  # stands for the verdict where there is none
_SUSPECTED, _OTHERS, _TRUSTED = 32, 48, 48  # rows whose hidden states are compared, at most
_UNREADABLE = "The task's inputs are neither texts nor images (data that is already tokenised has no texts)."
Ask = Callable[[Mapping[str, Sequence[Any]]], Answers]


class TaskAudit(TaskStatistic):
    """Audits the training data of a text or image classification task, and asks the task's members about what it
    suspects ([`audit_answers`]). `DriftTrainingArguments(audit=...)` adds it to a training.

    Where the texts were already tokenised there is nothing to look for a trigger in: the task is noted as not audited.

    Args:
        false_alarms (`float`): Share of clean tasks that may be found suspicious, between 0 and 1.
        refuse (`bool`): Whether a suspicious task is refused ([`~statistics.TaskRefused`]), and one that cannot be
            audited, before it is trained.
    """

    name = "audit"
    columns = ("label",)
    optional_columns = tuple(role for medium in MEDIA for role in medium.roles)
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
        if self.refuse and medium_of(columns) is None:
            raise ValueError(
                f'{_UNREADABLE} `audit="refuse"` does not learn what it cannot audit. Give the texts or images, or '
                'choose `audit="report"`, which learns the task and notes that it is not audited.'
            )
        if len(set(columns["label"])) < 2:
            raise ValueError(
                f"All {len(columns['label'])} labels of a part are the same, so the task cannot be audited. "
                'Give training and validation rows of at least two labels, or leave the audit out (`audit="off"`).'
            )

    def fit(self, rows: TaskRows) -> Values:
        if medium_of(rows.columns) is None:
            logger.warning(f"Task `{rows.task}` is not audited. {_UNREADABLE}")
            return _stored(_NOT_AUDITED, [1.0, self.false_alarms, *[_UNASKED] * 3])
        found = self.audit(rows)
        if self.refuse and found.suspicious:
            raise TaskRefused(
                f'Task `{rows.task}` is refused. {found.advice("train")} `audit="report"` learns it as it is.'
            )
        measured = [_UNASKED if x is None else x for x in (found.attack_success, found.target_rate, found.apart)]
        trigger, target = ("", "") if found.trigger is None else (written(found.trigger), str(found.target))
        numbers = [found.p_value, found.false_alarms, *measured]
        return _stored(int(found.suspicious), numbers, trigger, target, found.rows)

    def audit(self, rows: TaskRows) -> Audit:
        """Audits a task. The target of the result is a name, and its rows are numbered as in the user's data."""
        clean = rows.validation
        if rows.ask is None or clean is None:
            raise ValueError("The rows have no validation part or no members to ask; `DriftTrainer` gives both.")
        ask, medium = rows.ask, medium_of(rows.columns)
        if medium is None:
            raise ValueError(_UNREADABLE)
        if min(len(set(_names(part))) for part in (rows, clean)) < 2:  # a sample may lack what all rows have
            return Audit(False, 1.0, self.false_alarms)
        inputs, held_out = medium.of_columns(rows.columns), medium.of_columns(clean.columns)

        def answer(given: list[Any]) -> list[str]:
            return [rows.classes[i] for i in ask(inputs.as_columns(given)).scores.argmax(1).tolist()]

        found = audit_answers(inputs, _names(rows), answer, held_out, _names(clean), self.false_alarms)
        if found.trigger is None:
            return found
        numbers = tuple(rows.row_numbers[i] for i in found.rows)
        return replace(found, rows=numbers, apart=_apart(rows, clean, inputs, held_out, found, ask))

    def describe(self, values: Values) -> Mapping[str, str | int | float | bool]:
        found = audit_of(values)
        if found is None:
            return {"verdict": "not audited"}
        shown: dict[str, str | int | float | bool] = {
            "verdict": "suspicious" if found.suspicious else "nothing suspicious",
            "p": float(f"{found.p_value:.2g}"),
            "false alarms": found.false_alarms,
        }
        if found.trigger is not None:
            shown |= {"strongest suspect": str(found.trigger)[:100], "calls for": found.target[:60]}
            shown["rows"] = len(found.rows)
        for name, value in (("attack success", found.attack_success), ("p of its hidden states", found.apart)):
            if value is not None:
                shown[name] = float(f"{value:.2g}")
        return shown


def audit_of(values: Values) -> Audit | None:
    """The audit that a task's stored values hold; its target is a name. `None` if the task could not be audited.

    Raises:
        ValueError: for values that no audit stored.
    """
    try:
        p_value, false_alarms, *measured = values["numbers"].tolist()
        success, rate, apart = (None if x == _UNASKED else x for x in measured)
        text, target = _text(values["trigger"]), _text(values["target"])
        trigger = read(text) if text else None
        rows, verdict = tuple(values["rows"].tolist()), int(values["suspicious"])
    except (KeyError, ValueError, OverflowError, RuntimeError) as error:
        raise ValueError("The stored audit is none that this package wrote; its tensors are damaged.") from error
    if verdict == _NOT_AUDITED:
        return None
    of = target if trigger else None
    return Audit(bool(verdict), p_value, false_alarms, trigger, of, rows, success, rate, apart)


def _stored(
    verdict: int, numbers: Sequence[float], trigger: str = "", target: str = "", rows: Sequence[int] = ()
) -> Values:
    return {
        "suspicious": torch.tensor(verdict),
        "numbers": torch.tensor(numbers, dtype=torch.float64),
        "trigger": _points(trigger),
        "target": _points(target),
        "rows": torch.tensor(rows, dtype=torch.int64),
    }


def _apart(
    rows: TaskRows, clean: TaskRows, inputs: AuditedInputs, held_out: AuditedInputs, found: Audit, ask: Ask
) -> float | None:
    """Whether the suspected rows lie apart from others of their label, in hidden states whitened by those of the
    validation rows; `None` where there are too few."""
    labels = np.array(_names(rows), dtype=object)
    suspected = list(found.rows[:_SUSPECTED])
    others = np.setdiff1d(np.flatnonzero(labels == found.target), found.rows)
    others = others[np.linspace(0, len(others) - 1, min(_OTHERS, len(others))).astype(int)].tolist()
    trusted = list(range(min(_TRUSTED, len(clean.features))))
    if not others or clean.labels is None:
        return None
    asked = [*(inputs[i] for i in (*suspected, *others)), *(held_out[i] for i in trusted)]
    states = ask(inputs.as_columns(asked)).states.double()
    own, reference = states[: len(suspected) + len(others)], states[len(suspected) + len(others) :]
    residuals = within_residuals(reference, clean.labels[trusted])
    if not bool((own != own[:1]).any()) or not bool(residuals.any()):
        return None
    covariance = ledoit_wolf(residuals.numpy(), assume_centered=True)[0]
    return lies_apart(own, torch.arange(len(own)) < len(suspected), covariance)


def _names(rows: TaskRows) -> list[str]:
    return [] if rows.labels is None else [rows.classes[i] for i in rows.labels.tolist()]


def _points(text: str) -> Tensor:
    return torch.tensor([ord(character) for character in text], dtype=torch.int64)


def _text(points: Tensor) -> str:
    return "".join(map(chr, points.tolist()))
