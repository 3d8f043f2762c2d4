"""`GroupFairness`: a few sums from which the fairness of any union is known."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from . import measures
from .rows import arrange, as_tensor, check_values

MOST_GROUPS = 100_000  # and classes; what is more is a mistake
LARGEST_SUM = 2**53  # up to which float64 counts rows exactly
ROUNDING = 1e-6  # by which a sum may exceed one that bounds it, after many additions
COUNTED = {"sp": "rows", "eop": "positive rows", "cal": "rows with a score above 0"}
FIELDS = ("metric", "groups", "classes", "threshold", "rows", "sums")


class GroupFairness:
    """How differently a classifier treats groups, kept as sums that can be added up.

    ```python
    first, second = GroupFairness("eop"), GroupFairness("eop")
    first.update(scores, labels, groups)  # a batch, a rank, a client, a task, …
    second.update(more_scores, more_labels, more_groups)
    (first + second).value()  # of all rows together: the same as if one had seen them all
    GroupFairness.bound([first, second])  # what fairness of each part alone lets that be at most
    ```

    Sums are float64 and lie in the CPU's memory; rows are summed where the scores are. From Wang et al., "Mitigating
    Group Bias in Federated Learning: Beyond Local Fairness" (TMLR 2024), extended to many groups and many classes.

    Args:
        metric (`str`): What the rate of a group is. `"sp"`, statistical parity: its mean score. `"eop"`, equal
            opportunity: the mean score of its positive rows. `"cal"`, well-calibration: the share of its scores that
            lies on positive rows (of decisions, the precision).
        groups (`int`): Number of groups, at least 2.
        classes (`int`): Number of classes. Of two, class 1 is the positive one; each of more is taken against the
            rest.
        threshold (`float`, *optional*): Scores of at least this count as 1, others as 0, each class by itself. By
            default scores are summed as they are.

    Attributes:
        rows (`float`): How many rows were seen, with those of no group.
        sums (`Tensor` of shape `[2, groups, C]`): Numerators and denominators of the rates, float64; C is 1 for two
            classes, else `classes`.

    Raises:
        ValueError: for arguments out of range.
    """

    def __init__(self, metric: str, groups: int = 2, *, classes: int = 2, threshold: float | None = None) -> None:
        check_settings(metric, groups, classes, threshold)
        self.metric, self.groups, self.classes, self.threshold = metric, groups, classes, threshold
        self.rows = 0.0
        self.sums = torch.zeros(2, groups, scored(classes), dtype=torch.float64)

    def update(self, scores: Any, labels: Any, groups: Any) -> None:
        """Adds rows. Takes tensors on any device, NumPy arrays and lists.

        Args:
            scores (`Tensor` of shape `[N]` or `[N, classes]`): Probabilities, of two classes also only that of class
                1. Or integers or bools of shape `[N]`: the class decided for.
            labels (`Tensor` of shape `[N]`): The class of each row, from 0.
            groups (`Tensor` of shape `[N]`): The group of each row, from 0; rows of no group are -100.

        Raises:
            ValueError: when shapes do not fit, or a value is out of range. Nothing is added then.
        """
        given = {"scores": scores, "labels": labels, "groups": groups}
        tensors = {name: as_tensor(name, values) for name, values in given.items()}
        rows = arrange(**tensors, group_count=self.groups, classes=self.classes)
        check_values(**tensors, group_count=self.groups, classes=self.classes)
        if self.threshold is not None:
            rows = rows._replace(scores=(rows.scores >= self.threshold).to(rows.scores.dtype))
        self.sums = self.sums + measures.group_sums(self.metric, *rows).to("cpu", torch.float64)
        self.rows += len(rows.scores)

    def rates(self) -> Tensor:
        """The rate of each group.

        Returns:
            `Tensor` of shape `[groups]`, with more than two classes `[groups, classes]`: float64 in [0, 1]; NaN for
            groups without a row that counts.
        """
        rates = measures.rates(self.sums)
        return rates[:, 0] if self.classes == 2 else rates

    @property
    def is_known(self) -> bool:
        """Whether at least two groups have a row that counts, so that `value()` can tell."""
        return not bool(measures.gaps(self.sums).isnan().all())

    def value(self) -> float:
        """The metric: the first group's rate minus the second's; of more than two groups, the highest rate minus the
        lowest. Groups without a row that counts are left out; of many classes the one with the largest value tells.

        Raises:
            ValueError: when fewer than two groups have a row that counts.
        """
        return self._largest(measures.gaps(self.sums))

    @staticmethod
    def bound(parts: Iterable[GroupFairness]) -> float:
        """The largest size that `value()` of the union of parts can have, by the fairness of each part and by how
        unlike they are mixed: if this is much above what each part shows, fair parts may hide an unfair whole.

        The largest gap within a part, plus the total variation between two groups' shares of the parts times the range
        of one group's rates over the parts; the largest of all pairs of groups.

        Raises:
            ValueError: when there is no part, parts differ in their settings, or fewer than two groups have a row that
                counts in any of them.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("`parts` is empty; give the `GroupFairness` of each part.")
        whole = sum(parts[1:], start=parts[0])
        return whole._largest(measures.union_bounds(torch.stack([part.sums for part in parts])))

    def __add__(self, other: GroupFairness) -> GroupFairness:
        """The fairness of all rows of both.

        Raises:
            ValueError: when the two differ in metric, groups, classes or threshold.
        """
        if not isinstance(other, GroupFairness):
            return NotImplemented
        if self.settings() != other.settings():
            raise ValueError(
                f"Sums of {self.settings()} and of {other.settings()} cannot be added; measure both alike."
            )
        return self.of(self.sums + other.sums, self.rows + other.rows)

    def __radd__(self, other: int) -> GroupFairness:
        """`sum(parts)` begins with 0."""
        return self.scaled(1.0) if isinstance(other, int) and other == 0 else NotImplemented

    def scaled(self, factor: float) -> GroupFairness:
        """The same rates, of `factor` times as many rows: how much it weighs when it is added to others.

        Raises:
            ValueError: when `factor` is negative or not finite.
        """
        if not (factor >= 0 and math.isfinite(factor)):
            raise ValueError(f"`factor` is {factor!r}; give a number of at least 0.")
        return self.of(self.sums * factor, self.rows * factor)

    def of(self, sums: Tensor, rows: float) -> GroupFairness:
        """One with the same settings that holds other sums.

        Args:
            sums (`Tensor` of shape `[2, groups, C]`): As the attribute; any device.
            rows (`float`): How many rows they are of.
        """
        made = GroupFairness(self.metric, self.groups, classes=self.classes, threshold=self.threshold)
        made.sums, made.rows = sums.detach().to("cpu", torch.float64), rows
        return made

    def settings(self) -> dict[str, Any]:
        """What must be alike for two to be added: the arguments it was made with."""
        return {field: getattr(self, field) for field in FIELDS[:4]}

    def to_dict(self) -> dict[str, Any]:
        """Settings and sums as JSON knows them; [`GroupFairness.from_dict`] reads them to the bit."""
        return {**self.settings(), "rows": self.rows, "sums": self.sums.tolist()}

    @classmethod
    def from_dict(cls, data: Any) -> GroupFairness:
        """Reads what `to_dict` wrote, of anybody: no value takes more memory than it already has.

        Raises:
            ValueError: when a field lacks or is unknown, or holds what no rows can give.
        """
        if not isinstance(data, dict) or data.keys() != set(FIELDS):
            found = sorted(map(str, data)) if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"The sums of a `GroupFairness` have the fields {list(FIELDS)}, not {found!s:.200}.")
        settings = {field: data[field] for field in FIELDS[:4]}
        check_settings(**settings)
        check_sums(data["sums"], data["rows"], data["groups"], scored(data["classes"]))
        metric, groups = settings.pop("metric"), settings.pop("groups")
        made = cls(metric, groups, **settings)
        made.sums, made.rows = torch.tensor(data["sums"], dtype=torch.float64), float(data["rows"])
        numerators, denominators = made.sums
        room = 1 + ROUNDING
        if (numerators > denominators * room).any() or (denominators.sum(0) > made.rows * room).any():
            raise ValueError("`sums` has a numerator above its denominator, or more rows than `rows`; measure again.")
        return made

    def _largest(self, values: Tensor) -> float:
        """Of values `[C]`, one a class, that of the largest size; refuses to say any when no class has one."""
        known = values[~values.isnan()]
        if not len(known):
            present = (self.sums[1] > 0).any(1).nonzero().flatten().tolist()
            raise ValueError(
                f"`{self.metric}` compares the {COUNTED[self.metric]} of groups, but of {self.groups} groups only "
                f"{present} have any; `update` with rows of at least two groups."
            )
        return float(known[known.abs().argmax()])

    def __repr__(self) -> str:
        given = "".join(f", {field}={getattr(self, field)!r}" for field in FIELDS[1:4])
        return f"<GroupFairness({self.metric!r}{given}) of {self.rows:g} rows, rates {self.rates().tolist()!s:.200}>"


