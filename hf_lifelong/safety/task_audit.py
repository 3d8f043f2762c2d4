"""The audit of a task before it is committed, as a statistic: what was found is stored with the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..statistics import TaskRefused, TaskRows, TaskStatistic, Values
from ..storage import TensorSpec
from .audit import Audit, audit_dataset
from .causal import causal_check

_UNASKED = -1.0  # stands for the attack success of a trigger that the model was not asked about
_SHOWN_ROWS = 20


class TaskAudit(TaskStatistic):
    """Audits the training data of a text classification task, and asks its members about what it suspects.

    Args:
        false_alarms (`float`): Share of clean tasks that may be found suspicious.
        refuse (`bool`): Whether a suspicious task is refused.
    """

    name = "audit"
    columns = ("text", "label")
    optional_columns = ("text_pair",)
    part = "both"
    asks = True
    tensors = (
        TensorSpec("suspicious", (), dtype="int64"),
        TensorSpec("p_value", (), dtype="float64"),
        TensorSpec("false_alarms", (), dtype="float64"),
        TensorSpec("attack_success", (), dtype="float64"),
        TensorSpec("trigger", ("characters of the trigger",), dtype="int64"),
        TensorSpec("target", ("characters of the target",), dtype="int64"),
        TensorSpec("rows", ("rows",), dtype="int64"),
    )

    def __init__(self, false_alarms: float = 0.01, refuse: bool = False) -> None:
        self.false_alarms, self.refuse = false_alarms, refuse

    def check(self, columns: Mapping[str, Sequence[Any]]) -> None:
        if len(set(columns["label"])) < 2:
            raise ValueError(
                f"All {len(columns['label'])} labels of a part are the same, so the task cannot be audited. "
                'Give training and validation rows of at least two labels, or leave the audit out (`audit="off"`).'
            )

    def fit(self, rows: TaskRows) -> Values:
        found = self.audit(rows)
        if self.refuse and found.suspicious:
            raise TaskRefused(refusal(rows.task, found))
        return {
            "suspicious": torch.tensor(int(found.suspicious)),
            "p_value": torch.tensor(found.p_value, dtype=torch.float64),
            "false_alarms": torch.tensor(found.false_alarms, dtype=torch.float64),
            "attack_success": torch.tensor(
                _UNASKED if found.attack_success is None else found.attack_success, dtype=torch.float64
            ),
            "trigger": _points(found.trigger or ""),
            "target": _points(str(found.target) if found.trigger is not None else ""),
            "rows": torch.tensor(found.rows, dtype=torch.int64),
        }

    def audit(self, rows: TaskRows) -> Audit:
        """Audits the rows of a task; the rows of the result are numbered as in the data that the user gave."""
        validation, ask = rows.validation, rows.ask
        assert validation is not None and ask is not None and rows.labels is not None and validation.labels is not None
        names = rows.classes
        found = audit_dataset(rows.columns["text"], [names[i] for i in rows.labels.tolist()], self.false_alarms)
        if found.trigger is None:
            return found

        def answer(texts: list[str]) -> list[str]:
            return [names[i] for i in ask({"text": texts}).scores.argmax(1).tolist()]

        check = causal_check(
            answer,
            found.trigger,
            validation.columns["text"],
            [names[i] for i in validation.labels.tolist()],
            found.target,
        )
        return found.confirmed(check)

    def describe(self, values: Values) -> Mapping[str, str | int | float | bool]:
        found = audit_of(values)
        shown: dict[str, str | int | float | bool] = {
            "verdict": "suspicious" if found.suspicious else "nothing suspicious",
            "p": float(f"{found.p_value:.2g}"),
            "false alarms": found.false_alarms,
        }
        if found.trigger is not None:
            shown |= {
                "strongest suspect": found.trigger[:100],
                "calls for": found.target[:60],
                "rows": len(found.rows),
            }
        if found.attack_success is not None:
            shown["attack success"] = float(f"{found.attack_success:.2g}")
        return shown


def audit_of(values: Values) -> Audit:
    """The audit that a task's stored values hold; its target is a name."""
    success, trigger = float(values["attack_success"]), _text(values["trigger"])
    return Audit(
        suspicious=bool(values["suspicious"]),
        p_value=float(values["p_value"]),
        false_alarms=float(values["false_alarms"]),
        trigger=trigger or None,
        target=_text(values["target"]) if trigger else None,
        rows=tuple(values["rows"].tolist()),
        attack_success=None if success == _UNASKED else success,
    )


def refusal(task: str, found: Audit) -> str:
    """Why a task is refused, and what to do."""
    rows = ", ".join(map(str, found.rows[:_SHOWN_ROWS])) + (", …" if len(found.rows) > _SHOWN_ROWS else "")
    return (
        f"Task `{task}` is refused. {found} They are the rows {rows} of `train`. Look at them; take them out or mend "
        'their labels, and learn the task again. `audit="report"` learns it as it is.'
    )


def _points(text: str) -> Tensor:
    return torch.tensor([ord(character) for character in text], dtype=torch.int64)


def _text(points: Tensor) -> str:
    return "".join(map(chr, points.tolist()))
