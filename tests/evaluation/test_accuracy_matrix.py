import copy
import json
import subprocess
import sys

import numpy as np
import pytest

from hf_lifelong.evaluation import AccuracyMatrix

METRICS = {
    "average_accuracy",
    "learning_accuracy",
    "bwt",
    "forgetting",
    "fwt",
    "retrieval_accuracy",
    "oracle_accuracy",
}


def test_metrics_of_three_tasks_by_hand(three):
    assert three.average_accuracy() == pytest.approx((0.8 + 0.65 + 0.95) / 3)
    assert three.learning_accuracy() == pytest.approx((0.9 + 0.6 + 0.95) / 3)
    assert three.bwt() == pytest.approx((-0.1 + 0.05) / 2)
    assert three.forgetting() == pytest.approx(((0.95 - 0.8) + (0.6 - 0.65)) / 2)
    assert three.fwt() == pytest.approx(((0.3 - 0.1) + (0.2 - 0.25)) / 2)
    assert three.retrieval_accuracy() == pytest.approx(0.8)
    assert three.oracle_accuracy() == pytest.approx(2.6 / 3)
    assert three.summary() == {name: getattr(three, name)() for name in METRICS}


def test_metrics_as_they_stood_after_the_second_task(three):
    for after in (1, -2):
        assert three.average_accuracy(after) == pytest.approx(0.775)
        assert three.learning_accuracy(after) == pytest.approx(0.75)
        assert three.bwt(after) == pytest.approx(0.05)
        assert three.forgetting(after) == pytest.approx(-0.05)
        assert three.fwt(after) == pytest.approx(0.2)
        assert three.retrieval_accuracy(after) == pytest.approx(0.95)
        assert three.oracle_accuracy(after) == pytest.approx(0.8)


def test_forgetting_ignores_scores_from_before_a_task_was_learned():
    matrix = AccuracyMatrix(
        tasks=["a", "b", "c"],
        metrics=["accuracy"] * 3,
        baseline=[None] * 3,
        scores=[[0.5, 0.99, None], [0.5, 0.6, None], [0.5, 0.6, 0.9]],
        oracle=[[None] * 3] * 3,
        retrieval=[[None] * 3] * 3,
    )
    assert matrix.forgetting() == 0.0
    assert matrix.average_accuracy(0) == 0.5


def test_one_task_forgets_nothing(stream):
    matrix = stream(1)
    assert matrix.bwt() == matrix.forgetting() == 0.0
    assert matrix.fwt() is None
    assert matrix.average_accuracy() == matrix.learning_accuracy() == 0.95
    assert set(matrix.summary()) == METRICS - {"fwt"}


def test_an_empty_matrix_has_no_metrics():
    matrix = AccuracyMatrix()
    assert matrix.summary() == {}
    assert AccuracyMatrix.from_dict(matrix.to_dict()) == matrix
    with pytest.raises(ValueError, match="`after` is 0"):
        matrix.bwt(0)


def test_means_leave_out_what_was_not_measured():
    matrix = AccuracyMatrix()
    matrix.add("a", "accuracy", None, {"a": 0.8})
    matrix.add("b", "accuracy", None, {"b": 0.6}, forward=0.4)
    assert matrix.average_accuracy() == 0.6
    assert matrix.summary() == {"average_accuracy": 0.6, "learning_accuracy": 0.7}


def test_forward_transfer_needs_an_entry_above_the_diagonal(three, stream):
    assert stream(4).fwt() is None
    three.scores[1][2] = None
    assert three.fwt() == pytest.approx(0.2)


SIGNS = [  # R of two tasks with baseline 0.5; BWT, forgetting, FWT
    ([[0.9, 0.5], [0.6, 0.8]], -0.3, 0.3, 0.0),
    ([[0.6, 0.7], [0.9, 0.8]], 0.3, -0.3, 0.2),
    ([[0.9, 0.3], [0.9, 0.8]], 0.0, 0.0, -0.2),
]


