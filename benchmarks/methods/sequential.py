"""Without protection, with a few old examples, with all of them, and one adapter per task with the task given."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from datasets import Dataset

from hf_lifelong.evaluation import AccuracyMatrix
from hf_lifelong.training import PreparedTask, majority

from .shared import Result, Setting, SharedLearner, learn_in_turn, trainable_bytes


def sequential(tasks: Sequence[PreparedTask], setting: Setting) -> Result:
    """One LoRA, trained on task after task."""
    learner = SharedLearner(tasks, setting)
    return learn_in_turn(learner, lambda i: learner.train(learner.rows(i), seen=range(i + 1)))


def replay(tasks: Sequence[PreparedTask], setting: Setting) -> Result:
    """One LoRA; a share of every old task's examples (`chosen["share"]`) is kept and trained on with each new task."""
    learner = SharedLearner(tasks, setting)
    kept: list[Dataset] = []

    def learn(i: int) -> None:
        rows = learner.rows(i)
        learner.train(rows, *kept, seen=range(i + 1))
        kept.append(sample(rows, setting.chosen["share"], setting.seed + i))

    return learn_in_turn(learner, learn, stored=lambda i: stored_bytes(kept[i]))


def joint(tasks: Sequence[PreparedTask], setting: Setting) -> Result:
    """One LoRA, trained on all tasks at once: no stream, but what one adapter can hold.

    Row i of its matrix is this one model asked among the labels of the first i tasks. It has nothing to forget, so its
    forgetting is what a stream costs because there is more to choose from.
    """
    learner = SharedLearner(tasks, setting)
    numbers = range(len(tasks))
    start = time.perf_counter()
    learner.train(*(learner.rows(i) for i in numbers), seen=numbers)
    seconds = time.perf_counter() - start
    matrix = AccuracyMatrix()
    for i, task in enumerate(tasks):
        scores = {tasks[j].name: learner.score(j, range(i + 1)) for j in range(i + 1)}
        matrix.add(task.name, task.task_kind.metric, majority(task, task.test), scores)
    given = float(np.mean([learner.score(j, [j]) for j in numbers]))
    stores = [trainable_bytes(learner.model), *[0] * (len(tasks) - 1)]
    return Result(matrix, stores, seconds, beside={"accuracy_task_given": given})


def separate(tasks: Sequence[PreparedTask], setting: Setting) -> Result:
    """One LoRA per task, the task given at test time: what a stream without any forgetting or sharing would give."""
    seconds, final, stores = 0.0, [], []
    for task in tasks:
        learner = SharedLearner([task], setting)
        start = time.perf_counter()
        learner.train(learner.rows(0), seen=[0])
        seconds += time.perf_counter() - start
        final.append(learner.score(0, [0]))
        stores.append(trainable_bytes(learner.model))
    matrix = AccuracyMatrix()
    for i, task in enumerate(tasks):
        scores = {tasks[j].name: final[j] for j in range(i + 1)}
        matrix.add(task.name, task.task_kind.metric, majority(task, task.test), scores)
    return Result(matrix, stores, seconds)


def sample(rows: Dataset, share: float, seed: int) -> Dataset:
    """A random share of rows, at least one."""
    return rows.shuffle(seed=seed).select(range(max(1, round(len(rows) * share))))


def stored_bytes(rows: Dataset) -> int:
    """What rows take: four bytes a token, or the files of their images."""
    if "input_ids" in rows.column_names:
        return sum(4 * len(ids) for ids in rows["input_ids"])
    return sum(len(image["bytes"]) for image in rows["pixel_values"])
