"""How sparse a model is, layer by layer: table and picture."""

from __future__ import annotations

import os
from dataclasses import dataclass

from torch import nn

from ..utils.figures import drawn
from .measures import PowerSums, check_orders, joined, power_sums, sap_counts
from .targets import prunable


@dataclass(frozen=True)
class LayerSparsity:
    """How sparse one layer is.

    Args:
        name (`str`): The weight.
        weights (`int`): Its size.
        remaining (`float`): Share that is not zero.
        pq_index (`float`): Of the weights that are not zero.
        prunable (`float`): Share of those that one step of SAP with gamma 1 would prune.
    """

    name: str
    weights: int
    remaining: float
    pq_index: float
    prunable: float


@dataclass(frozen=True)
class SparsityReport:
    """What [`sparsity_report`] gives: `layers`, and all of them together as `total`; as text it is a table."""

    p: float
    q: float
    layers: list[LayerSparsity]
    total: LayerSparsity

    def __str__(self) -> str:
        width = max(len(layer.name) for layer in (*self.layers, self.total))
        head = (
            f"{'weight':<{width}} {'size':>12} {'remaining':>10} {f'PQ({self.p:g}, {self.q:g})':>12} {'SAP takes':>10}"
        )
        lines = [head, "-" * len(head)]
        for layer in (*self.layers, self.total):
            lines.append(
                f"{layer.name:<{width}} {layer.weights:>12,} {layer.remaining:>10.1%} {layer.pq_index:>12.4f} "
                f"{layer.prunable:>10.1%}"
            )
        return "\n".join(lines)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draws the PQ Index of each layer as a PNG file, in the order of the model.

        Raises:
            ImportError: when matplotlib is not installed.
        """
        count = len(self.layers)
        with drawn(path, (8.0, max(2.0, 0.19 * count + 1.2))) as figure:
            axes = figure.subplots()
            axes.barh(range(count), [layer.pq_index for layer in self.layers], color="#31688e", height=0.75)
            axes.axvline(self.total.pq_index, color="black", lw=1.2, ls="--", label=f"all: {self.total.pq_index:.3f}")
            axes.set_yticks(range(count), [_short(layer.name) for layer in self.layers], fontsize=7)
            axes.set_ylim(count - 0.4, -0.6)
            axes.set_xlabel(f"PQ Index (p = {self.p:g}, q = {self.q:g}); larger: sparser")
            axes.grid(axis="x", alpha=0.3)
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0.0, -0.06))


def sparsity_report(
    model: nn.Module,
    p: float = 0.5,
    q: float = 1.0,
    *,
    targets: str | None = None,
    picture: str | os.PathLike[str] | None = None,
) -> SparsityReport:
    """Prints how sparse each layer of a model is, and draws it.

    A fresh Gaussian layer has a PQ Index (0.5, 1) of about .153. Zeros count as pruned weights.

    Args:
        model (`nn.Module`): Any model.
        p, q (`float`): Orders of the PQ Index, 0 < p < q.
        targets (`str`, *optional*): As in [`prunable`].
        picture (path, *optional*): PNG file to write.

    Returns:
        [`SparsityReport`]: The numbers.

    Raises:
        ValueError: for bad orders or a model without weights that can be pruned.
    """
    check_orders(p, q)
    chosen = prunable(model, targets)
    sums: dict[str, PowerSums] = {}
    for name, target in chosen.items():
        rows = target.rows(target.parameter.detach())
        sums[name] = power_sums(rows, p, q, rows == 0).total()
    layers = [_layer(name, chosen[name].parameter.numel(), layer_sums) for name, layer_sums in sums.items()]
    report = SparsityReport(p, q, layers, _layer("all", sum(layer.weights for layer in layers), joined(sums.values())))
    print(report)
    if picture is not None:
        report.plot(picture)
    return report


def _layer(name: str, size: int, sums: PowerSums) -> LayerSparsity:
    left = int(sums.count)
    goes = int(sap_counts(sums, gamma=1.0, beta=0.9, eta_r=0.0)) / max(left, 1)
    return LayerSparsity(name, size, left / size, float(sums.index()), goes)


def _short(name: str, most: int = 48) -> str:
    return name if len(name) <= most else f"…{name[-most + 1 :]}"
