"""What two adapters learned apart, in one: the bytes of learning both, statistics of tasks included."""

import pytest
from toy_statistic import Toy, grouped
from training_helpers import answers, saved, sentiment, topics

from hf_lifelong import forget, union

TENSORS = "adapter_model.safetensors"


@pytest.fixture
def both(train):
    """Two trainers that learned apart, and one that learned all of their tasks."""
    # Scores are rounded by which kinds and how many labels an adapter knows, so one task has the statistic of scores.
    tasks = [grouped(sentiment()), answers(), topics()]

    def taught(tasks, folder):
        return train(tasks, folder=folder, start_from="fresh", options={"statistics": [Toy()]})

    return taught(tasks[:2], "first"), taught(tasks[2:], "second"), taught(tasks, "whole")


def test_a_union_is_byte_for_byte_what_one_model_learns_of_all(both, tmp_path):
    first, second, whole = both
    before = saved(second, tmp_path / "second")
    assert union(first.model, second.model) is first.model
    assert saved(first, tmp_path / "union")[TENSORS] == saved(whole, tmp_path / "whole")[TENSORS]
    assert first.knowledge.tasks == whole.knowledge.tasks and first.knowledge.scores is None
    assert saved(second, tmp_path / "again") == before
    first.tasks = whole.tasks
    assert first.evaluate()["eval_average_accuracy"] == whole.evaluate()["eval_average_accuracy"]


def test_what_is_forgotten_after_a_union_leaves_the_other_part(both, tmp_path):
    first, second, _ = both
    alone = saved(first, tmp_path / "alone")[TENSORS]
    union(first.model, second.model)
    forget(first.model, "topics")
    assert saved(first, tmp_path / "rest")[TENSORS] == alone
