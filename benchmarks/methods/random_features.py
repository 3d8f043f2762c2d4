"""Closed forms on random features of the frozen backbone's features: RanPAC without its first phase, and KLDA.

Both work on any features `[N, D]`, of texts or of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import linalg

from hf_lifelong.training import PreparedTask

from .frozen import FLOAT32, Classes, learn_statistics
from .shared import Result, Setting

# Shares of the mean diagonal of the Gram matrix.
PENALTIES = 10.0 ** np.arange(-3, 2)


def ranpac(tasks: Sequence[PreparedTask], setting: Setting) -> Result:
    """RanPAC (McDonnell et al., 2023) without its first phase, which adapts the backbone to the first task: ridge
    regression on random projections after a ReLU. `chosen` has `layers` as of `ncm`, and the `width` of the projection
    (published: 10,000)."""
    return learn_statistics(tasks, setting, RandomRidge(width=setting.chosen["width"], seed=setting.seed))


def klda(tasks: Sequence[PreparedTask], setting: Setting) -> Result:
    """KLDA (Momeni et al., 2025): linear discriminants on random Fourier features of a Gaussian kernel; one draw of
    them (published: five). `chosen` has `layers` as of `ncm`, `gamma`, `shrinkage`, and the `width` of the features
    (published: 5,000)."""
    kernel = {"gamma": setting.chosen["gamma"], "width": setting.chosen["width"], "seed": setting.seed}
    return learn_statistics(tasks, setting, FourierClasses(setting.chosen["shrinkage"], **kernel))


@dataclass
class FourierClasses(Classes):
    """Discriminants on `sqrt(2 / width) * cos(f @ omega + b)` of features f, with omega ~ N(0, 2 * gamma / s) and b ~
    U(0, 2 pi): inner products of these approximate `exp(-gamma * |f - f'|^2 / s)`. The scale s is the mean squared
    distance of two rows of the first task, so that one `gamma` suits features of any scale.

    Args:
        gamma (`float`): Inverse width of the kernel.
        width (`int`): Number of random features.
        seed (`int`): Of the draw.
    """

    gamma: float = 1.0
    width: int = 5000
    seed: int = 0
    omega: np.ndarray | None = None
    offset: np.ndarray | None = None

    def expanded(self, features: np.ndarray) -> np.ndarray:
        if self.omega is None:
            draw = np.random.default_rng(self.seed)
            scale = 2 * features.var(0).sum()
            self.omega = draw.normal(0.0, np.sqrt(2 * self.gamma / scale), (features.shape[1], self.width))
            self.offset = draw.uniform(0.0, 2 * np.pi, self.width)
        return np.sqrt(2 / self.width) * np.cos(features @ self.omega + self.offset)


@dataclass
class RandomRidge(Classes):
    """Ridge regression from `relu(f @ W)`, W ~ N(0, 1), to one-hot classes.

    With each task its penalty is the share in `PENALTIES` of the Gram matrix's mean diagonal that leaves the smallest
    squared error on every fifth row of that task, which are left out meanwhile. So the order of the tasks matters.

    Args:
        width (`int`): Number of random features.
        seed (`int`): Of the draw.

    Attributes:
        penalty (`float`): The share chosen with the newest task.
        gram (`np.ndarray | float`): `[width, width]`, the sum of the rows' outer products.
        products (`list[np.ndarray]`): `[width]` each, the sum of a class's rows.
    """

    width: int = 5000
    seed: int = 0
    projection: np.ndarray | None = None
    penalty: float = float(PENALTIES[0])
    gram: np.ndarray | float = 0.0
    products: list[np.ndarray] = field(default_factory=list)

    def expanded(self, features: np.ndarray) -> np.ndarray:
        if self.projection is None:
            self.projection = np.random.default_rng(self.seed).normal(size=(features.shape[1], self.width))
        return np.maximum(features @ self.projection, 0.0)

    def add(self, features: np.ndarray, targets: np.ndarray, names: Sequence[str], task: int) -> None:
        known, found = len(self.labels), np.unique(targets)
        self.labels += [names[k] for k in found]
        self.tasks += [task] * len(found)
        classes = known + np.searchsorted(found, targets)
        self.products += [np.zeros(features.shape[1]) for _ in found]
        held_out = np.arange(len(features)) % 5 == 4
        self._sum(features[~held_out], classes[~held_out])
        errors = [self.error(features[held_out], classes[held_out], penalty) for penalty in PENALTIES]
        self.penalty = float(PENALTIES[int(np.argmin(errors))])
        self._sum(features[held_out], classes[held_out])

    def _sum(self, features: np.ndarray, classes: np.ndarray) -> None:
        self.gram = self.gram + features.T @ features
        for k in np.unique(classes):
            self.products[k] = self.products[k] + features[classes == k].sum(0)

    def error(self, features: np.ndarray, classes: np.ndarray, penalty: float) -> float:
        """Squared error of some rows under a penalty."""
        wanted = np.eye(len(self.labels))[classes]
        return float(((features @ self.solved(penalty) - wanted) ** 2).sum())

    def solved(self, penalty: float) -> np.ndarray:
        """Weights `[width, C]` under a penalty."""
        penalised = np.array(self.gram)
        penalised[np.diag_indices_from(penalised)] += penalty * penalised.trace() / len(penalised)
        return linalg.solve(penalised, np.stack(self.products, 1), assume_a="pos", overwrite_a=True)

    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        return self.solved(self.penalty).T, np.zeros(len(self.labels))

    def bytes_of(self, task: int) -> int:
        """As `Classes.bytes_of`: a column of products for each class, and the one Gram matrix."""
        size = self.tasks.count(task) * self.width
        if self.tasks and task == self.tasks[0]:
            size += self.width * (self.width + 1) // 2
        return FLOAT32 * size
