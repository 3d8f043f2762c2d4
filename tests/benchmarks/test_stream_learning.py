"""The benchmark of streams that are learned: which groups count as right, and what is summed up."""

from types import SimpleNamespace

import pytest
import stream_learning
from stream_learning import groups_of, summarise


@pytest.fixture
def learned(monkeypatch):
    """`learned(order, groups)`: the sets of segments of ten rows, and the group of each learned task."""

    def make(order, groups):
        monkeypatch.setattr(stream_learning, "ORDER", order)
        tasks = [SimpleNamespace(name=f"segment-{n + 1}", group=group) for n, group in enumerate(groups)]
        monkeypatch.setattr(stream_learning, "knowledge_of", lambda model: SimpleNamespace(tasks=tasks))
        return [10 * (n + 1) for n in range(len(order))]

    return make


def test_a_task_is_right_in_the_group_of_its_set_or_in_a_new_one(learned):
    ends = learned(["a", "b", "a"], ["segment-1", "segment-2", "segment-1"])
    found = groups_of(None, ends, {"segment-1": 11, "segment-2": 20, "segment-3": 30})
    assert found == {"groups": 2, "true_groups": 2, "tasks": 3, "tasks_right": 3}


def test_a_known_set_in_a_new_group_and_another_set_in_an_old_one_are_wrong(learned):
    ends = learned(["a", "b", "a"], ["segment-1", "segment-1", "segment-3"])
    found = groups_of(None, ends, {"segment-1": 10, "segment-2": 20, "segment-3": 30})
    assert (found["groups"], found["tasks_right"]) == (2, 1)


def test_the_summary_is_of_the_seeds_that_were_run():
    row = {"tasks_right": 3, "tasks": 4}
    rows = {"learned, found, 0": {"accuracy": 0.5, **row}, "learned, found, 1": {"accuracy": 0.6, **row}}
    assert summarise(rows) == {
        "accuracy_found": 0.55,
        "accuracy_told": None,
        "groups_right": ["3 of 4", "3 of 4"],
        "groups_right_told": [],
    }
