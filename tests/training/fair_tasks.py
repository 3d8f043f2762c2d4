"""Tasks about people of two groups, and how they are learned fair."""

from hf_lifelong.adapter import statistics_of
from hf_lifelong.fairness import FairnessSums

FAIR = {"fairness": "sp", "fairness_weight": 50.0, "start_from": "fresh", "grouping": "boundary"}


def people(task, names=("f", "m"), column="sex"):
    """A task three quarters of whose rows of a class are of the group at the class's position."""
    labels = task.train["label"][:]
    classes = sorted(set(labels))
    positions = [(classes.index(label) + (row % 4 == 0)) % 2 for row, label in enumerate(labels)]
    task.train = task.train.add_column(column, [names[position] for position in positions])
    task.columns = {**task.columns, "group": column}
    return task


def sums_of(trainer):
    """The stored sums of each task."""
    statistic = FairnessSums()
    return {task: statistic.read(values) for task, values in statistics_of(trainer.model, "fairness").items()}
