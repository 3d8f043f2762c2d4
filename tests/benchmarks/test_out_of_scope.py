"""Scores of unknown inputs, and how well they do."""

import json
import sys

import numpy as np
import out_of_scope
import pytest
from datasets import ClassLabel, Dataset
from out_of_scope import detection, distances
from sklearn.covariance import EmpiricalCovariance


def test_detection_is_what_can_be_counted():
    # Of 20 known inputs one lies above all unknown ones but the last.
    known, unknown = np.array([*np.linspace(0, 1, 19), 3.0]), np.array([0.5, 2.0, 2.5, 4.0])
    found = detection(known, unknown)
    # .5 lies above nine of the known and beside one; 2 and 2.5 above 19; 4 above all.
    assert found["auroc"] == pytest.approx((9.5 + 19 + 19 + 20) / 80)
    assert found["fpr_at_95_tpr"] == pytest.approx(11 / 20)
    assert found["recall_at_5_fpr"] == pytest.approx(3 / 4)
    # Precision where each of them is found, from the top: 1 of 1, 2 of 3, 3 of 4, 4 of 4 + 11.
    assert found["aupr"] == pytest.approx((1 + 2 / 3 + 3 / 4 + 4 / 15) / 4)


def test_a_score_that_knows_nothing_finds_nothing():
    found = detection(np.zeros(10), np.zeros(10))
    assert found == {"auroc": 0.5, "aupr": 0.5, "fpr_at_95_tpr": 1.0, "recall_at_5_fpr": 0.0}


def test_distances_are_those_of_scikit_learn():
    draw = np.random.default_rng(0)
    labels = np.repeat([0, 1, 5], 20)
    train = draw.normal(size=(60, 3)) @ draw.normal(size=(3, 3)) + 4 * labels[:, None]
    rows = draw.normal(size=(7, 3))
    own, background = distances(rows, train, labels)
    means = np.stack([train[labels == k].mean(0) for k in (0, 1, 5)])
    within = EmpiricalCovariance(assume_centered=True).fit(train - np.repeat(means, 20, 0))
    np.testing.assert_allclose(own, np.min([within.mahalanobis(rows - mean) for mean in means], 0))
    np.testing.assert_allclose(background, EmpiricalCovariance().fit(train).mahalanobis(rows))


def test_a_joint_model_gives_every_score_of_every_row(stream, setting):
    tasks = stream("films", "news")
    foreign = tasks[0].tokenizer(["zzz qqq", "1 2 3 4", "??"])
    columns = {key: foreign[key] for key in ("input_ids", "attention_mask")}
    scores = out_of_scope.joint(tasks, Dataset.from_dict(columns), setting(epochs=3, labels="seen"))
    assert list(scores) == ["maximum softmax", "energy", "Mahalanobis", "relative Mahalanobis"]
    known = sum(len(task.test.features) for task in tasks)
    assert all((len(own), len(other)) == (known, 3) for own, other in scores.values())
    assert ((scores["maximum softmax"][0] >= 0) & (scores["maximum softmax"][0] < 1)).all()


def test_a_method_that_is_run_again_replaces_its_row(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["out_of_scope.py", "--results", str(tmp_path)])
    monkeypatch.setattr(out_of_scope.datasets, "disable_progress_bars", lambda: None)
    monkeypatch.setattr(out_of_scope.logging, "set_verbosity_error", lambda: None)
    for auroc in (0.6, 0.7):
        row = {"method": "joint", "seed": 0, "auroc": auroc}
        monkeypatch.setattr(out_of_scope, "run", lambda name, args, row=row: row)
        out_of_scope.main()
        assert json.loads((tmp_path / "out_of_scope.json").read_text())["rows"] == [row]


def test_questions_out_of_scope_come_from_the_hub_without_a_folder(monkeypatch):
    data = Dataset.from_dict({"text": ["a", "b", "c"], "intent": [0, 1, 0]})
    data = data.cast_column("intent", ClassLabel(names=["oos", "yes"]))
    monkeypatch.setattr(
        out_of_scope, "load_dataset", lambda *source: {("clinc/clinc_oos", "plus"): {"test": data}}[source]
    )
    assert out_of_scope.out_of_scope(None) == ["a", "c"]
