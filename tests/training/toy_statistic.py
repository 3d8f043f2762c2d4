"""A statistic for tests: sums of the members' scores for each group of rows that a column of the user's names."""

import torch

from hf_lifelong.statistics import TaskRefused, TaskStatistic
from hf_lifelong.storage import TensorSpec

GROUPS = ("north", "south")


class Toy(TaskStatistic):
    name = "toy"
    columns = ("group",)
    needs_scores = True
    tensors = (
        TensorSpec("sums", ("groups", "classes"), dtype="float64"),
        TensorSpec("counts", ("groups",), dtype="int64"),
        TensorSpec("mean", ("features",), dtype="float16"),
    )

    def check(self, columns):
        if strange := set(columns["group"]) - set(GROUPS):
            raise ValueError(f"group {strange.pop()!r} is none of {GROUPS}")

    def fit(self, rows):
        group = torch.tensor([GROUPS.index(name) for name in rows.columns["group"]])
        sums = torch.zeros(len(GROUPS), len(rows.classes), dtype=torch.float64)
        sums.index_add_(0, group, rows.scores.double())
        mean = rows.features.double().mean(0).half()
        return {"mean": mean, "sums": sums, "counts": torch.bincount(group, minlength=len(GROUPS))}

    def merge(self, a, b):
        return {name: a[name] + b[name] for name in a}

    def describe(self, values):
        return {"rows": int(values["counts"].sum()), "first score": float(values["sums"][0, 0])}


class Refusing(Toy):
    name = "refusing"

    def __init__(self, task):
        self.task = task

    def fit(self, rows):
        if rows.task == self.task:
            raise TaskRefused(f"task `{rows.task}` looks poisoned")
        return super().fit(rows)


def grouped(task, column="place"):
    """A task with a column of the user's beside those that its kind reads."""
    for part in ("train", "test"):
        data = getattr(task, part)
        setattr(task, part, data.add_column(column, [GROUPS[i % 3 % 2] for i in range(len(data))]))
    task.columns = {**task.columns, "group": column}
    return task
