"""What a model scores on a task before it learns it, where an earlier task had the same labels."""

import json
from dataclasses import replace

import pytest
from datasets import ClassLabel
from training_helpers import answers, digest, sentiment, topics

from hf_lifelong.evaluation import to_text
from hf_lifelong.training import TaskLearner


def again(**options):
    return sentiment("again", 60, 120, **options)


def turned():
    """The same task with its labels in the other order."""
    task = again()
    names = ClassLabel(names=["positive", "negative"])
    return replace(task, train=task.train.cast_column("label", names), test=task.test.cast_column("label", names))


def test_a_task_with_known_labels_is_scored_by_the_model_as_it_stood(train, prepare):
    trainer = train([sentiment(), answers()], grouping="boundary")
    prepared = trainer.prepared(again())
    before = trainer.evaluator.score(prepared, prepared.test).metrics["accuracy"]
    learned = trainer.matrix
    later = prepare([again()], model=trainer.model, folder="later", grouping="boundary")
    later.train()
    matrix = later.matrix
    assert matrix.tasks == ["sentiment", "answers", "again"]
    assert matrix.scores[1] == [*learned.scores[1], before] and matrix.scores[0][1:] == [None, None]
    assert matrix.fwt() == pytest.approx(before - matrix.baseline[2])


@pytest.mark.parametrize("second", [answers(), topics(), turned()], ids=["kind", "names", "order"])
def test_a_task_of_another_kind_or_with_other_labels_is_not_scored(train, second):
    matrix = train([sentiment(), second], grouping="boundary").matrix
    assert matrix.scores[0][1] is None and matrix.fwt() is None


def test_scoring_before_a_task_leaves_its_training_as_it_was(train, monkeypatch, tmp_path):
    train([sentiment(), again()], folder="scored")
    monkeypatch.setattr(TaskLearner, "score_before", lambda *_: None)
    train([sentiment(), again()], folder="plain")
    name = "adapter_model.safetensors"
    assert digest(tmp_path / "scored" / name) == digest(tmp_path / "plain" / name)


def test_forward_transfer_is_logged_returned_and_on_the_card(train, tmp_path):
    trainer = train([sentiment(), again()])
    fwt = trainer.matrix.fwt()
    assert [entry["eval_fwt"] for entry in trainer.state.log_history if "eval_fwt" in entry] == [fwt]
    assert trainer.evaluate()["eval_fwt"] == fwt
    assert f"FWT ↑ {fwt:+.3f}".replace("+0.000", "0.000") in to_text(trainer.matrix)
    assert "| FWT ↑ |" in (tmp_path / "out" / "README.md").read_text()
    saved = json.loads((tmp_path / "out" / "accuracy_matrix.json").read_text())
    assert saved["scores"][0][1] == trainer.matrix.scores[0][1]
