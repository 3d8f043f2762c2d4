"""A model's layers on a few batches: how large their inputs are, and how far a pruning moves their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..compat import Conv1D
from .masks import Masks
from .targets import Target, prunable

Batches = Iterable[Mapping[str, Any]]


def check_batches(calibration: Any) -> None:
    """Refuses anything but batches that can be read more than once, or `None` (`ValueError`)."""
    if calibration is not None and not isinstance(calibration, Iterable):
        raise ValueError(f"`calibration` must be a list of batches or a `DataLoader`, not {calibration!r:.60}.")
    if calibration is not None and iter(calibration) is calibration:
        raise ValueError(
            "`calibration` is a generator, which gives its batches only once; give a list or a `DataLoader`."
        )


def input_sizes(model: nn.Module, targets: Mapping[str, Target], batches: Batches) -> dict[str, Tensor]:
    """Root mean square of each input of each layer, float64 `[inputs]` by weight name.

    Positions that the attention mask leaves out do not count.

    Args:
        model (`nn.Module`): Is run in eval mode.
        targets (`Mapping`): Linear layers, by weight name.
        batches (iterable of mappings): Keyword arguments of the model's forward, such as a `DataLoader` gives.

    Raises:
        ValueError: for no batches, or a layer that is not linear or was never reached.
    """
    squares, _ = moments(model, {name: target.module for name, target in targets.items()}, batches)
    return {name: square.sqrt() for name, square in squares.items()}


def moments(
    model: nn.Module, layers: Mapping[str, nn.Module], batches: Batches
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Mean square and mean of each input of each linear layer, float64 `[inputs]`; arguments as [`input_sizes`]."""
    squares: dict[str, Any] = dict.fromkeys(layers, 0.0)
    sums: dict[str, Any] = dict.fromkeys(layers, 0.0)
    counts = dict.fromkeys(layers, 0)

    def see(name: str, inputs: Tensor) -> None:
        squares[name] = squares[name] + inputs.square().sum(0)
        sums[name] = sums[name] + inputs.sum(0)
        counts[name] += len(inputs)

    _observe(model, layers, batches, see)
    _check_reached(counts)
    return ({n: squares[n] / counts[n] for n in layers}, {n: sums[n] / counts[n] for n in layers})


@dataclass(frozen=True)
class LayerChange:
    """How far pruning moves one layer; bound and measurement are shares of the root mean square of its dense output.

    Args:
        name (`str`): Its weight.
        remaining (`float`): Share of the weights that stay.
        bound (`float`): Upper bound: the l1 tail weighted with the inputs' root mean squares (Minkowski).
        measured (`float`): How far the layer's output really moves on the batches.
    """

    name: str
    remaining: float
    bound: float
    measured: float


def output_change(
    model: nn.Module, pruned: Mapping[str, Tensor], batches: Batches, *, targets: str | None = None
) -> list[LayerChange]:
    """How far pruning would move the output of each layer on the dense model's own inputs: a bound, and a measurement.

    Args:
        model (`nn.Module`): Still dense: the weights to be pruned have not been set to zero.
        pruned (`Mapping`): The masks to try, bool by weight name, as [`choose`] gives them.
        batches (iterable of mappings): As in [`input_sizes`].
        targets (`str`, *optional*): As in [`prunable`].
    """
    chosen = Masks(prunable(model, targets), pruned).targets
    layers = {name: target.module for name, target in chosen.items()}
    weights = {n: (t.rows(t.parameter.detach()).double(), t.rows(pruned[n])) for n, t in chosen.items()}
    squares: dict[str, Any] = dict.fromkeys(layers, 0.0)
    changes: dict[str, Any] = dict.fromkeys(layers, 0.0)
    outputs: dict[str, Any] = dict.fromkeys(layers, 0.0)
    counts = dict.fromkeys(layers, 0)

    def see(name: str, inputs: Tensor) -> None:
        weight, lost = weights[name]
        squares[name] = squares[name] + inputs.square().sum(0)
        changes[name] = changes[name] + (inputs @ (weight * lost).T).square().sum()
        outputs[name] = outputs[name] + (inputs @ weight.T).square().sum()
        counts[name] += len(inputs)

    _observe(model, layers, batches, see)
    _check_reached(counts)
    report = []
    for name, (weight, lost) in weights.items():
        tails = ((weight * lost).abs() * (squares[name] / counts[name]).sqrt()).sum(1)
        scale = float(outputs[name] / counts[name]) ** 0.5 or 1.0
        report.append(
            LayerChange(
                name,
                remaining=1 - float(lost.double().mean()),
                bound=float(tails.square().sum()) ** 0.5 / scale,
                measured=float(changes[name] / counts[name]) ** 0.5 / scale,
            )
        )
    return report


def _observe(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    batches: Batches,
    see: Callable[[str, Tensor], None],
) -> None:
    """Runs batches and passes the inputs of each layer to `see`, float64 `[positions, inputs]`."""
    other = [name for name, module in layers.items() if not isinstance(module, nn.Linear | Conv1D)]
    if other:
        raise ValueError(
            f"Only linear layers of the model itself can be weighed by their inputs; `{other[0]}` is none. Leave it "
            "out of `targets`."
        )
    device = next(model.parameters()).device
    attended: list[Tensor | None] = [None]

    def hook_of(name: str) -> Callable[[nn.Module, tuple], None]:
        def hook(module: nn.Module, args: tuple) -> None:
            inputs, mask = args[0].detach(), attended[0]
            if mask is not None and inputs.shape[:2] == mask.shape:
                inputs = inputs[mask.bool()]
            see(name, inputs.flatten(0, -2).double())

        return hook

    hooks = [module.register_forward_pre_hook(hook_of(name)) for name, module in layers.items()]
    try:
        with torch.no_grad(), evaluating(model):
            for batch in tqdm(batches, desc="Calibrating", leave=False):
                if not isinstance(batch, Mapping):
                    raise ValueError(
                        f"`calibration` holds {batch!r:.60}; its batches must be mappings of the model's inputs, such "
                        'as a tokenizer gives with `return_tensors="pt"`.'
                    )
                inputs = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}
                attended[0] = inputs.get("attention_mask")
                model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()


def _check_reached(counts: Mapping[str, int]) -> None:
    missed = [name for name, count in counts.items() if not count]
    if missed:
        raise ValueError(
            f"`calibration` never reached {len(missed)} of {len(counts)} layers (first: `{missed[0]}`); give batches "
            "(mappings of the model's inputs) that run the whole model."
        )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Puts a model in eval mode for the block, and every module back in its own mode after it."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
