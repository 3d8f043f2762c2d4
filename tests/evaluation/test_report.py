import pytest

from hf_lifelong.evaluation import AccuracyMatrix, to_text

SUMMARY = (
    "average accuracy ↑ 0.800, BWT ↑ -0.025 (negative = forgetting), forgetting ↓ 0.050, "
    "FWT ↑ +0.075, retrieval ↑ 0.800"
)


def test_text_of_three_tasks(three):
    assert to_text(three).splitlines() == [
        "                                      sst2  squad      topics",
        "                                accuracy ↑   f1 ↑  accuracy ↑",
        "majority class                       0.500  0.100       0.250",
        "after sst2                           0.900  0.300           ·",
        "after squad                          0.950  0.600       0.200",
        "after topics                         0.800  0.650       0.950",
        "oracle (right group given)           0.900  0.700       1.000",
        "retrieval (right group chosen)       0.700  0.900       0.800",
        "",
        SUMMARY,
    ]


@pytest.mark.parametrize("count", [1, 2, 15])
def test_tables_have_every_row_and_value(stream, count):
    matrix = stream(count)
    text = to_text(matrix)
    assert all(len(line) <= 119 for line in text.splitlines())
    for i, task in enumerate(matrix.tasks):
        rows = [line for line in text.splitlines() if line.startswith(f"after {task} ")]
        values = " ".join(rows).replace(f"after {task} ", "").split()
        assert [value for value in values if value != "·"] == [f"{value:.3f}" for value in matrix.scores[i][: i + 1]]
    assert text.count("accuracy ↑") == count + 1
    assert f"BWT ↑ {f'{matrix.bwt():+.3f}' if count > 1 else '0.000'} (negative = forgetting)" in text
    assert "retrieval ↑ 0.970" in text
    assert "FWT" not in text
    assert "oracle" in text


def test_what_was_not_measured_has_no_row():
    matrix = AccuracyMatrix()
    matrix.add("a", "accuracy", None, {"a": 0.5})
    matrix.add("b", "accuracy", None, {"a": 0.4999, "b": None})
    text = to_text(matrix)
    assert not any(word in text for word in ("majority", "oracle", "retrieval"))
    assert text.splitlines()[3].split() == ["after", "b", "0.500", "·"]
    assert "BWT ↑ 0.000 " in text


def test_extra_rows_follow_with_their_own_metrics(three):
    name = "one LoRA, trained on task after task"
    text = to_text(three, {name: [[0.9], [0.4, 0.6], [0.1, 0.2, 0.9]]})
    ours, other = text.split(f"\n\n{name}:\n")
    assert ours == to_text(three)
    assert [line.split() for line in other.splitlines()[2:5]] == [
        ["after", "sst2", "0.900", "·", "·"],
        ["after", "squad", "0.400", "0.600", "·"],
        ["after", "topics", "0.100", "0.200", "0.900"],
    ]
    assert "average accuracy ↑ 0.400, BWT ↑ -0.600 (negative = forgetting), forgetting ↓ 0.600" in other
    assert "retrieval" not in other
    assert "oracle" not in other


def test_an_average_over_some_tasks_says_so(three):
    """A later launch scores the tasks of its own data only."""
    three.add("mail", "accuracy", 0.5, {"mail": 0.75}, {"mail": 0.75})
    assert "average accuracy ↑ 0.750 over 1 of 4 tasks, BWT ↑ ·" in to_text(three)


def test_extra_rows_that_do_not_fit_are_refused(three):
    with pytest.raises(ValueError, match=r"`extra\['x'\]` has 1 entries for 3 tasks"):
        to_text(three, {"x": [[0.9]]})
    with pytest.raises(ValueError, match=r"`extra\['x'\]\[2\]\[2\]` is 90, outside"):
        to_text(three, {"x": [[0.9], [0.9, 0.9], [0.9, 0.9, 90]]})


def test_an_empty_matrix_says_so():
    assert to_text(AccuracyMatrix()) == "No task has been learned yet."