@pytest.mark.parametrize(("scores", "bwt", "forgetting", "fwt"), SIGNS)
def test_signs_negative_transfer_is_forgetting_and_positive_forward_transfer_helped(scores, bwt, forgetting, fwt):
    matrix = AccuracyMatrix()
    matrix.add("a", "accuracy", 0.5, {"a": scores[0][0]})
    matrix.add("b", "accuracy", 0.5, {"a": scores[1][0], "b": scores[1][1]}, forward=scores[0][1])
    assert matrix.scores == scores
    assert matrix.summary() == pytest.approx(
        {
            "average_accuracy": (scores[1][0] + scores[1][1]) / 2,
            "learning_accuracy": (scores[0][0] + scores[1][1]) / 2,
            "bwt": bwt,
            "forgetting": forgetting,
            "fwt": fwt,
        },
        abs=1e-12,
    )


def test_forgetting_is_from_the_best_score_along_the_stream():
    matrix = AccuracyMatrix()
    matrix.add("a", "accuracy", None, {"a": 0.6})
    matrix.add("b", "accuracy", None, {"a": 0.9, "b": 0.5})
    matrix.add("c", "accuracy", None, {"a": 0.7, "b": 0.8, "c": 1.0})
    assert matrix.forgetting() == pytest.approx((0.2 - 0.3) / 2)
    assert matrix.bwt() == pytest.approx((0.1 + 0.3) / 2)


def test_a_newer_measurement_of_the_last_row_keeps_forward_transfer(three):
    before = three.fwt()
    three.replace_last({"sst2": 0.1})
    assert three.fwt() == before == pytest.approx(((0.3 - 0.1) + (0.2 - 0.25)) / 2)


def test_numpy_scores_become_floats():
    matrix = AccuracyMatrix()
    matrix.add("a", "accuracy", np.float32(0.5), {"a": np.float64(1.0)})
    assert type(matrix.baseline[0]) is type(matrix.scores[0][0]) is float


def test_replace_last_leaves_earlier_rows(three):
    before = three.to_dict()
    three.replace_last({"sst2": 0.9, "squad": 0.6, "topics": 0.9}, retrieval={"topics": 1.0})
    assert three.scores == [*before["scores"][:2], [0.9, 0.6, 0.9]]
    assert three.oracle == [*before["oracle"][:2], [None] * 3]
    assert three.retrieval[-1] == [None, None, 1.0]
    assert three.bwt() == 0.0


CONFUSION = {"squad": {"squad": 0.75, "sst2": 0.25}, "sst2": {"sst2": 1}}


def test_confusion_is_that_of_the_last_measurement(three):
    three.replace_last({"sst2": 0.9}, confusion=CONFUSION)
    assert three.confusion == CONFUSION and list(three.confusion) == ["sst2", "squad"]
    assert three.answering_groups() == ["sst2", "squad"]
    again = AccuracyMatrix.from_dict(json.loads(json.dumps(three.to_dict(), sort_keys=True)))
    assert again == three and list(again.confusion) == ["sst2", "squad"]
    three.add("new", "accuracy", None, {"new": 0.5}, confusion={"new": {"a group of no task here": 1.0}})
    assert three.confusion == {"new": {"a group of no task here": 1.0}}
    assert three.answering_groups() == ["a group of no task here"]
    three.replace_last({"new": 0.6})
    assert three.confusion == {}


def test_files_from_before_confusion_was_kept_are_read(three):
    data = three.to_dict()
    del data["confusion"]
    assert AccuracyMatrix.from_dict(data) == three


def test_round_trip_through_json(three, stream):
    for matrix in (three, stream(1), stream(15)):
        text = json.dumps(matrix.to_dict(), allow_nan=False)
        again = AccuracyMatrix.from_dict(json.loads(text))
        assert again == matrix
        assert again.summary() == matrix.summary()


def test_to_dict_shares_nothing_with_the_matrix(three):
    data = three.to_dict()
    data["scores"][0][0] = 0.0
    data["tasks"].append("x")
    assert three.scores[0][0] == 0.9
    assert three.tasks == ["sst2", "squad", "topics"]


