"""Pictures of what a trigger would do."""

from __future__ import annotations

import os

from ..utils.figures import drawn
from .risk import RiskCurve


def plot_risk_curve(curve: RiskCurve, path: str | os.PathLike[str]) -> None:
    """Draws clean bias and backdoor bias over the magnitude of the trigger, one line for each rho.

    Args:
        curve ([`RiskCurve`]): What to draw.
        path: PNG file to write.

    Raises:
        ImportError: when matplotlib is not installed.
    """
    panels = (("bias on clean inputs", curve.clean_bias), ("bias on triggered inputs", curve.backdoor_bias))
    with drawn(path, (8.4, 3.6)) as figure:
        for axes, (title, biases) in zip(figure.subplots(1, 2), panels, strict=True):
            for rho, column in zip(curve.rho.tolist(), biases.T, strict=True):
                axes.plot(curve.magnitudes.tolist(), column.tolist(), marker="o", label=f"rho = {rho:g}")
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("magnitude of the trigger")
            axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.legend(frameon=False)
