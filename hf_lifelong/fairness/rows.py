"""Scores, labels and groups of rows, from whatever a user holds to the tensors that are summed, and their checks."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

NO_GROUP = -100
"""Group of rows that are of none, as torch's losses mark targets that do not count."""


class Rows(NamedTuple):
    """N rows with C scored classes and G groups: `scores` is float `[N, C]`, `positive` bool `[N, C]`, `members` bool
    `[N, G]`."""

    scores: Tensor
    positive: Tensor
    members: Tensor


def as_tensor(name: str, values: Any) -> Tensor:
    """A tensor of what a user gave: as it is, or a copy of an array, list or column.

    Raises:
        ValueError: when it does not hold numbers; names the argument.
    """
    if isinstance(values, Tensor):
        return values.detach()
    try:
        array = np.array(values)
    except ValueError as error:
        raise ValueError(f"`{name}` cannot be read as an array: {error}.") from error
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"`{name}` must be a tensor, an array or a list of numbers, but holds {array.dtype}; encode names as "
            "integers from 0."
        )
    return torch.from_numpy(array)


def arrange(scores: Tensor, labels: Tensor, groups: Tensor, *, group_count: int, classes: int) -> Rows:
    """Brings rows into the form that is summed. Looks at shapes only, so it never waits for a GPU.

    Args:
        scores (`Tensor` of shape `[N]` or `[N, classes]`): Probabilities, of two classes also only the second
            one's; or of shape `[N]` and integer or bool, the class decided for.
        labels (`Tensor` of shape `[N]`): The class, from 0.
        groups (`Tensor` of shape `[N]`): The group, from 0, or `NO_GROUP`.

    Raises:
        ValueError: for other shapes; names the argument.
    """
    first = 1 if classes == 2 else 0
    decided = not scores.is_floating_point()
    rows = labels.numel()
    forms: list[tuple[int, ...]] = [] if decided else [(rows, classes)]
    forms += [(rows,)] if decided or classes == 2 else []
    if labels.dim() != 1 or groups.shape != labels.shape or tuple(scores.shape) not in forms:
        raise ValueError(
            f"`scores`, `labels` and `groups` have the shapes {list(scores.shape)}, {list(labels.shape)} and "
            f"{list(groups.shape)}; give N labels, N groups, and scores of shape [N, {classes}] "
            f"({'or [N], of class 1; ' if classes == 2 else ''}decided classes are integers of shape [N])."
        )
    device = scores.device
    labels, groups = labels.to(device), groups.to(device)
    positive = labels[:, None] == torch.arange(first, classes, device=device)
    members = groups[:, None] == torch.arange(group_count, device=device)
    if decided:
        columns = scores[:, None] == torch.arange(first, classes, device=device)
    else:
        columns = scores[:, None] if scores.dim() == 1 else scores[:, first:]
    return Rows(wide(columns), positive, members)


def wide(values: Tensor) -> Tensor:
    """Values in float64, in float32 on the one kind of device that has no float64."""
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


def strays(labels: Tensor, groups: Tensor, *, group_count: int, classes: int) -> Tensor:
    """Which labels are no class, and which groups none that is known: bool `[2, N]` on the labels' device."""
    known = _within(groups, group_count) | (_countable(groups) == NO_GROUP)
    return ~torch.stack([_within(labels, classes), known.to(labels.device)])


def check_values(scores: Tensor, labels: Tensor, groups: Tensor, *, group_count: int, classes: int) -> None:
    """Refuses rows whose values cannot be summed; the first one found is named (`ValueError`)."""
    soft = scores.is_floating_point()
    stray_score = ~((scores >= 0) & (scores <= 1)) if soft else ~_within(scores, classes)
    stray_label, stray_group = strays(labels, groups, group_count=group_count, classes=classes)
    found = (
        ("scores", scores, stray_score, "classes", classes),
        ("labels", labels, stray_label, "classes", classes),
        ("groups", groups, stray_group, "groups", group_count),
    )
    # One question to the device for all three.
    wrong = torch.stack([stray.any().to(scores.device) for _, _, stray, _, _ in found]).tolist()
    for (name, values, stray, setting, count), is_wrong in zip(found, wrong, strict=True):
        if not is_wrong:
            continue
        value = values[stray.to(values.device)].flatten()[0].item()
        if name == "scores" and soft:
            raise ValueError(f"`scores` holds {value}; give probabilities from 0 to 1 (`logits.softmax(-1)`).")
        raise ValueError(
            f"`{name}` holds {value}, but `{setting}` is {count}: give integers from 0 to {count - 1}"
            f"{f', {NO_GROUP} for rows of no group' if name == 'groups' else ''}, or a larger `{setting}`."
        )


def _within(values: Tensor, count: int) -> Tensor:
    """Which values are an integer from 0 to `count` - 1, whatever their dtype."""
    values = _countable(values)
    return (values >= 0) & (values < count) & (values == values.floor())


def _countable(values: Tensor) -> Tensor:
    """Integers wide enough to be compared with any number: torch wraps the number where they are not."""
    return values if values.is_floating_point() else values.to(torch.int64)
