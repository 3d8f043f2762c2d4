"""Closed forms on random features of the backbone's features: ridge regression by sums, RanPAC, and KLDA.

All work on any features `[N, D]`, of texts or of images.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import linalg
from scipy.special import softmax

from hf_lifelong.training import PreparedTask

from .frozen import FLOAT32, Classes, learn_statistics
from .shared import Result, Setting, SharedLearner, trainable_bytes

# Shares of the mean diagonal of the Gram matrix.
PENALTIES = 10.0 ** np.arange(-3, 2)


def ridge(tasks: Sequence[PreparedTask], setting: Setting) -> Result:
    """The solution of ACIL (Zhuang et al., 2022): ridge regression on random projections after a ReLU, from sums over
    the tasks, which is what its recursion arrives at. `chosen` has `layers` as of `ncm`, the `width` of the
    projection, and the `penalty` (published: .1)."""
    width, penalty = setting.chosen["width"], setting.chosen["penalty"]
    return learn_statistics(tasks, setting, RandomRidge(width=width, seed=setting.seed, penalty=penalty))


def ranpac(tasks: Sequence[PreparedTask], setting: Setting) -> Result:
    """RanPAC (McDonnell et al., 2023) without its first phase, which adapts the backbone to the first task. `chosen`
    has `layers` as of `ncm`, and the `width` of the projection (published: 10,000)."""
    return learn_statistics(tasks, setting, ValidatedRidge(width=setting.chosen["width"], seed=setting.seed))


def ranpac_first(tasks: Sequence[PreparedTask], setting: Setting) -> Result:
    """RanPAC with its first phase: one LoRA is trained on the first task and merged into the backbone, which gives the
    features of all tasks from then on. `chosen` has what `ranpac` and `sequential` take."""
    start = time.perf_counter()
    learner = SharedLearner(tasks, setting)
    learner.train(learner.rows(0), seen=[0])
    stored = trainable_bytes(learner.model.backbone)
    backbone = learner.model.backbone.merge_and_unload()
    seconds = time.perf_counter() - start
    classes = ValidatedRidge(width=setting.chosen["width"], seed=setting.seed)
    result = learn_statistics(tasks, setting, classes, backbone)
    result.seconds += seconds
    result.bytes_per_task[0] += stored
    return result


def klda(tasks: Sequence[PreparedTask], setting: Setting) -> Result:
    """KLDA (Momeni et al., 2025): linear discriminants on random Fourier features of a Gaussian kernel. `chosen` has
    `layers` as of `ncm`, `gamma`, `shrinkage`, the `width` of the features (published: 5,000), and how many `draws`
    answer together (published: five)."""
    kernel = {"gamma": setting.chosen["gamma"], "width": setting.chosen["width"]}
    draws = [
        FourierClasses(setting.chosen["shrinkage"], **kernel, seed=setting.seed + i)
        for i in range(setting.chosen.get("draws", 1))
    ]
    return learn_statistics(tasks, setting, draws[0] if len(draws) == 1 else Ensemble(draws=draws))


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
class Ensemble(Classes):
    """The mean of the class probabilities of several draws.

    Args:
        draws (`list[FourierClasses]`): They differ in their seed. Their features stand side by side.
    """

    draws: list[FourierClasses] = field(default_factory=list)

    def expanded(self, features: np.ndarray) -> np.ndarray:
        return np.concatenate([one.expanded(features) for one in self.draws], 1)

    def add(self, features: np.ndarray, targets: np.ndarray, names: Sequence[str], task: int) -> None:
        for one, part in zip(self.draws, self._parts(features), strict=True):
            one.add(part, targets, names, task)
        self.labels, self.tasks = self.draws[0].labels, self.draws[0].tasks

    def weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [one.weights() for one in self.draws]

    def scores(self, features: np.ndarray, weights: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        parts = zip(self.draws, self._parts(features), weights, strict=True)
        return np.mean([softmax(one.scores(part, solved), 1) for one, part, solved in parts], 0)

    def bytes_of(self, task: int) -> int:
        return sum(one.bytes_of(task) for one in self.draws)

    def _parts(self, features: np.ndarray) -> list[np.ndarray]:
        return np.split(features, len(self.draws), 1)


@dataclass
class RandomRidge(Classes):
    """Ridge regression from `relu(f @ W)`, W ~ N(0, 1), to one-hot classes: from sums, the same in any order.

    Args:
        width (`int`): Number of random features.
        seed (`int`): Of the draw.
        penalty (`float`): Added to the diagonal of the Gram matrix.

    Attributes:
        gram (`np.ndarray | float`): `[width, width]`, the sum of the rows' outer products.
        products (`list[np.ndarray]`): `[width]` each, the sum of a class's rows.
    """

    width: int = 5000
    seed: int = 0
    penalty: float = 0.1
    projection: np.ndarray | None = None
    gram: np.ndarray | float = 0.0
    products: list[np.ndarray] = field(default_factory=list)

    def expanded(self, features: np.ndarray) -> np.ndarray:
        if self.projection is None:
            self.projection = np.random.default_rng(self.seed).normal(size=(features.shape[1], self.width))
        return np.maximum(features @ self.projection, 0.0)

    def add(self, features: np.ndarray, targets: np.ndarray, names: Sequence[str], task: int) -> None:
        self._sum(features, self._entered(features, targets, names, task))

    def _entered(self, features: np.ndarray, targets: np.ndarray, names: Sequence[str], task: int) -> np.ndarray:
        """Enters the classes of a task, and gives the place of each row's class among all."""
        known, found = len(self.labels), np.unique(targets)
        self.labels += [names[k] for k in found]
        self.tasks += [task] * len(found)
        self.products += [np.zeros(features.shape[1]) for _ in found]
        return known + np.searchsorted(found, targets)

    def _sum(self, features: np.ndarray, classes: np.ndarray) -> None:
        self.gram = self.gram + features.T @ features
        for k in np.unique(classes):
            self.products[k] = self.products[k] + features[classes == k].sum(0)

    def solved(self, penalty: float) -> np.ndarray:
        """Weights `[width, C]` under a penalty."""
        penalised = np.array(self.gram)
        penalised[np.diag_indices_from(penalised)] += penalty
        return linalg.solve(penalised, np.stack(self.products, 1), assume_a="pos", overwrite_a=True)

    def weights(self) -> tuple[np.ndarray, np.ndarray]:
        return self.solved(self.penalty).T, np.zeros(len(self.labels))

    def bytes_of(self, task: int) -> int:
        """As `Classes.bytes_of`: a column of products for each class, and the one Gram matrix."""
        size = self.tasks.count(task) * self.width
        if self.tasks and task == self.tasks[0]:
            size += self.width * (self.width + 1) // 2
        return FLOAT32 * size


@dataclass
class ValidatedRidge(RandomRidge):
    """The same under a penalty chosen with each task: the share in `PENALTIES` of the Gram matrix's mean diagonal that
    leaves the smallest squared error on every fifth row of that task, which are left out meanwhile. So the order of
    the tasks matters.

    Attributes:
        share (`float`): The share chosen with the newest task.
    """

    share: float = float(PENALTIES[0])

    def add(self, features: np.ndarray, targets: np.ndarray, names: Sequence[str], task: int) -> None:
        classes = self._entered(features, targets, names, task)
        held_out = np.arange(len(features)) % 5 == 4
        self._sum(features[~held_out], classes[~held_out])
        errors = [self.error(features[held_out], classes[held_out], share) for share in PENALTIES]
        self.share = float(PENALTIES[int(np.argmin(errors))])
        self._sum(features[held_out], classes[held_out])
        self.penalty = self._amount(self.share)

    def error(self, features: np.ndarray, classes: np.ndarray, share: float) -> float:
        """Squared error of some rows under a share."""
        wanted = np.eye(len(self.labels))[classes]
        return float(((features @ self.solved(self._amount(share)) - wanted) ** 2).sum())

    def _amount(self, share: float) -> float:
        return share * float(np.trace(self.gram)) / self.width
