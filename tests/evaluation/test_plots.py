import sys
from contextlib import nullcontext

import pytest

from hf_lifelong.evaluation import AccuracyMatrix, plot_accuracy, plot_matrix, plots

RIVAL = ("one LoRA, trained on task after task", [[0.9], [0.4, 0.6], [0.1, 0.2, 0.9]])


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


def test_tasks_that_were_not_scored_last_are_told(three, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figure = Figure()
    monkeypatch.setattr(plots, "drawn", lambda path, size: nullcontext(figure))
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
    assert not path.exists()


@pytest.mark.parametrize("plot", [plot_matrix, plot_accuracy])
def test_without_matplotlib_the_error_names_the_extra(three, tmp_path, monkeypatch, plot):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "hf_lifelong\[plots\]"'):
        plot(three, tmp_path / "plot.png")
