import sys
from contextlib import nullcontext

import pytest

from hf_lifelong.evaluation import AccuracyMatrix, costs, plot_accuracy, plot_confusion, plot_costs, plot_matrix, plots

RIVAL = ("one LoRA, trained on task after task", [[0.9], [0.4, 0.6], [0.1, 0.2, 0.9]])
COSTS = {"one LoRA for each task, told the task": [(1, 6e5, 1), (5, 3e6, 1)], "$x^{": [(1, 4e6, 1.1), (5, 2e7, 1.1)]}


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG\r\n") and path.stat().st_size > 5000


@pytest.mark.parametrize("plot", [plot_matrix, plot_accuracy])
@pytest.mark.parametrize("count", [1, 15])
def test_plots_are_written_with_the_same_bytes_twice(stream, tmp_path, plot, count):
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    plot(stream(count), first)
    plot(stream(count), str(second))
    assert is_png(first)
    assert first.read_bytes() == second.read_bytes()


@pytest.fixture
def figure(monkeypatch):
    """The figure that the next plot draws on, and does not write."""
    from matplotlib.figure import Figure

    figure = Figure()
    for module in (plots, costs):
        monkeypatch.setattr(module, "drawn", lambda path, size: nullcontext(figure))
    return figure


def confused(stream, count):
    """A stream of which every task lost a quarter of its inputs to the first."""
    matrix = stream(count)
    shares = {name: {name: 0.75, matrix.tasks[0]: 0.25} for name in matrix.tasks[1:]}
    matrix.confusion = {matrix.tasks[0]: {matrix.tasks[0]: 1.0}, **shares}
    return matrix


@pytest.mark.parametrize("count", [1, 2, 30])
def test_confusion_is_drawn_with_the_same_bytes_twice(stream, tmp_path, count):
    for name in ("first.png", "second.png"):
        plot_confusion(confused(stream, count), tmp_path / name)
    assert is_png(tmp_path / "first.png")
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_confusion_shows_every_share_that_is_not_zero(stream, figure, tmp_path):
    matrix = confused(stream, 3)
    matrix.confusion[matrix.tasks[2]] = {"a group of no task": 0.5, matrix.tasks[1]: 0.5, matrix.tasks[2]: 0.0}
    plot_confusion(matrix, tmp_path / "x.png")
    axes = figure.axes[0]
    assert [(text.get_position(), text.get_text()) for text in axes.texts] == [
        ((0, 0), "1.000"),
        ((0, 1), "0.250"),
        ((1, 1), "0.750"),
        ((1, 2), "0.500"),
        ((3, 2), "0.500"),
    ]
    assert [text.get_text() for text in axes.get_xticklabels()] == [*matrix.tasks, "a group of no task"]
    assert axes.get_title().endswith("retrieval ↑ 0.970")


def test_costs_are_drawn_with_the_same_bytes_twice(tmp_path):
    many = {f"method {k}": [(n, 1e6 * n, k) for n in range(1, 31)] for k in range(9)}
    for name in ("first.png", "second.png"):
        plot_costs({**COSTS, **many}, tmp_path / name)
    assert is_png(tmp_path / "first.png")
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()


def test_costs_show_bytes_and_forwards_of_every_method(figure, tmp_path):
    plot_costs(COSTS, tmp_path / "x.png")
    stored, answering = figure.axes
    assert [list(line.get_ydata()) for line in stored.lines] == [[6e5, 3e6], [4e6, 2e7]]
    assert [list(line.get_ydata()) for line in answering.lines] == [[1, 1], [1.1, 1.1]]
    assert all(list(line.get_xdata()) == [1, 5] for axes in figure.axes for line in axes.lines)
    assert all(axes.get_ylim()[0] == 0 and axes.get_ylim()[1] > axes.dataLim.ymax for axes in figure.axes)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(COSTS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "`costs` names no method"),
        ([1], "`costs` names no method"),
        ({"x": []}, r"`costs\['x'\]` has no points"),
        ({"x": [(1, 2)]}, r"has the point \(1, 2\); give tasks learned, bytes stored and forwards"),
        ({"x": [(1, "2", 3)]}, "has the point"),
        ({"x": [(1, 2, float("nan"))]}, "finite numbers of at least 0"),
        ({"x": [(2, 2, 3), (1, 2, 3)]}, r"numbers of tasks \[2, 1\], which do not rise"),
    ],
)
def test_costs_that_cannot_be_drawn_are_refused(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        plot_costs(wrong, tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_two_panels_whatever_the_style_of_the_user(three, tmp_path):
    import matplotlib

    first, second = tmp_path / "first.png", tmp_path / "second.png"
    plot_matrix(three, first, beside=RIVAL)
    with matplotlib.rc_context({"font.size": 20, "figure.facecolor": "red"}):
        plot_matrix(three, second, beside=RIVAL)
    assert is_png(first)
    assert first.read_bytes() == second.read_bytes()


def test_names_are_no_formulas_and_gaps_are_no_error(tmp_path, recwarn):
    matrix = AccuracyMatrix()
    matrix.add("$x^{", "accuracy", None, {"$x^{": None})
    matrix.add("$", "accuracy", None, {"$": 0.5})
    plot_matrix(matrix, tmp_path / "matrix.png", beside=("$\\frac", [[None], [None, 0.3]]))
    plot_accuracy(matrix, tmp_path / "accuracy.png")
    assert is_png(tmp_path / "matrix.png")
    assert is_png(tmp_path / "accuracy.png")
    assert not recwarn.list


def test_tasks_that_were_not_scored_last_are_told(three, tmp_path, figure):
    three.replace_last({"topics": 0.9})
    plot_matrix(three, tmp_path / "matrix.png")
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts][-3:] == ["–", "–", "0.900"]
    assert axes.get_title().endswith("average accuracy ↑ 0.900 over 1 of 3 tasks")


def test_refusals_write_nothing(three, tmp_path):
    path = tmp_path / "plot.png"
    for plot in (plot_matrix, plot_accuracy):
        with pytest.raises(ValueError, match="`matrix` is empty"):
            plot(AccuracyMatrix(), path)
    with pytest.raises(ValueError, match="`beside` has 1 entries for 3 tasks"):
        plot_matrix(three, path, beside=("rival", [[0.5]]))
    with pytest.raises(ValueError, match="`matrix` has no confusion"):
        plot_confusion(three, path)
    assert not path.exists()


@pytest.mark.parametrize("plot", [plot_matrix, plot_accuracy])
def test_without_matplotlib_the_error_names_the_extra(three, tmp_path, monkeypatch, plot):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "hf_lifelong\[plots\]"'):
        plot(three, tmp_path / "plot.png")