def test_rows_may_stop_at_the_diagonal(three):
    data = three.to_dict()
    data["oracle"] = [row[: i + 1] for i, row in enumerate(data["oracle"])]
    assert AccuracyMatrix.from_dict(data) == three


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": "abc"}, "`tasks` is of type str; give a list"),
        ({"tasks": ["a", "b", "a"]}, "`tasks` has 'a' more than once"),
        ({"tasks": ["a", "b", 3]}, r"`tasks\[2\]` is 3"),
        ({"tasks": ["a", "b", "c\n"]}, "printable"),
        ({"tasks": ["a", "b"]}, "`metrics` has 3 entries for 2 tasks"),
        ({"metrics": ["f1", "f1"]}, "`metrics` has 2 entries for 3 tasks"),
        ({"metrics": ["f1", "f1", ""]}, r"`metrics\[2\]` is ''"),
        ({"baseline": [0.5]}, "`baseline` has 1 entries for 3 tasks"),
        ({"baseline": {"a": 1}}, "`baseline` is of type dict"),
        ({"baseline": [0.5, None, "x"]}, r"`baseline\[2\]` is 'x', not a number"),
        ({"scores": [[0.5]]}, "`scores` has 1 entries for 3 tasks"),
        ({"scores": [[0.5], [0.5], [0.5] * 3]}, r"`scores\[1\]` has 1 entries; give 2 .* to 3"),
        ({"scores": [[0.5] * 4, [0.5] * 2, [0.5] * 3]}, r"`scores\[0\]` has 4 entries"),
        ({"scores": [None, [0.5] * 2, [0.5] * 3]}, r"`scores\[0\]` is of type NoneType"),
        ({"scores": [[87], [0.5] * 2, [0.5] * 3]}, r"`scores\[0\]\[0\]` is 87, outside \[0, 1\]"),
        ({"scores": [[float("nan")], [0.5] * 2, [0.5] * 3]}, r"`scores\[0\]\[0\]` is NaN"),
        ({"scores": [[True], [0.5] * 2, [0.5] * 3]}, "True, not a number"),
        ({"scores": [[10**400], [0.5] * 2, [0.5] * 3]}, "outside"),
        ({"oracle": [[0.5] * 3] * 3}, r"`oracle\[0\]` has a value for a task that was not learned yet"),
        ({"retrieval": [[-0.1], [0.5] * 2, [0.5] * 3]}, r"`retrieval\[0\]\[0\]` is -0.1, outside"),
        ({"confusion": []}, "`confusion` is of type list; give a dict from task name"),
        ({"confusion": {"new": {"new": 1}}}, "`confusion` names 'new', which the matrix does not have"),
        ({"confusion": {"sst2": [1]}}, r"`confusion\['sst2'\]` is of type list; give a dict from group name to share"),
        ({"confusion": {"sst2": {"sst2": 50}}}, r"`confusion\['sst2'\]\['sst2'\]` is 50, outside"),
        ({"confusion": {"sst2": {"sst2": None}}}, r"`confusion\['sst2'\]\['sst2'\]` is None; leave out"),
        ({"confusion": {"sst2": {"sst2": float("nan")}}}, r"`confusion\['sst2'\]\['sst2'\]` is NaN"),
        ({"confusion": {"sst2": {"\n": 1}}}, r"`a group of confusion\['sst2'\]` is .* printable"),
        ({"confusion": {"sst2": {"sst2": 0.5, "squad": 0.4}}}, r"`confusion\['sst2'\]` sums to 0.9, not to 1"),
        ({"confusion": {"sst2": {}}}, r"`confusion\['sst2'\]` sums to 0, not to 1"),
        ({"colour": 1}, "unknown keys .'colour'."),
    ],
)
def test_from_dict_refuses(three, change, message):
    with pytest.raises(ValueError, match=message):
        AccuracyMatrix.from_dict({**three.to_dict(), **change})


