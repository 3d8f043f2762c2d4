"""A plot of what methods cost as the number of tasks grows."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from numbers import Real
from typing import Any

from ..utils.figures import drawn
from .plots import COLOURS, short_name

Cost = tuple[int, float, float]


def plot_costs(costs: Mapping[str, Sequence[Cost]], path: str | os.PathLike[str]) -> None:
    """Draws the costs of methods, the bytes that they store and the cost of an answer, against the number of learned
    tasks.

    The same input gives the same bytes.

    Args:
        costs (`Mapping[str, Sequence[tuple[int, float, float]]]`):
            Method → its points, in rising order of the first number: tasks learned, bytes stored beside the base, and
            the cost of answering one input, in forwards of the base.
        path (`str` or `os.PathLike`):
            The PNG file to write, in a folder that exists.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is no method, or one without points; if a point is not three numbers of at least 0, or the
            numbers of tasks do not rise.
    """
    _check(costs)
    with drawn(path, (9.6, 3.8 + 0.14 * len(costs))) as figure:
        from matplotlib import colormaps
        from matplotlib.ticker import EngFormatter, MaxNLocator

        colours, markers = colormaps[COLOURS], "osD^vP*X"
        panels = figure.subplots(1, 2)
        for k, (method, points) in enumerate(costs.items()):
            tasks, *values = zip(*points, strict=True)
            # The brightest colours would be lost on white. Markers tell similar colours apart.
            colour = colours(0.9 * k / max(len(costs) - 1, 1))
            style = {"color": colour, "marker": markers[k % len(markers)], "label": short_name(method, 40), "lw": 1.2}
            # Methods with equal costs get their markers at different points, so that none hides another.
            apart = -(-len(points) // 6)
            for axes, heights in zip(panels, values, strict=True):
                axes.plot(tasks, heights, **style, markevery=(k % apart, apart))
        titles = ("Bytes stored beside the base ↓", "Forwards of the base for one answer ↓")
        for axes, title in zip(panels, titles, strict=True):
            axes.set_title(title, fontsize=11)
            axes.set_xlabel("tasks learned")
            axes.set_ylim(0, 1.06 * axes.dataLim.ymax or 1)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(axis="y", alpha=0.3)
        panels[0].yaxis.set_major_formatter(EngFormatter(unit="B"))
        handles, labels = panels[0].get_legend_handles_labels()
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
        for text in legend.get_texts():
            text.set_parse_math(False)


def _check(costs: Any) -> None:
    if not isinstance(costs, Mapping) or not costs:
        raise ValueError("`costs` names no method, so there is nothing to plot; give a dict from method to points.")
    for method, points in costs.items():
        where = f"costs[{method!r}]"
        if not points:
            raise ValueError(f"`{where}` has no points; give at least one, or leave the method out.")
        for point in points:
            numbers = isinstance(point, tuple | list) and all(isinstance(value, Real) for value in point)
            if not numbers or len(point) != 3 or not all(0 <= value < float("inf") for value in point):
                raise ValueError(
                    f"`{where}` has the point {point!r}; give tasks learned, bytes stored and forwards of an answer, "
                    "as finite numbers of at least 0."
                )
        tasks = [point[0] for point in points]
        if any(after <= before for before, after in pairwise(tasks)):
            raise ValueError(f"`{where}` has the numbers of tasks {tasks}, which do not rise; sort its points.")
