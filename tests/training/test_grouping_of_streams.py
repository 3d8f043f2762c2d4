"""Which group a task joins when it is learned."""

import pytest
from datasets import ClassLabel, Dataset
from training_helpers import answers, sentiment, topics

from hf_lifelong import Task
from hf_lifelong.training import evaluator, learner


def groups(trainer):
    return {task.name: task.group for task in trainer.knowledge.tasks}


def again(**options):
    return sentiment("again", 60, 120, **options)


def test_a_task_that_comes_back_joins_its_group(train, tmp_path):
    trainer = train([sentiment(), answers(), again()], grouping_tolerance=0.5)
    assert groups(trainer) == {"sentiment": "sentiment", "answers": "answers", "again": "sentiment"}
    assert trainer.knowledge.group_index("again") == 0
    assert trainer.matrix.tasks == ["sentiment", "answers", "again"]
    assert trainer.evaluator.score(trainer.prepared(again()), trainer.prepared(again()).test).groups.count("sentiment")


def test_every_task_opens_a_group_at_a_boundary(train):
    trainer = train([sentiment(), again()], grouping="boundary", grouping_tolerance=1.0)
    assert groups(trainer) == {"sentiment": "sentiment", "again": "again"}


def test_other_labels_never_join(train):
    def renamed(name, labels):
        return topics(name, labels=labels)

    trainer = train([topics(), renamed("other", ("brief", "wordy"))], grouping_tolerance=1.0)
    assert groups(trainer) == {"topics": "topics", "other": "other"}


def test_another_kind_never_joins(train):
    trainer = train([answers(), sentiment()], grouping_tolerance=1.0)
    assert groups(trainer) == {"answers": "answers", "sentiment": "sentiment"}


def test_the_same_labels_on_other_texts_never_join(train):
    """Answered as well by the old members, but from elsewhere: joined, it would change the old task's answers."""
    words, opposite = ("sun rain wind", "moon snow ice"), {"label": [0, 1] * 30}
    rows = Dataset.from_dict({"text": [f"{words[i % 2]} {i}" for i in range(60)], **opposite})
    rows = rows.cast_column("label", ClassLabel(names=["negative", "positive"]))
    trainer = train([sentiment(), Task("weather", "text-classification", rows, test=rows)], grouping_tolerance=1.0)
    assert groups(trainer) == {"sentiment": "sentiment", "weather": "weather"}


@pytest.mark.parametrize(("old", "group"), [(0.79, "again"), (0.81, "sentiment")])
def test_only_a_group_that_does_as_well_is_joined(train, monkeypatch, old, group):
    """The new members score 0.9 on the validation part, the old ones `old`; the tolerance is 0.1."""
    scores = {"again": 0.9, "sentiment": old}

    def oracle(self, prepared, split, task):
        return {"accuracy": scores[task] if prepared.name == "again" else 1.0, "f1": 1.0}

    monkeypatch.setattr("hf_lifelong.training.Evaluator.oracle", oracle)
    monkeypatch.setattr(learner, "measure", lambda *_: {})
    trainer = train([sentiment(), again()], grouping_tolerance=0.1)
    assert groups(trainer)["again"] == group


def test_scores_of_a_group_are_those_of_its_newest_member(train):
    trainer = train([sentiment(), again()], grouping_tolerance=1.0)
    prepared = trainer.prepared(sentiment())
    newest = trainer.evaluator.oracle(prepared, prepared.test, "again")
    assert trainer.matrix.oracle[-1][0] == newest["accuracy"]


def test_answers_of_learned_tasks_are_kept_between_commits(train, monkeypatch):
    """Old members never change, so a later task asks only for rows that go elsewhere."""
    asked = []
    predict = evaluator.predict

    def counting(model, batch, *args, **kwargs):
        asked.append(len(batch["input_ids"]))
        return predict(model, batch, *args, **kwargs)

    monkeypatch.setattr(evaluator, "predict", counting)
    trainer = train([sentiment(), answers()], grouping="boundary")
    first = sum(asked)
    trainer.evaluate()
    assert sum(asked) == first
    assert len(trainer.matrix.scores) == 2


def test_a_task_without_test_data_is_scored_on_its_validation_part(train):
    text = ["good", "bad", "fine", "awful"] * 10
    data = Dataset.from_dict({"text": text, "label": ["up", "down", "up", "down"] * 10})
    trainer = train([Task("plain", "text-classification", data)])
    prepared = trainer.prepared(trainer.tasks[0])
    assert prepared.test is prepared.validation and len(prepared.test.examples) == 4
    assert trainer.knowledge.tasks[0].labels == ("down", "up")
