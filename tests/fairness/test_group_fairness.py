"""What `GroupFairness` says of rows, alone and added up."""

import json

import numpy as np
import pytest
import torch
from fairness_helpers import part, random_rows, rates

import hf_lifelong
from hf_lifelong.fairness import GroupFairness

METRICS = ("sp", "eop", "cal")


def measured(metric, rows, groups=2, **settings):
    fairness = GroupFairness(metric, groups, **settings)
    fairness.update(**rows)
    return fairness


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("groups", "classes"), [(2, 2), (5, 2), (2, 4), (3, 4)])
def test_values_are_those_of_the_definitions(metric, groups, classes):
    rows = random_rows(groups=groups, classes=classes)
    fairness = measured(metric, rows, groups, classes=classes)
    expected = rates(metric, rows, groups)
    np.testing.assert_allclose(fairness.rates().numpy(), expected, rtol=0, atol=1e-12)
    gaps = np.atleast_1d(expected[0] - expected[1] if groups == 2 else expected.max(0) - expected.min(0))
    assert fairness.value() == pytest.approx(gaps[np.abs(gaps).argmax()], abs=1e-12)
    assert fairness.rows == 400


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("settings", [{}, {"threshold": 0.4}, {"classes": 3}, {"classes": 3, "threshold": 0.4}])
def test_parts_added_up_are_the_whole(metric, settings):
    rows = random_rows(rows=5000, groups=3, classes=settings.get("classes", 2))
    whole = measured(metric, rows, 3, **settings)
    batches = np.split(np.random.default_rng(1).permutation(5000), [7, 8, 1200, 3000, 3000, 4999])
    parts = [measured(metric, part(rows, which), 3, **settings) for which in batches]
    before = [one.to_dict() for one in parts]
    merged = sum(parts)
    for found in (merged, parts[0] + sum(parts[1:])):
        assert found.value() == pytest.approx(whole.value(), abs=1e-12) and found.rows == 5000
        np.testing.assert_allclose(found.rates(), whole.rates(), rtol=0, atol=1e-12)
    assert [one.to_dict() for one in parts] == before  # adding changes nothing
    one = GroupFairness(metric, 3, **settings)
    for which in batches:
        one.update(**part(rows, which))
    assert one.to_dict() == merged.to_dict()


@pytest.mark.parametrize("metric", METRICS)
def test_decisions_of_a_threshold_and_decided_classes_are_alike(metric):
    rows = random_rows()
    decided = {**rows, "scores": (rows["scores"] >= 0.4)}
    by_threshold = measured(metric, rows, threshold=0.4)
    assert by_threshold.value() != measured(metric, rows).value()
    for scores in (decided["scores"], decided["scores"].astype(np.int64), decided["scores"].astype(np.float32)):
        assert measured(metric, {**rows, "scores": scores}).sums.tolist() == by_threshold.sums.tolist()


def test_decided_classes_of_many_are_one_against_the_rest():
    rows = random_rows(groups=3, classes=4)
    best = rows["scores"].argmax(1)
    found = measured("eop", {**rows, "scores": best}, 3, classes=4)
    expected = rates("eop", {**rows, "scores": np.eye(4)[best]}, 3)
    np.testing.assert_allclose(found.rates(), expected, rtol=0, atol=1e-12)


def test_two_columns_of_two_classes_are_the_second():
    rows = random_rows()
    both = {**rows, "scores": np.stack([1 - rows["scores"], rows["scores"]], axis=1)}
    assert measured("eop", both).to_dict() == measured("eop", rows).to_dict()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_arrays_and_lists_are_alike(dtype):
    rows = random_rows()
    scores = torch.tensor(rows["scores"], dtype=dtype, requires_grad=True)
    given = {name: torch.tensor(values) for name, values in rows.items()}
    found = measured("cal", {**given, "scores": scores})
    same = {name: values.tolist() for name, values in {**given, "scores": scores.double()}.items()}
    assert found.to_dict() == measured("cal", same).to_dict()
    assert found.sums.dtype == torch.float64 and not found.sums.requires_grad


