"""Without any training: class means in the features of the frozen backbone.

A class is a label of one task; classes of several tasks that carry the same label name give the same answer. So no
statistic of a learned task ever changes, and the order of the tasks changes nothing. Every class counts the same.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from scipy import linalg
from sklearn.covariance import shrunk_covariance
from transformers import AutoModel

from hf_lifelong import DriftAdapterConfig
from hf_lifelong.adapter import settle_trunk
from hf_lifelong.adapter.forward import masked_mean
from hf_lifelong.evaluation import AccuracyMatrix
from hf_lifelong.training import PreparedTask, majority

from .shared import Result, Setting, batches, image_parts, in_order, on_device

FLOAT32 = 4


def ncm(tasks: Sequence[PreparedTask], setting: Setting) -> Result:
    """Nearest class mean by Euclidean distance, as scikit-learn's `NearestCentroid`.

    `chosen["layers"]` is `"all"` or `"last"`, or of images `"four"`. It cannot answer questions: such a task scores
    what empty answers score.
    """
    return learn_statistics(tasks, setting, Classes())


def lda(tasks: Sequence[PreparedTask], setting: Setting) -> Result:
    """Linear discriminant analysis: class means, and one covariance within classes for all.

    The same as scikit-learn's `LinearDiscriminantAnalysis(solver="lsqr", shrinkage=…, priors=<uniform>)` on the
    features of all tasks at once, from statistics that are summed task by task. `chosen["shrinkage"]` lies in (0, 1],
    `chosen["layers"]` is as of `ncm`, or `"trunk"`: those that our default reads to choose a group. It cannot answer
    questions: such a task scores what empty answers score.
    """
    return learn_statistics(tasks, setting, Classes(setting.chosen["shrinkage"]))


@dataclass
class Classes:
    """Statistics of the classes seen so far, float64.

    Args:
        shrinkage (`float`, *optional*): Share of the scaled identity in the covariance. Without it the covariance is
            the identity.

    Attributes:
        means (`list[np.ndarray]`): `[F]` each.
        labels (`list[str]`): Label name of each class.
        tasks (`list[int]`): Place in the stream of each class's task.
        covariance (`np.ndarray | float`): `[F, F]`, the sum of the classes' covariances.
    """

    shrinkage: float | None = None
    means: list[np.ndarray] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)
    covariance: np.ndarray | float = 0.0

    def expanded(self, features: np.ndarray) -> np.ndarray:
        """What statistics are kept of, `[N, F]`, of features of the backbone; the first task's rows come first."""
        return features

    def add(self, features: np.ndarray, targets: np.ndarray, names: Sequence[str], task: int) -> None:
        """Adds the classes of a task: features `[N, F]`, targets `[N]` into `names`."""
        found, place, counts = np.unique(targets, return_inverse=True, return_counts=True)
        means = np.stack([features[targets == k].mean(0, dtype=np.float64) for k in found])
        self.means += list(means)
        self.labels += [names[k] for k in found]
        self.tasks += [task] * len(found)
        if self.shrinkage is not None:
            # Every class counts the same, so its rows weigh 1 / n.
            centred = (features - means[place]) / np.sqrt(counts[place])[:, None]
            self.covariance = self.covariance + centred.T @ centred

    def weights(self) -> Any:
        """Weights `[C, F]` and offsets `[C]` of the classes' linear scores, where all classes are equally likely."""
        means = np.stack(self.means)
        weights = means
        if self.shrinkage is not None:
            covariance = shrunk_covariance(self.covariance / len(means), self.shrinkage)
            weights = linalg.solve(covariance, means.T, assume_a="pos").T
        return weights, -0.5 * (weights * means).sum(1)

    def scores(self, features: np.ndarray, weights: Any) -> np.ndarray:
        """How much each class is preferred, `[N, C]`, from expanded features and what `weights` gave."""
        return features @ weights[0].T + weights[1]

    def bytes_of(self, task: int) -> int:
        """What is stored of a task, as float32; the covariance, one for all, counts as the first one's."""
        size = self.tasks.count(task) * len(self.means[0]) if self.means else 0
        if self.shrinkage is not None and self.tasks and task == self.tasks[0]:
            size += len(self.means[0]) * (len(self.means[0]) + 1) // 2
        return FLOAT32 * size


