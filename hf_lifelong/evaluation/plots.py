"""Plots of the accuracy matrix."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..utils.figures import drawn
from .checks import Row
from .matrix import AccuracyMatrix
from .report import format_score

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The brightness of viridis rises evenly, so it is readable in greyscale and with every kind of colour blindness.
COLOURS = "viridis"


def _check_not_empty(matrix: AccuracyMatrix) -> None:
    if not matrix.tasks:
        raise ValueError("`matrix` is empty, so there is nothing to plot; add a task first.")


def short_name(name: str, length: int = 24) -> str:
    """A name cut to at most `length` characters, to fit beside an axis or into a legend."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def _label_stream(axes: Axes, names: list[str]) -> None:
    axes.set_xticks(range(len(names)))
    # Task names are not formulas: "$" has to stay a dollar sign.
    axes.set_xticklabels(
        [short_name(name) for name in names], rotation=40, ha="right", rotation_mode="anchor", parse_math=False
    )


def _label_rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)))
    axes.set_yticklabels([short_name(name) for name in names], parse_math=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _write_in(axes: Axes, image: Any, i: int, j: int, value: float, decimals: int, size: float) -> None:
    red, green, blue, _ = image.cmap(value)
    # Relative luminance (WCAG 2); at 0.179 black and white text have equal contrast.
    bright = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.179
    text, colour = format_score(value, decimals=decimals), "black" if bright else "white"
    axes.text(j, i, text, ha="center", va="center", fontsize=size, color=colour)


def _heading(title: str, matrix: AccuracyMatrix) -> str:
    scored, count = sum(score is not None for score in matrix.scores[-1]), len(matrix.tasks)
    metrics = [f"average accuracy ↑ {format_score(matrix.average_accuracy())}"]
    if scored < count:
        metrics[0] += f" over {scored} of {count} tasks"
    if (transfer := matrix.bwt()) is not None:
        metrics.append(f"BWT ↑ {format_score(transfer, sign=True)}")
    return f"{title}\n{', '.join(metrics)}"


def _draw_panel(axes: Axes, matrix: AccuracyMatrix, title: str) -> Any:
    rows: list[Row] = matrix.scores
    labels = matrix.tasks
    has_baseline = any(value is not None for value in matrix.baseline)
    if has_baseline:
        rows, labels = [matrix.baseline, *rows], ["majority class", *labels]
    values = [[float("nan") if value is None else value for value in row] for row in rows]
    image = axes.imshow(values, cmap=COLOURS, vmin=0.0, vmax=1.0)
    count = len(matrix.tasks)
    decimals, size = (3, 9) if count <= 8 else (2, 7.5)
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            if value is not None:
                _write_in(axes, image, i, j, value, decimals, size)
            elif j <= i - has_baseline:  # learned by then, but not measured
                axes.text(j, i, "–", ha="center", va="center", fontsize=size, color="grey")
    if has_baseline:
        axes.axhline(0.5, color="white", linewidth=3)
    _label_stream(axes, matrix.tasks)
    _label_rows(axes, labels)
    axes.set_xlabel("scored on")
    axes.set_ylabel("learned up to")
    axes.set_title(title, fontsize=11, parse_math=False)
    return image


def plot_matrix(
    matrix: AccuracyMatrix,
    path: str | os.PathLike[str],
    beside: tuple[str, Sequence[Sequence[float | None]]] | None = None,
) -> None:
    """Draws the accuracy matrix as an annotated heat map, with one row after each task and one column for each task.

    The first row is the score of the majority class. The same input gives the same bytes.

    Args:
        matrix ([`AccuracyMatrix`]):
            What to draw; at least one task.
        path (`str` or `os.PathLike`):
            The PNG file to write, in a folder that exists.
        beside (`tuple[str, Sequence[Sequence[float | None]]]`, *optional*):
            Title and scores of another method on the same stream, drawn to the right on the same colour scale; shape
            (tasks, tasks), or the lower triangle.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the matrix is empty, or the scores in `beside` do not fit its tasks.
    """
    _check_not_empty(matrix)
    panels = [(matrix, "hf_lifelong" if beside else "Score on each task along the stream")]
    if beside is not None:
        title, rows = beside
        panels.append((matrix.beside(rows, "beside"), title))
    side = max(0.5 * len(matrix.tasks), 2.4)
    with drawn(path, ((side + 1.8) * len(panels) + 1.4, side + 2.2)) as figure:
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for panel, (shown, title) in zip(axes, panels, strict=True):
            image = _draw_panel(panel, shown, _heading(title, shown))
        for panel in axes[1:]:
            panel.set_ylabel("")
            panel.set_yticklabels([])
        figure.colorbar(image, ax=list(axes), label="score", shrink=0.8)


def plot_accuracy(matrix: AccuracyMatrix, path: str | os.PathLike[str]) -> None:
    """Draws the average accuracy, and the score on each task since it was learned, along the stream.

    The same input gives the same bytes.

    Args:
        matrix ([`AccuracyMatrix`]):
            What to draw; at least one task.
        path (`str` or `os.PathLike`):
            The PNG file to write, in a folder that exists.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the matrix is empty.
    """
    _check_not_empty(matrix)
    count = len(matrix.tasks)
    with drawn(path, (max(0.5 * count, 4.0) + 3.0, max(0.24 * count, 2.2) + 2.0)) as figure:
        from matplotlib import colormaps

        colours, markers = colormaps[COLOURS], "osD^vP*X"
        axes = figure.subplots()
        missing = float("nan")
        for j, task in enumerate(matrix.tasks):
            scores = [missing if (score := row[j]) is None else score for row in matrix.scores[j:]]
            # The brightest colours would be lost on white. Markers tell similar colours apart.
            colour = colours(0.9 * j / max(count - 1, 1))
            axes.plot(
                range(j, count), scores, color=colour, marker=markers[j % len(markers)], label=short_name(task), lw=1.2
            )
        averages = [matrix.average_accuracy(i) for i in range(count)]
        heights = [missing if value is None else value for value in averages]
        axes.plot(range(count), heights, color="black", lw=3, marker="o", label="average accuracy", zorder=3)
        _label_stream(axes, matrix.tasks)
        axes.set_xlim(-0.3, count - 0.7)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("learned up to")
        axes.set_ylabel("score")
        axes.grid(axis="y", alpha=0.3)
        axes.set_title(_heading("Score on each task along the stream", matrix), fontsize=11)
        legend = axes.legend(
            loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, title="scored on", fontsize=8
        )
        for text in legend.get_texts():
            text.set_parse_math(False)


def plot_confusion(matrix: AccuracyMatrix, path: str | os.PathLike[str]) -> None:
    """Draws which groups answered as a heat map annotated with shares of each task's inputs. There is one row for each
    task, and one column for each group that answered anything.

    The same input gives the same bytes.

    Args:
        matrix ([`AccuracyMatrix`]):
            What to draw; at least one task with a confusion.
        path (`str` or `os.PathLike`):
            The PNG file to write, in a folder that exists.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the matrix has no confusion.
    """
    tasks, groups = list(matrix.confusion), matrix.answering_groups()
    if not tasks:
        raise ValueError("`matrix` has no confusion, so there is nothing to plot; measure which groups answer first.")
    # Cells of groups that never answered stay white, so that the others stand out among many tasks.
    never = float("nan")
    shares = [[matrix.confusion[task].get(group) or never for group in groups] for task in tasks]
    decimals, size = (3, 9) if len(groups) <= 8 else (2, 7.5)
    width, height = (max(0.5 * len(names), 2.4) for names in (groups, tasks))
    with drawn(path, (width + 3.2, height + 2.2)) as figure:
        axes = figure.subplots()
        # Reversed, so that rare cells are close to the white of those that never happened.
        image = axes.imshow(shares, cmap=f"{COLOURS}_r", vmin=0.0, vmax=1.0)
        for i, row in enumerate(shares):
            for j, share in enumerate(row):
                if share == share:
                    _write_in(axes, image, i, j, share, decimals, size)
        _label_stream(axes, groups)
        _label_rows(axes, tasks)
        axes.set_xlabel("answered by the group of")
        axes.set_ylabel("inputs of")
        title = f"Which group answered\nretrieval ↑ {format_score(matrix.retrieval_accuracy())}"
        axes.set_title(title, fontsize=11)
        figure.colorbar(image, ax=axes, label="share of the task's inputs", shrink=0.8)
