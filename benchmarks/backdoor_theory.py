"""Two Gaussian classes and a poisoned kernel regression: do the theory's claims on direction and length hold?

The settings of the released synthetic experiment of "Demystifying Poisoning Backdoor Attacks from a Statistical
Perspective" (ICLR 2024): classes N((±3, 0), diag(3, .5)), 100 training rows, each moved by the trigger
and labelled 0 with probability .2, local linear regression with a cross-validated bandwidth for each axis, 1,000 test
rows, 20 repeats. `safety.py` runs it and sets the errors beside those of an earlier run of our own (`BEFORE`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

LENGTHS, ANGLES = (1, 3, 5), (0, 45, 90, 135, 180)
# (Length, angle) → error on clean rows, share of triggered rows that are not answered by 0, of an earlier run.
BEFORE = dict(
    zip(
        [(length, angle) for length in LENGTHS for angle in ANGLES],
        [
            *((0.080, 0.369), (0.088, 0.323), (0.086, 0.293), (0.093, 0.374), (0.090, 0.469)),
            *((0.068, 0.177), (0.064, 0.068), (0.054, 0.027), (0.068, 0.091), (0.094, 0.424)),
            *((0.056, 0.047), (0.051, 0.008), (0.050, 0.002), (0.054, 0.017), (0.091, 0.461)),
        ],
        strict=True,
    )
)
MEANS, STD = np.array([[3.0, 0.0], [-3.0, 0.0]]), np.sqrt([3.0, 0.5])
ROWS, TEST_ROWS, RHO = 100, 1000, 0.2
BANDWIDTHS = np.geomspace(0.05, 2.0, 10)  # in standard deviations of each axis


def draw(rows: int, repeats: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Inputs `[repeats, rows, 2]` and classes `[repeats, rows]`."""
    classes = rng.integers(2, size=(repeats, rows))
    return MEANS[classes] + STD * rng.normal(size=(repeats, rows, 2)), classes


def regression(at: np.ndarray, x: np.ndarray, y: np.ndarray, width: np.ndarray, leave_out: bool = False) -> np.ndarray:
    """Local linear regression of `y [repeats, n]` on `x [repeats, n, 2]`, at `[repeats, m, 2]`.

    Args:
        width (`ndarray`): `[repeats, 2]`, standard deviations of the Gaussian kernel.
        leave_out (`bool`): Whether each row is estimated without itself; `at` is then `x`.
    """
    away = x[:, None] - at[:, :, None]
    kernel = np.exp(-0.5 * ((away / width[:, None, None]) ** 2).sum(-1))
    if leave_out:
        kernel[:, np.arange(x.shape[1]), np.arange(x.shape[1])] = 0
    design = np.concatenate([np.ones_like(away[..., :1]), away], -1)
    weighted = design * kernel[..., None]
    moments = weighted.swapaxes(-1, -2) @ design + 1e-10 * np.eye(3)
    sums = weighted.swapaxes(-1, -2) @ y[:, None, :, None]
    return np.linalg.solve(moments, sums)[..., 0, 0]


def best_widths(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The bandwidths `[repeats, 2]` with the least squared error on rows that are left out."""
    tried = np.stack(np.meshgrid(BANDWIDTHS, BANDWIDTHS), -1).reshape(-1, 1, 2) * x.std(1)
    errors = [((regression(x, x, y, width, leave_out=True) - y) ** 2).mean(1) for width in tried]
    return tried[np.argmin(errors, 0), np.arange(len(x))]


def errors(length: float, angle: float, repeats: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Clean and backdoor error of the poisoned model, both `[repeats]`."""
    rng = np.random.default_rng(seed)
    x, classes = draw(ROWS, repeats, rng)
    trigger = length * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    poisoned = rng.random(classes.shape) < RHO
    x, y = np.where(poisoned[..., None], x + trigger, x), np.where(poisoned, 0.0, classes)
    widths = best_widths(x, y)
    test, truth = draw(TEST_ROWS, repeats, rng)
    clean = ((regression(test, x, y, widths) > 0.5) != truth).mean(1)
    return clean, (regression(test + trigger, x, y, widths) > 0.5).mean(1)


def cell(length: float, angle: float, repeats: int = 20) -> dict[str, Any]:
    """A row of the table: means, their standard errors, and how many of them, of both runs, they lie from before."""
    row: dict[str, Any] = {"length": length, "angle": angle, "repeats": repeats}
    measured = errors(length, angle, repeats, seed=1000 * int(length) + int(angle))
    for name, found, before in zip(("clean", "backdoor"), measured, BEFORE[length, angle], strict=True):
        error = found.std(ddof=1) / np.sqrt(repeats)
        # The earlier run has 20 repeats, and its table three decimals.
        both = np.hypot(error * np.sqrt(1 + repeats / 20), 0.0005)
        row[f"{name}_error"], row[f"{name}_standard_error"] = float(found.mean()), float(error)
        row[f"{name}_before"], row[f"{name}_off"] = before, float((found.mean() - before) / both)
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether the table was met, and the two figures of length 3."""
    off = [abs(row[f"{name}_off"]) for row in rows for name in ("clean", "backdoor")]
    at = {(row["length"], row["angle"]): row["backdoor_error"] for row in rows}
    return {
        "theory_cells_within_two_standard_errors": f"{sum(x <= 2 for x in off)} of {len(off)}",
        "theory_largest_distance_in_standard_errors": max(off),
        "theory_backdoor_error_length3_90_degrees": at.get((3, 90)),
        "theory_backdoor_error_length3_180_degrees": at.get((3, 180)),
    }