def learn_statistics(
    tasks: Sequence[PreparedTask], setting: Setting, classes: Classes, backbone: Any = None
) -> Result:
    """Takes in task after task and scores all tasks so far after each.

    Args:
        backbone (`nn.Module`, *optional*): What gives the features; by default the model as it is.
    """
    as_loaded = backbone is None
    backbone = on_device(AutoModel.from_pretrained(setting.model, dtype=torch.float32) if as_loaded else backbone)
    layers = setting.chosen["layers"]
    matrix, seconds, given = AccuracyMatrix(), 0.0, []
    tests = [features_of(backbone, task, task.test.features, layers, as_loaded) for task in tasks]
    for number, task in enumerate(tasks):
        start = time.perf_counter()
        if labelled(task):
            features = classes.expanded(features_of(backbone, task, task.train, layers, as_loaded))
            classes.add(features, np.array(task.train["labels"]), task.labels, number)
            tests[number] = classes.expanded(tests[number])
        weights = classes.weights() if classes.labels else None
        seconds += time.perf_counter() - start
        scores = {tasks[j].name: score(tasks[j], tests[j], classes, weights) for j in range(number + 1)}
        matrix.add(task.name, task.task_kind.metric, majority(task, task.test), scores)
    given = [score(task, tests[j], classes, weights, only=j) for j, task in enumerate(tasks)]
    stores = [classes.bytes_of(j) for j in range(len(tasks))]
    return Result(matrix, stores, seconds, beside={"accuracy_task_given": float(np.mean(given))})


def labelled(task: PreparedTask) -> bool:
    return task.task_kind.one_label


def score(
    task: PreparedTask,
    features: np.ndarray,
    classes: Classes,
    weights: Any,
    only: int | None = None,
) -> float:
    """The task's metric on its test rows; among the classes of task `only` where it is given."""
    references = task.task_kind.references(task.test.examples, task.columns, task.labels)
    answers = [""] * len(references)
    if labelled(task) and weights is not None:
        scores = classes.scores(features, weights)
        if only is not None:
            scores[:, np.array(classes.tasks) != only] = -np.inf
        answers = [classes.labels[k] for k in scores.argmax(1)]
    return task.task_kind.score(answers, references)[task.task_kind.metric]


# Grids and methods read the same features, and a pass over the rows is much of what such a method costs.
_FEATURES: dict[tuple[str, bytes], np.ndarray] = {}


def features_of(backbone: Any, task: PreparedTask, rows: Dataset, layers: str, as_loaded: bool = True) -> np.ndarray:
    """Features of encoded rows: of texts the mean hidden states `[N, H]` of the last layer, or `[N, layers * H]` of
    the embeddings and all layers, or those of our trunk, side by side; of images class token and mean of the patches,
    normalised as the backbone does, `[N, 2 * H]` of the last layer or `[N, 8 * H]` of the last four.

    Args:
        as_loaded (`bool`): Whether the backbone is as its name says, so that its features may be remembered.
    """
    if not labelled(task):
        return np.zeros((len(rows), 0))
    of_images = "pixel_values" in rows.column_names
    make = image_features if of_images else text_features
    if as_loaded:
        key = (backbone.config.name_or_path, digest_of(rows))
        if key not in _FEATURES:
            _FEATURES[key] = make(backbone, task, rows)
        features = _FEATURES[key]
    else:
        features = make(backbone, task, rows)
    hidden = backbone.config.hidden_size
    trunk = 0 if of_images else hidden * (settle_trunk(DriftAdapterConfig(), backbone) + 1)
    parts = {"last": slice(-2 * hidden if of_images else -hidden, None), "trunk": slice(trunk)}
    return features[:, parts.get(layers, slice(None))].astype(np.float64)


def digest_of(rows: Dataset) -> bytes:
    """What tells encoded rows from others."""
    if "pixel_values" in rows.column_names:
        return hashlib.sha256(b"".join(image["bytes"] for image in rows["pixel_values"])).digest()
    return hashlib.sha256(str(list(rows["input_ids"])).encode()).digest()


@torch.no_grad()
def text_features(backbone: Any, task: PreparedTask, rows: Dataset) -> np.ndarray:
    def pooled(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        states = backbone(**batch, output_hidden_states=True).hidden_states
        return torch.cat([masked_mean(state, batch["attention_mask"]) for state in states], 1).cpu()

    return torch.stack(in_order(batches(task.tokenizer, rows, 64, pooled, backbone.device))).numpy()


@torch.no_grad()
def image_features(backbone: Any, task: PreparedTask, rows: Dataset) -> np.ndarray:
    def pooled(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.autocast(backbone.device.type, torch.bfloat16):
            states = backbone(**batch, output_hidden_states=True).hidden_states[-4:]
        parts = [image_parts(backbone.layernorm(state.float())).flatten(1) for state in states]
        return torch.cat(parts, 1).cpu()

    return torch.stack(in_order(batches(task.tokenizer, rows, 64, pooled, backbone.device))).numpy()
