"""A task that answers no better than one answer given to all is kept, but not without a word."""

import logging

import pytest
from datasets import Dataset
from training_helpers import sentiment

from hf_lifelong import Task
from hf_lifelong.hub import describe, pull, to_report
from hf_lifelong.knowledge import KnowledgeBase, LearnedTask


def vain() -> Task:
    """Nothing can be learned of it: all texts are one, so that one answer is given to all."""

    def rows(count):
        return Dataset.from_dict({"text": ["the same"] * count, "label": ["no", "yes"] * (count // 2)})

    return Task("vain", "text-classification", rows(24), validation=rows(8))


def test_a_task_at_chance_is_told_in_log_card_and_inspect(train, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "hf_lifelong"):
        trainer = train([vain()], max_steps=2)
    task = trainer.knowledge.tasks[0]
    assert (task.score, task.baseline, task.at_chance) == (0.5, 0.5, True)
    told = [record.message for record in caplog.records if "`vain`" in record.message]
    assert len(told) == 1 and "accuracy" in told[0] and "0.500" in told[0] and "lower `learning_rate`" in told[0]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**Not learned: vain.** It scores 0.500" in card and "lower `learning_rate`" in card
    saved = pull(tmp_path / "out")
    assert "Not learned: vain scores 0.500, its most frequent answer alone 0.500." in to_report(saved)
    assert describe(saved)["tasks"][0]["baseline"] == 0.5


def test_a_task_that_is_learned_is_not_warned_of_and_old_manifests_have_no_baseline(train, tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "hf_lifelong"):
        trainer = train([sentiment("mood", validation=sentiment().train)], max_steps=12, learning_rate=1e-2)
    task = trainer.knowledge.tasks[0]
    assert task.score > task.baseline and not caplog.records
    saved = pull(tmp_path / "out")
    assert "Not learned" not in to_report(saved) + (tmp_path / "out" / "README.md").read_text()
    manifest = trainer.knowledge.to_dict()
    del manifest["tasks"][0]["baseline"]
    old = KnowledgeBase.from_dict(manifest)
    assert old.tasks[0].baseline is None and not old.tasks[0].at_chance


@pytest.mark.parametrize(
    ("score", "baseline", "at_chance"),
    [(0.5, 0.5, True), (0.4, 0.5, True), (0.51, 0.5, False), (0.0, 0.0, True), (1.0, 1.0, False), (0.9, 1.0, True)],
)
def test_chance_is_the_score_of_one_answer_unless_all_are_right(score, baseline, at_chance):
    task = LearnedTask("a", "text-classification", ("no", "yes"), 2, 1, "a", 9, score=score, baseline=baseline)
    assert task.at_chance == at_chance
