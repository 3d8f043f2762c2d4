"""The metrics of a stream as a module of `evaluate`, used as somebody would who trains with something else."""

import os
import subprocess
import sys

import pytest

from hf_lifelong.evaluation import AccuracyMatrix, lifelong_metric

# Right answers of four, by (after, task).
RIGHT = {
    ("", "films"): 2,
    ("", "news"): 1,
    ("", "mails"): 2,
    ("films", "films"): 4,
    ("films", "news"): 2,
    ("news", "films"): 3,
    ("news", "news"): 4,
    ("news", "mails"): 1,
    ("mails", "films"): 1,
    ("mails", "news"): 4,
    ("mails", "mails"): 3,
}


@pytest.fixture
def metric(tmp_path):
    return lifelong_metric(cache_dir=str(tmp_path))


def rows(right=RIGHT):
    """Columns of the rows, four for each pair."""
    columns = {"predictions": [], "references": [], "tasks": [], "after": []}
    for (after, task), count in right.items():
        columns["predictions"] += ["yes"] * count + ["no"] * (4 - count)
        columns["references"] += ["yes"] * 4
        columns["tasks"] += [task] * 4
        columns["after"] += [after] * 4
    return columns


def test_metrics_of_three_tasks_by_hand(metric):
    found = metric.compute(**rows())
    matrix = AccuracyMatrix.from_dict(found.pop("accuracy_matrix"))
    assert matrix.tasks == ["films", "news", "mails"] and matrix.metrics == ["accuracy"] * 3
    assert matrix.baseline == [0.5, 0.25, 0.5]
    assert matrix.scores == [[1.0, 0.5, None], [0.75, 1.0, 0.25], [0.25, 1.0, 0.75]]
    assert found == pytest.approx(
        {
            "average_accuracy": (0.25 + 1 + 0.75) / 3,
            "learning_accuracy": (1 + 1 + 0.75) / 3,
            "bwt": (0.25 - 1) / 2,
            "forgetting": (1 - 0.25) / 2,
            "fwt": ((0.5 - 0.25) + (0.25 - 0.5)) / 2,
        }
    )


def test_batches_give_what_one_call_gives(metric, tmp_path):
    columns = rows()
    for start in range(0, len(columns["tasks"]), 5):
        metric.add_batch(**{name: values[start : start + 5] for name, values in columns.items()})
    assert metric.compute() == lifelong_metric(cache_dir=str(tmp_path), keep_in_memory=True).compute(**columns)


def test_forward_transfer_needs_rows_from_before_the_first_task(metric):
    learned = {pair: count for pair, count in RIGHT.items() if pair[0]}
    found = metric.compute(**rows(learned))
    assert "fwt" not in found and found["accuracy_matrix"]["scores"][1][2] == 0.25


def test_an_order_may_hold_tasks_after_which_nothing_was_asked(metric):
    last = {pair: count for pair, count in RIGHT.items() if pair[0] == "mails"}
    found = metric.compute(**rows(last), order=["news", "films", "mails"])
    assert found["accuracy_matrix"]["tasks"] == ["news", "films", "mails"]
    assert found["accuracy_matrix"]["scores"][:2] == [[None] * 3] * 2
    assert found["average_accuracy"] == pytest.approx(2 / 3) and "bwt" not in found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ["films", "mails"]}, r"`tasks` has 'mails', but nothing says when .* is \['films', 'news'\]"),
        ({"order": ["films"]}, r"`tasks` has 'news', but nothing says when that was learned"),
        ({"tasks": ["films"] * 2, "order": ["films"]}, "`after` has 'news', but"),
        ({"order": ["films", "news", "films"]}, "`order` has 'films' more than once"),
        ({"predictions": ["yes"]}, "Mismatch in the number of predictions"),
        ({"tasks": ["films", "\n"], "after": ["films", "\n"]}, "printable"),
    ],
)
def test_rows_that_do_not_fit_are_refused(metric, change, message):
    columns = {"predictions": ["yes"] * 2, "references": ["no"] * 2, "tasks": ["films", "news"]}
    with pytest.raises(ValueError, match=message):
        metric.compute(**{**columns, "after": columns["tasks"], **change})


def test_inputs_that_lack_are_named(metric):
    with pytest.raises(ValueError, match=r"inputs are missing: \['tasks', 'after'\]"):
        metric.compute(predictions=["yes"], references=["no"])


def test_it_loads_without_a_network_and_with_an_empty_cache(tmp_path):
    code = (
        "from hf_lifelong.evaluation import lifelong_metric; "
        "print(lifelong_metric().compute(predictions=['a'], references=['a'], tasks=['t'], after=['t'])['bwt'])"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=120)
    assert done.stdout.strip() == "0.0", done.stderr