def test_from_dict_refuses_other_things(three):
    data = three.to_dict()
    del data["oracle"]
    with pytest.raises(ValueError, match=r"lacks \['oracle'\]"):
        AccuracyMatrix.from_dict(data)
    with pytest.raises(ValueError, match="`data` is of type list"):
        AccuracyMatrix.from_dict([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "sst2"}, "`task` is 'sst2', which the matrix has already"),
        ({"task": ""}, "`task` is ''"),
        ({"task": "a\x1b[2J"}, "`task` is .* printable"),
        ({"metric": None}, "`metric` is None"),
        ({"baseline": 2.0}, "`baseline` is 2.0, outside"),
        ({"scores": {"new": 1.01}}, r"`scores\['new'\]` is 1.01, outside \[0, 1\]; give scores as shares"),
        ({"scores": {"new": -0.01}}, "outside"),
        ({"scores": {"new": float("inf")}}, "outside"),
        ({"scores": {"new": float("nan")}}, "NaN"),
        ({"scores": {"new": "0.5"}}, "not a number"),
        ({"scores": {"ssst2": 0.5}}, "`scores` names 'ssst2', which the matrix does not have; its tasks are 'sst2'"),
        ({"scores": [0.5]}, "`scores` is of type list; give a dict"),
        ({"oracle": {"new": 3}}, r"`oracle\['new'\]` is 3"),
        ({"oracle": {"x": 0.3}}, "`oracle` names 'x'"),
        ({"retrieval": {"new": float("nan")}}, r"`retrieval\['new'\]` is NaN"),
        ({"forward": 50}, "`forward` is 50, outside"),
        ({"confusion": {"new": {"new": 0.5}}}, "sums to 0.5"),
    ],
)
def test_add_refuses_and_changes_nothing(three, change, message):
    before = copy.deepcopy(three)
    arguments = {"task": "new", "metric": "accuracy", "baseline": 0.5, "scores": {"new": 0.9}, **change}
    with pytest.raises(ValueError, match=message):
        three.add(**arguments)
    assert three == before


def test_the_first_task_has_no_forward_score():
    with pytest.raises(ValueError, match="`forward` is given for the first task"):
        AccuracyMatrix().add("a", "accuracy", 0.5, {"a": 0.9}, forward=0.5)


def test_replace_last_refuses_and_changes_nothing(three):
    before = copy.deepcopy(three)
    wrong = [
        {"scores": {"x": 0.5}},
        {"scores": {"sst2": 0.5}, "oracle": {"sst2": 5}},
        {"scores": {"sst2": 0.5}, "confusion": {"x": {"x": 1}}},
    ]
    for arguments in wrong:
        with pytest.raises(ValueError, match=r"'x'|outside"):
            three.replace_last(**arguments)
        assert three == before
    with pytest.raises(ValueError, match="the matrix is empty"):
        AccuracyMatrix().replace_last({})


@pytest.mark.parametrize("after", [3, -4])
def test_metrics_refuse_a_row_that_is_not_there(three, after):
    for name in METRICS:
        with pytest.raises(ValueError, match=f"`after` is {after}, but the matrix has 3 rows"):
            getattr(three, name)(after)


def test_importing_loads_neither_matplotlib_nor_torch():
    code = "import sys, hf_lifelong.evaluation; print({'matplotlib', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_numbers_about_all_tasks_are_kept_until_the_next_measurement():
    matrix = AccuracyMatrix()
    matrix.add("a", "accuracy", 0.5, {"a": 0.75})
    before = matrix.to_dict()
    matrix.note({"gap": -0.25})
    assert matrix.to_dict() == {**before, "numbers": {"gap": -0.25}} and "gap" not in matrix.summary()
    assert AccuracyMatrix.from_dict(matrix.to_dict()) == matrix
    matrix.replace_last({"a": 0.75})
    assert matrix.to_dict() == before
    matrix.note({"gap": 1})
    matrix.add("b", "accuracy", 0.5, {"a": 0.75, "b": 1.0})
    assert not matrix.numbers


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"gap": float("nan")}, r"`numbers\['gap'\]` is nan; give a number"),
        ({"gap": float("inf")}, r"`numbers\['gap'\]` is inf"),
        ({"gap": "0.2"}, r"`numbers\['gap'\]` is '0\.2'"),
        ({"gap": True}, r"`numbers\['gap'\]` is True"),
        ({"a\nb": 1.0}, "a name of `numbers`"),
        ({str(i): 1.0 for i in range(101)}, "`numbers` has 101 entries; give at most 100"),
        ([1.0], "`numbers` is of type list; give a dict"),
    ],
)
def test_numbers_that_cannot_be_kept_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        AccuracyMatrix.from_dict({**AccuracyMatrix().to_dict(), "numbers": numbers})
