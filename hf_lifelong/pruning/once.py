"""One pruning of a model as it is: what the loop and the callback repeat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .calibration import Batches, check_batches, input_sizes
from .masks import Masks, agreed
from .rules import Rule, choose
from .targets import prunable


def prune(model: nn.Module, rule: Rule, *, targets: str | None = None, calibration: Batches | None = None) -> Masks:
    """Sets to zero the weights that a rule picks in a model, such as a base before it gets its first adapter.

    Training it further undoes that, unless the masks are held: `prune(...).hold(optimizer)`.

    Args:
        model (`nn.Module`): Changed in place.
        rule: `SAP`, `Tail`, `Magnitude` or `OneShot`.
        targets (`str`, *optional*): As in [`prunable`].
        calibration (iterable of batches, *optional*): For rules that weigh by inputs.

    Returns:
        [`Masks`]: What is gone, earlier zeros included.

    Raises:
        ValueError: for weights that cannot be pruned.
    """
    check_rule(rule, calibration)
    masks = Masks.of_zeros(prunable(model, targets))
    prune_further(model, masks, rule, calibration)
    masks.apply()
    return masks


def prune_further(
    model: nn.Module,
    masks: Masks,
    rule: Rule,
    calibration: Batches | None,
    dense: Mapping[str, Tensor] | None = None,
) -> None:
    """Adds to the masks what a rule picks, alike on all processes; the weights are not touched until `apply`.

    Args:
        dense (`Mapping`, *optional*): Weights to rank by in place of the model's own.
    """
    sizes = None
    if rule.needs_inputs and calibration is not None:
        sizes = input_sizes(model, masks.targets, calibration)
    masks.update(agreed(choose(rule, masks, dense, sizes)))


def check_rule(rule: Any, calibration: Any) -> None:
    """Refuses what is no rule, a rule without its batches, and batches that can be read only once (`ValueError`)."""
    if not isinstance(rule, Rule):
        raise ValueError(f"`rule` must be `SAP()`, `Tail()`, `Magnitude()` or `OneShot()`, not {rule!r:.60}.")
    check_batches(calibration)
    if rule.needs_inputs and calibration is None:
        raise ValueError("`Tail(by_inputs=True)` needs `calibration`: batches of the model's inputs.")