def test_float32_scores_of_many_rows_are_summed_in_float64():
    scores = torch.full((2_000_000,), 0.1)  # in float32 the sum would be off by 1e-3 of itself or more
    labels, groups = torch.ones(len(scores)), torch.arange(len(scores)) % 2
    assert measured("sp", {"scores": scores, "labels": labels, "groups": groups}).rates().tolist() == pytest.approx(
        [float(scores[0])] * 2, abs=1e-12
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_rows_on_a_gpu_give_the_same():
    rows = random_rows(groups=3, classes=4)
    on_gpu = {name: torch.tensor(values).cuda() for name, values in rows.items()}
    found, expected = (measured("cal", given, 3, classes=4) for given in (on_gpu, rows))
    torch.testing.assert_close(found.sums, expected.sums, rtol=0, atol=1e-10)


def test_rows_of_no_group_only_count_as_rows():
    rows = random_rows()
    some = rows["groups"].copy()
    some[::3] = -100
    found = measured("eop", {**rows, "groups": some})
    assert found.rows == 400
    assert found.value() == measured("eop", part(rows, some != -100)).value()


def test_small_integers_hold_as_many_groups_as_they_can():
    found = GroupFairness("sp", 300)
    found.update(np.array([0.5, 0.25]), np.array([0, 1], dtype=np.int8), np.array([156, 255], dtype=np.uint8))
    assert found.value() == 0.25


def test_groups_without_a_row_that_counts_are_left_out():
    rows = {"scores": [0.9, 0.5, 0.2, 0.4], "labels": [1, 1, 1, 0], "groups": [0, 0, 2, 3]}
    found = measured("eop", rows, 4)  # group 1 has no row, group 3 no positive one
    assert found.rates().tolist() == pytest.approx([0.7, float("nan"), 0.2, float("nan")], nan_ok=True)
    assert found.value() == pytest.approx(0.5) and found.is_known


@pytest.mark.parametrize(
    ("metric", "rows", "message"),
    [
        ("sp", {"scores": [], "labels": [], "groups": []}, r"rows of groups, but of 2 groups only \[\] have any"),
        ("sp", {"scores": [0.1, 0.2], "labels": [1, 0], "groups": [1, 1]}, r"only \[1\] have any; `update` with"),
        ("eop", {"scores": [0.1, 0.2], "labels": [1, 0], "groups": [0, 1]}, r"positive rows of groups, .* only \[0\]"),
        ("cal", {"scores": [0.1, 0.0], "labels": [1, 0], "groups": [0, 1]}, r"score above 0 of groups, .* only \[0\]"),
    ],
)
def test_one_group_only_has_no_value(metric, rows, message):
    fairness = measured(metric, rows)
    assert not fairness.is_known
    for ask in (fairness.value, lambda: GroupFairness.bound([fairness, GroupFairness(metric)])):
        with pytest.raises(ValueError, match=message):
            ask()


def test_scaled_sums_weigh_more_and_say_the_same():
    found = measured("eop", random_rows())
    other = measured("eop", random_rows(seed=5))
    assert found.scaled(3.0).value() == pytest.approx(found.value(), abs=1e-12) and found.scaled(3.0).rows == 1200
    assert (found.scaled(3.0) + other).value() == pytest.approx((found + found + found + other).value(), abs=1e-12)
    with pytest.raises(ValueError, match=r"`factor` is -1"):
        found.scaled(-1)


def test_it_is_read_as_it_was_written():
    found = measured("cal", random_rows(groups=3, classes=4), 3, classes=4, threshold=0.25)
    found.update(**random_rows(groups=3, classes=4, seed=1))
    again = GroupFairness.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again.to_dict() == found.to_dict() and torch.equal(again.sums, found.sums)
    assert (again + found).rows == 1600
    assert hf_lifelong.fairness.GroupFairness is GroupFairness
    assert "'cal', groups=3, classes=4, threshold=0.25) of 800 rows" in repr(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "have the fields"),
        ({"metric": None}, "`metric` is None; give one of"),
        ({"metric": ["sp"]}, "`metric` is a list that does not fit"),
        ({"groups": True}, "`groups` is True; give their number"),
        ({"groups": 3}, "`sums` must be 2 lists of 3 lists of 1 numbers"),
        ({"groups": 10**9}, "`groups` is 1000000000; give"),
        ({"groups": 10**9000}, "`groups` is a int that does not fit"),
        ({"groups": 2.0}, r"`groups` is 2\.0"),
        ({"classes": 90_000}, "2 lists of 2 lists of 90000 numbers"),
        ({"threshold": float("nan")}, "`threshold` is nan"),
        ({"threshold": 10**9000}, "`threshold` is a int that does not fit"),
        ({"rows": -1}, "`rows` is -1"),
        ({"rows": float("inf")}, "`rows` is inf"),
        ({"rows": "4"}, "`rows` is '4'"),
        ({"rows": 3}, "more rows than `rows`"),
        ({"sums": [[[1.0], [0.5]], [[2.0], [float("nan")]]]}, "numbers from 0 to"),
        ({"sums": [[[1.0], [0.5]], [[2.0], [10**400]]]}, "numbers from 0 to"),
        ({"sums": [[[1.0], [0.5]], [[2.0], [True]]]}, "numbers from 0 to"),
        ({"sums": [[[1.0], [-0.5]], [[2.0], [2.0]]]}, "numbers from 0 to"),
        ({"sums": [[[1.0], [0.5]], [[2.0], "2"]]}, "numbers from 0 to"),
        ({"sums": [[[1.0], [0.5]], {}]}, "numbers from 0 to"),
        ({"sums": "no"}, "numbers from 0 to"),
        ({"sums": [[[2.5], [0.5]], [[2.0], [2.0]]]}, "a numerator above its denominator"),
    ],
)
def test_hostile_sums_are_refused(change, message):
    good = {"metric": "sp", "groups": 2, "classes": 2, "threshold": None, "rows": 4.0}
    good["sums"] = [[[1.0], [0.5]], [[2.0], [2.0]]]
    assert GroupFairness.from_dict(good).value() == 0.25
    with pytest.raises(ValueError, match=message):
        GroupFairness.from_dict({**good, **change})


