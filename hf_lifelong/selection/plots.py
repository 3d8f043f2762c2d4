"""Pictures of a selection: its path, its importances, and what tasks have in common."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from ..utils.figures import drawn
from .selector import InputSelector
from .stability import Overlap

_KEPT, _LEFT = "#31688e", "#bbbbbb"
_MOST = 40  # inputs in one picture


def plot_path(selector: InputSelector, path: str | os.PathLike[str]) -> None:
    """Draws importances of all inputs, and the loss on rows left out, against the penalty; the taken one is marked.

    Args:
        selector (`InputSelector`): Fitted, with `lam="validate"`.
        path: PNG file to write.
    """
    walk, means = selector.path_, selector.path_.importances.mean(1)
    with drawn(path, (6.0, 6.0)) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True)
        for kept, colour in ((False, _LEFT), (True, _KEPT)):
            chosen = means[:, selector.support_ == kept]
            upper.plot(walk.lam, chosen, color=colour, lw=1.0)
        upper.set_ylabel("importance")
        lower.errorbar(walk.lam, walk.loss, yerr=walk.gain_error, color=_KEPT, marker="o", capsize=3)
        lower.axhline(float((walk.loss + walk.gain).mean()), color="black", ls=":", label="constant answer")
        lower.set_ylabel("loss on rows left out ↓")
        lower.set_xlabel("penalty, as a share of the one that leaves no input")
        lower.set_xscale("log")
        lower.legend(frameon=False)
        for panel in (upper, lower):
            panel.axvline(selector.lam_, color="black", lw=0.8)
            panel.grid(alpha=0.3)


def plot_importances(
    selector: InputSelector, path: str | os.PathLike[str], names: Sequence[str] | None = None
) -> None:
    """Draws importance and stability of the most important inputs, those that are kept in colour.

    Args:
        selector (`InputSelector`): Fitted.
        path: PNG file to write.
        names (`Sequence[str]`, *optional*): Of all inputs; default: `feature_names_in_`, or `x0`, `x1`, ….

    Raises:
        ValueError: when there are not as many names as inputs.
    """
    labels = list(names) if names is not None else list(_names_of(selector))
    if len(labels) != selector.n_features_in_:
        raise ValueError(f"`names` has {len(labels)} names, the selector {selector.n_features_in_} inputs.")
    order = np.argsort(-selector.importances_, kind="stable")[:_MOST]
    places = np.arange(len(order))
    colours = [_KEPT if kept else _LEFT for kept in selector.support_[order]]
    with drawn(path, (max(4.0, 0.22 * len(order)), 5.0)) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True)
        upper.bar(places, selector.importances_[order], color=colours)
        upper.set_ylabel("importance")
        lower.bar(places, selector.stability_[order], color=colours)
        lower.set_ylabel("share of repeats")
        lower.set_ylim(0, 1.05)
        lower.set_xticks(places, [labels[i] for i in order], rotation=90)
        if not selector.found_:
            upper.set_title("it is not known which inputs matter")


def plot_overlap(overlap: Overlap, path: str | os.PathLike[str]) -> None:
    """Draws the Jaccard index and the correlation between tasks as two matrices.

    Args:
        overlap (`Overlap`): Of any number of tasks; up to 12, the values are written into the cells. Colours span what
            there is between different tasks.
        path: PNG file to write.
    """
    count = len(overlap.tasks)
    between = ~np.eye(count, dtype=bool)
    with drawn(path, (3.4 + 0.7 * count, 1.4 + 0.4 * count)) as figure:
        for panel, title, values, lowest, colours in zip(
            figure.subplots(1, 2),
            ("same inputs (Jaccard)", "correlation of importances"),
            (overlap.jaccard, overlap.correlation),
            (0, -1),
            ("viridis", "coolwarm"),
            strict=True,
        ):
            most = float(np.abs(values[between & np.isfinite(values)]).max(initial=0)) or 1.0
            image = panel.imshow(values, vmin=lowest * most, vmax=most, cmap=colours)
            figure.colorbar(image, ax=panel, shrink=0.6)
            panel.set_title(title)
            panel.set_xticks(range(count), overlap.tasks, rotation=90)
            panel.set_yticks(range(count), overlap.tasks)
            for row, column in np.ndindex(values.shape) if count <= 12 else ():
                panel.text(column, row, f"{values[row, column]:.2f}", ha="center", va="center", fontsize=8)


def _names_of(selector: InputSelector) -> Sequence[str]:
    return getattr(selector, "feature_names_in_", [f"x{i}" for i in range(selector.n_features_in_)])
