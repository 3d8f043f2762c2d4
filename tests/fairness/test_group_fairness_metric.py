"""Group fairness as a module of `evaluate`, used as somebody would who has predictions of any model."""

import pytest
from fairness_helpers import random_rows, rates

from hf_lifelong.fairness import fairness_metric


@pytest.fixture
def metric(tmp_path):
    return fairness_metric(cache_dir=str(tmp_path))


def columns(rows, names="abc"):
    groups = [names[group] for group in rows["groups"]]
    return {"predictions": rows["scores"].tolist(), "references": rows["labels"].tolist(), "groups": groups}


@pytest.mark.parametrize("kind", ["sp", "eop", "cal"])
def test_values_of_two_groups(metric, kind):
    rows = random_rows()
    first, second = rates(kind, rows, 2)
    found = metric.compute(**columns(rows), metric=kind)
    assert found["rates"] == pytest.approx({"a": first, "b": second}, abs=1e-12)
    assert found["group_fairness"] == pytest.approx(first - second, abs=1e-12)
    assert set(found) == {"group_fairness", "rates"} and metric.name == "group_fairness"


def test_many_classes_and_groups_in_batches(metric):
    rows = random_rows(groups=3, classes=4)
    given = columns(rows)
    for start in range(0, 400, 90):
        metric.add_batch(**{name: values[start : start + 90] for name, values in given.items()})
    found = metric.compute(metric="eop")
    expected = rates("eop", rows, 3)
    assert found["rates"]["b"] == pytest.approx(expected[1], abs=1e-12)
    assert found["group_fairness"] == pytest.approx((expected.max(0) - expected.min(0)).max(), abs=1e-12)


def test_parts_that_are_fair_alone_and_not_together(metric):
    first, second = ["a"] * 9 + ["b"], ["a"] + ["b"] * 9
    given = {"predictions": [0.9] * 10 + [0.1] * 10, "references": [1] * 20, "groups": first + second}
    found = metric.compute(**given, metric="eop", parts=["ward 1"] * 10 + ["ward 2"] * 10)
    assert found["parts"] == pytest.approx({"ward 1": 0, "ward 2": 0}, abs=1e-12)
    assert found["group_fairness"] == pytest.approx(0.64) and found["bound"] == pytest.approx(0.64)


def test_a_part_of_one_group_and_a_group_without_a_positive_row_have_no_value(metric):
    given = {"predictions": [1, 0, 1, 1, 0], "references": [1, 1, 1, 1, 0], "groups": ["a", "a", "b", "b", "c"]}
    found = metric.compute(**given, metric="eop", parts=["x", "y", "x", "x", "x"])
    assert found["rates"] == {"a": 0.5, "b": 1.0, "c": None} and found["parts"] == {"x": 0.0, "y": None}


def test_decisions_of_a_threshold(metric):
    given = {"predictions": [0.6, 0.4, 0.9, 0.8], "references": [1, 1, 1, 0], "groups": [2, 2, 10, 10]}
    found = metric.compute(**given, metric="cal", threshold=0.5)
    assert found == {"group_fairness": 0.5, "rates": {"2": 1.0, "10": 0.5}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "dp"}, "`metric` is 'dp'; give one of"),
        ({"groups": ["a", "a"]}, r"`groups` has only \['a'\]; fairness is between two groups or more"),
        ({"predictions": [3.5, -2.0]}, r"`scores` holds 3\.5; give probabilities"),
        ({"parts": ["x"]}, "`parts` names 1 parts for 2 rows"),
        ({"predictions": [0.5]}, "Mismatch in the number of predictions"),
    ],
)
def test_rows_that_do_not_fit_are_refused(metric, change, message):
    given = {"predictions": [0.4, 0.5], "references": [1, 0], "groups": ["a", "b"]}
    with pytest.raises(ValueError, match=message):
        metric.compute(**{**given, **change})