@pytest.mark.parametrize("data", [None, [], "sums", {"metric": "sp"}])
def test_what_is_no_state_is_refused(data):
    with pytest.raises(ValueError, match="have the fields"):
        GroupFairness.from_dict(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": [0.5, 1.5]}, r"`scores` holds 1\.5; give probabilities"),
        ({"scores": [0.5, float("nan")]}, r"`scores` holds nan; give probabilities"),
        ({"scores": [0, 2]}, "`scores` holds 2, but `classes` is 2: give integers from 0 to 1, or a larger `classes`"),
        ({"labels": [0, 2]}, "`labels` holds 2, but `classes` is 2"),
        ({"labels": [0, 0.5]}, r"`labels` holds 0\.5, but"),
        ({"groups": [0, 2]}, "`groups` holds 2, but `groups` is 2: give integers from 0 to 1, -100 for rows of no"),
        ({"groups": [0, -1]}, "`groups` holds -1"),
        ({"groups": ["a", "b"]}, "`groups` must be a tensor, an array or a list of numbers, but holds <U1; encode"),
        ({"groups": None}, "`groups` must be a tensor, an array or a list of numbers, but holds object"),
        ({"labels": [[0], [0, 1]]}, "`labels` cannot be read as an array"),
        ({"labels": 1}, r"shapes \[2\], \[\] and \[2\]"),
        ({"groups": np.array([0, 156], dtype=np.uint8)}, "`groups` holds 156"),
        ({"groups": [0]}, r"have the shapes \[2\], \[2\] and \[1\]"),
        ({"scores": [[0.5], [0.5]]}, r"shapes \[2, 1\], .* scores of shape \[N, 2\] \(or \[N\], of class 1"),
        ({"scores": 0.5}, r"shapes \[\]"),
    ],
)
def test_rows_that_cannot_be_summed_are_refused_whole(change, message):
    fairness = GroupFairness("sp")
    with pytest.raises(ValueError, match=message):
        fairness.update(**{"scores": [0.1, 0.2], "labels": [0, 1], "groups": [0, 1], **change})
    assert fairness.rows == 0 and not fairness.sums.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "dp"}, r"`metric` is 'dp'; give one of \['sp', 'eop', 'cal'\]"),
        ({"metric": "sp", "groups": 1}, "`groups` is 1; give their number, an integer of at least 2"),
        ({"metric": "sp", "groups": ["a", "b"]}, "`groups` is a list"),
        ({"metric": "sp", "classes": 1}, "`classes` is 1"),
        ({"metric": "sp", "threshold": 1.5}, r"`threshold` is 1\.5; give a probability"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GroupFairness(**arguments)


@pytest.mark.parametrize("other", [GroupFairness("eop"), GroupFairness("sp", 3), GroupFairness("sp", threshold=0.5)])
def test_unlike_measures_cannot_be_added(other):
    with pytest.raises(ValueError, match="measure both alike"):
        GroupFairness("sp") + other
    with pytest.raises(TypeError):
        GroupFairness("sp") + 1


@pytest.mark.parametrize("groups", [2, 4])
def test_decisions_are_measured_as_fairlearn_does(groups):
    fairlearn = pytest.importorskip("fairlearn.metrics", reason="fairlearn is not installed")
    from sklearn.metrics import precision_score

    rows = random_rows(rows=1000, groups=groups)
    decided = (rows["scores"] >= 0.5).astype(int)
    theirs = {"sp": fairlearn.selection_rate, "eop": fairlearn.true_positive_rate, "cal": precision_score}
    frame = fairlearn.MetricFrame(
        metrics=theirs, y_true=rows["labels"], y_pred=decided, sensitive_features=rows["groups"]
    )
    for metric in theirs:
        ours = measured(metric, rows, groups, threshold=0.5)
        np.testing.assert_allclose(ours.rates(), frame.by_group[metric], rtol=0, atol=1e-12)
        assert abs(ours.value()) == pytest.approx(frame.difference()[metric], abs=1e-12)
