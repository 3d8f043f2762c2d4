"""Figures as PNG files. Matplotlib is imported when one is drawn, and its global state is left alone."""

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
    """Yields a figure of `size` inches to draw on, and writes it, with the folders that lack; the same drawing gives
    the same bytes.

    Raises:
        ImportError: when matplotlib is not installed.
    """
    try:
        from matplotlib import style
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Plots need matplotlib: run `pip install "hf_lifelong[plots]"`.') from error
    # A user's own style would change the bytes. A figure outside pyplot draws with Agg whatever the backend is.
    with style.context("default"):
        figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
        yield figure
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", bbox_inches="tight", metadata={"Software": None})