def scored(classes: int) -> int:
    """How many of the classes have sums of their own: of two, the second says it all."""
    return 1 if classes == 2 else classes


def check_settings(metric: Any, groups: Any, classes: Any, threshold: Any) -> None:
    """Refuses settings that no sums can have (`ValueError`)."""
    if not isinstance(metric, str) or metric not in measures.METRICS:
        raise ValueError(f"`metric` is {_shown(metric)}; give one of {list(measures.METRICS)}.")
    for name, value in (("groups", groups), ("classes", classes)):
        if not isinstance(value, int) or isinstance(value, bool) or not 2 <= value <= MOST_GROUPS:
            raise ValueError(f"`{name}` is {_shown(value)}; give their number, an integer of at least 2.")
    if threshold is not None and not (_is_number(threshold) and 0 <= threshold <= 1):
        raise ValueError(f"`threshold` is {_shown(threshold)}; give a probability, or None for soft scores.")


def check_sums(sums: Any, rows: Any, groups: int, columns: int) -> None:
    """Refuses what are no sums `[2, groups, columns]`, before a tensor is made of them (`ValueError`)."""

    def is_sum(value: Any) -> bool:
        return _is_number(value) and 0 <= value <= LARGEST_SUM

    def is_list(value: Any, length: int) -> bool:
        return isinstance(value, list) and len(value) == length

    if not is_sum(rows):
        raise ValueError(f"`rows` is {_shown(rows)}; it must be a number from 0 to {LARGEST_SUM}.")
    shaped = is_list(sums, 2) and all(is_list(part, groups) for part in sums)
    if not shaped or not all(is_list(line, columns) and all(map(is_sum, line)) for part in sums for line in part):
        raise ValueError(
            f"`sums` must be 2 lists of {groups} lists of {columns} numbers from 0 to {LARGEST_SUM}, as `to_dict` "
            "writes them."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """A value in a message. An integer of thousands of digits has no text, and a list may be of any length."""
    if isinstance(value, str):
        return repr(value[:60])
    is_short = isinstance(value, float | bool | None) or (isinstance(value, int) and abs(value) <= LARGEST_SUM)
    return repr(value) if is_short else f"a {type(value).__name__} that does not fit"
