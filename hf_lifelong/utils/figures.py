"""Figures as PNG files. Matplotlib is imported only when a figure is drawn, and its global state stays unchanged."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 150


@contextmanager
def drawn(path: str | os.PathLike[str], size: tuple[float, float]) -> Iterator[Figure]:
    """Yields a figure of `size` inches to draw on, then writes it and creates missing folders. The same drawing gives
    the same bytes.

    Raises:
        ImportError: when matplotlib is not installed.
    """
    try:
        from matplotlib import style
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Plots need matplotlib: run `pip install "hf_lifelong[plots]"`.') from error
    # A user's style would change the bytes. A figure outside of pyplot is drawn with Agg, whatever the backend.
    with style.context("default"):
        figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
        yield figure
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", bbox_inches="tight", metadata={"Software": None})
