"""Pruning a model once, as it is."""

from __future__ import annotations

from torch import nn

from .calibration import Batches, input_sizes
from .callback import check_rule
from .masks import Masks
from .rules import Rule, choose
from .targets import prunable


def prune(model: nn.Module, rule: Rule, *, targets: str | None = None, calibration: Batches | None = None) -> Masks:
    """Sets to zero what a rule finds in a model, such as a base before it gets its first adapter.

    Training it further undoes that, unless the masks are held: `prune(...).hold(optimizer)`.

    Args:
        model (`nn.Module`): Changed in place.
        rule: `SAP`, `Tail`, `Magnitude` or `OneShot`.
        targets (`str`, *optional*): As in [`prunable`].
        calibration (iterable of batches, *optional*): For rules that weigh by inputs.

    Returns:
        [`Masks`]: What is gone, zeros of before included.

    Raises:
        ValueError: for weights that cannot be pruned.
    """
    check_rule(rule, calibration)
    masks = Masks.of_zeros(prunable(model, targets))
    sizes = input_sizes(model, masks.targets, calibration) if rule.needs_inputs and calibration is not None else None
    masks.update(choose(rule, masks, input_sizes=sizes))
    masks.apply()
    return masks
