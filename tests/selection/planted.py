"""Data of which is known which inputs matter."""

import numpy as np


def planted(seed=0, rows=200, inputs=20, relevant=3, noise=0.2):
    """Inputs `[n, p]` and a target that bends in the first ones only."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, inputs))
    slopes = np.sign(rng.normal(size=relevant))
    target = np.maximum(x[:, :relevant] * slopes + 0.5, 0).sum(1) + 0.5 * np.abs(x[:, 0])
    return x, target + noise * rng.normal(size=rows)
