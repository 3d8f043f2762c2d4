"""The accuracy matrix as a table for terminals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .checks import Row
from .matrix import AccuracyMatrix

MISSING = "·"
_TEXT_WIDTH = 119
_GAP = "  "


def format_score(value: float | None, sign: bool = False, decimals: int = 3) -> str:
    """Returns a score with a fixed number of decimals, on request with a plus sign; `"·"` if it is missing."""
    if value is None:
        return MISSING
    # Adding zero turns the -0.0 that rounding may leave into 0.0.
    rounded = round(value, decimals) + 0.0
    return f"{rounded:+.{decimals}f}" if sign and rounded else f"{rounded:.{decimals}f}"


def summary_line(matrix: AccuracyMatrix) -> str:
    """Returns the metrics of the whole stream in one line; arrows show which direction is better."""
    scored, count = sum(score is not None for row in matrix.scores[-1:] for score in row), len(matrix.tasks)
    over = f" over {scored} of {count} tasks" if scored < count else ""
    metrics = [
        f"average accuracy ↑ {format_score(matrix.average_accuracy())}{over}",
        f"BWT ↑ {format_score(matrix.bwt(), sign=True)} (negative = forgetting)",
        f"forgetting ↓ {format_score(matrix.forgetting())}",
    ]
    forward = matrix.fwt()
    if forward is not None:
        metrics.append(f"FWT ↑ {format_score(forward, sign=True)}")
    retrieved = matrix.retrieval_accuracy()
    if retrieved is not None:
        metrics.append(f"retrieval ↑ {format_score(retrieved)}")
    return ", ".join(metrics)


def _after_rows(matrix: AccuracyMatrix) -> list[tuple[str, Row]]:
    return [(f"after {task}", row) for task, row in zip(matrix.tasks, matrix.scores, strict=True)]


def _if_measured(label: str, row: Row) -> list[tuple[str, Row]]:
    return [(label, row)] if any(value is not None for value in row) else []


def _rows(matrix: AccuracyMatrix) -> list[tuple[str, Row]]:
    return [
        *_if_measured("majority class", matrix.baseline),
        *_after_rows(matrix),
        *_if_measured("oracle (right group given)", matrix.oracle[-1]),
        *_if_measured("retrieval (right group chosen)", matrix.retrieval[-1]),
    ]


def _blocks(widths: list[int], room: int) -> Iterator[range]:
    start, used = 0, 0
    for column, width in enumerate(widths):
        used += len(_GAP) + width
        if used > room and column > start:
            yield range(start, column)
            start, used = column, len(_GAP) + width
    yield range(start, len(widths))


def to_text(matrix: AccuracyMatrix, extra: Mapping[str, Sequence[Sequence[float | None]]] | None = None) -> str:
    """Returns the matrix as a plain-text table for a terminal.

    The table has one column for each task and one row after each task. The first row is the majority class; the last
    rows are the oracle and retrieval accuracy after the last task. A line with the metrics of the stream follows. A
    stream that is too wide for the terminal is split into several tables below each other.

    Args:
        matrix ([`AccuracyMatrix`]):
            What to show.
        extra (`Mapping[str, Sequence[Sequence[float | None]]]`, *optional*):
            Scores of other methods on the same stream by name, such as `"one LoRA, trained on task after task"`; each
            of shape (tasks, tasks), or the lower triangle. Each gets its own table and line of metrics below.

    Returns:
        `str`: Lines of at most 119 characters if the names allow it, without a trailing line break.

    Raises:
        ValueError: If scores in `extra` do not fit the tasks of the matrix.
    """
    if not matrix.tasks:
        return "No task has been learned yet."
    lines = _text_table(matrix, _rows(matrix))
    for name, rows in (extra or {}).items():
        other = matrix.beside(rows, f"extra[{name!r}]")
        lines += ["", f"{name}:", *_text_table(other, _after_rows(other))]
    return "\n".join(lines)


def _text_table(matrix: AccuracyMatrix, rows: list[tuple[str, Row]]) -> list[str]:
    heads = [(task, f"{metric} ↑") for task, metric in zip(matrix.tasks, matrix.metrics, strict=True)]
    widths = [max(len(task), len(metric), 5) for task, metric in heads]
    margin = max(len(label) for label, _ in rows)
    lines: list[str] = []
    for block in _blocks(widths, _TEXT_WIDTH - margin):

        def line(label: str, cells: Sequence[str], block: range = block) -> str:
            padded = (cells[column].rjust(widths[column]) for column in block)
            return _GAP.join([label.ljust(margin), *padded]).rstrip()

        if block.start:
            lines.append("")
        lines.append(line("", [task for task, _ in heads]))
        lines.append(line("", [metric for _, metric in heads]))
        for label, row in rows:
            # Rows from before the tasks of a later block would have only dots.
            if not block.start or any(row[column] is not None for column in block):
                lines.append(line(label, [format_score(value) for value in row]))
    return [*lines, "", summary_line(matrix)]
