"""The evidence benchmark: cells, tables, and a small version of the claim."""

import itertools
import json
import sys

import datasets
import lifelong
import pytest
import streams
from datasets import ClassLabel, Dataset, DatasetDict
from methods import METHODS
from streams import STREAMS, TASKS, load_task, stream
from transformers.utils import logging


@pytest.fixture(scope="module")
def run():
    """`run(folder)`: `lifelong.py --quick`, on fewer and shorter texts."""
    hidden, verbosity = datasets.are_progress_bars_disabled(), logging.get_verbosity()

    def call(folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lifelong, "QUICK", {**lifelong.QUICK, "train_texts": 96, "test_texts": 40, "max_length": 40})
            patch.setattr(sys, "argv", ["lifelong.py", "--quick", "--results", str(folder)])
            lifelong.main()

    yield call
    logging.set_verbosity(verbosity)
    if not hidden:
        datasets.enable_progress_bars()


@pytest.fixture(scope="module")
def quick(run, tmp_path_factory):
    """The folder of the results."""
    folder = tmp_path_factory.mktemp("results")
    run(folder)
    return folder


@pytest.mark.slow
def test_on_two_small_streams_ours_keeps_what_sequential_training_forgets(quick):
    for name in ("shipped", "shipped_reversed"):
        summary = json.loads((quick / f"lifelong_{name}.json").read_text())["summary"]
        ours, sequential = summary["ours"], summary["sequential"]
        assert ours["average_accuracy"] > sequential["average_accuracy"] + 0.2
        assert ours["forgetting"] <= 0.05


@pytest.mark.slow
def test_a_cell_that_is_there_is_not_run_again(run, quick):
    cells = sorted((quick / "lifelong").rglob("*.json"))
    before = [(path, path.stat().st_mtime_ns) for path in cells]
    run(quick)
    assert [(path, path.stat().st_mtime_ns) for path in cells] == before
    assert len(cells) == 4


@pytest.mark.slow
def test_cells_of_another_budget_are_not_mixed_into_a_table(quick):
    path = next((quick / "lifelong" / "shipped").glob("ours*"))
    row = json.loads(path.read_text())
    with pytest.raises(SystemExit, match="give another folder as `--results`"):
        lifelong.check_alike([row], "another-model", row["budget"], quick)
    lifelong.check_alike([row], row["model"], row["budget"], quick)


def test_a_damaged_cell_is_named_with_what_to_do(tmp_path):
    path = tmp_path / "lifelong" / "domains" / "ours-order0-seed0.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"method": ')
    with pytest.raises(SystemExit, match=r"delete it, and it is run again.*ours-order0-seed0"):
        lifelong.cells(tmp_path, "domains")


def test_a_data_set_without_its_folder_is_named(tmp_path):
    with pytest.raises(SystemExit, match="sst2` is no folder: `--data_dir` needs one of each data set"):
        load_task("sst2", str(tmp_path), 0, 10)


@pytest.mark.parametrize(
    ("given", "said"),
    [(["--train_texts", "0"], "`--train_texts` is 0; give at least 1"), ([], "give the folder of an encoder")],
)
def test_what_cannot_be_used_is_refused_before_anything_runs(given, said, tmp_path, monkeypatch, capsys):
    command = ["lifelong.py", "--model", str(tmp_path / "nowhere"), "--results", str(tmp_path), *given]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="2"):
        lifelong.main()
    assert said in capsys.readouterr().err


def test_a_method_runs_with_what_was_chosen_and_with_the_first_of_its_grid_before_that():
    assert METHODS["sequential"].settings({}) == {"learning_rate": 2e-3, "labels": "own"}
    chosen = METHODS["replay_2"].settings({"learning_rate": 5e-4})
    assert chosen == {"learning_rate": 5e-4, "labels": "seen", "share": 0.02}


def test_a_grid_is_all_combinations():
    found = METHODS["lda"].candidates()
    assert len(found) == 6 and {"layers": "last", "shrinkage": 0.1} in found


def test_streams_are_made_of_known_tasks_and_orders_hold_the_same_tasks():
    for name, tasks in STREAMS.items():
        assert set(tasks) <= set(TASKS) and len(set(tasks)) == len(tasks)
        assert stream(name, 0) == tasks and sorted(stream(name, 1)) == sorted(tasks)
    assert len(STREAMS["long"]) == 30 and len(STREAMS["classes"]) == 7 and len(STREAMS["classes20"]) == 10


@pytest.mark.parametrize(("name", "sizes"), [("intents", [15] * 10), ("banking", [7] * 11), ("classes", [2] * 7)])
def test_a_stream_of_classes_holds_each_of_its_data_set_once(name, sizes):
    found = [list(TASKS[task].labels) for task in STREAMS[name]]
    assert [len(labels) for labels in found] == sizes
    assert len(set(itertools.chain(*found))) == sum(sizes)


def on_the_hub(names, column, monkeypatch):
    """Replaces the Hub: every data set there has four rows of each name in both splits. Gives what was asked for."""
    asked = []

    def load(*args):
        asked.append(args)
        rows = {"text": [f"{name} {i}" for name in names for i in range(4)], column: sorted([*range(len(names))] * 4)}
        data = Dataset.from_dict(rows).cast_column(column, ClassLabel(names=names))
        return DatasetDict(train=data, test=data)

    monkeypatch.setattr(streams, "load_dataset", load)
    return asked


@pytest.mark.parametrize(
    ("task", "names", "column", "source"),
    [
        ("clinc150 meta", ["oos", "yes", "no", "pto_used"], "intent", ("clinc/clinc_oos", "plus")),
        (
            "banking77 1",
            ["visa_or_mastercard", "age_limit", "atm_support"],
            "label",
            ("legacy-datasets/banking77", None),
        ),
    ],
)
def test_intents_come_from_the_hub_without_a_folder(task, names, column, source, monkeypatch):
    asked = on_the_hub(names, column, monkeypatch)
    found = load_task(task, None, 0, 100)
    assert asked == [source]
    labels = found["test"].features["label"]
    assert labels.names == list(TASKS[task].labels)
    wanted = {f"{name} {i}" for name in set(names) & set(labels.names) for i in range(4)}
    rows = found["test"].to_dict()
    assert set(rows["text"]) == wanted and 0 < len(wanted) < 4 * len(names)
    assert all(text.startswith(labels.int2str(label)) for text, label in zip(rows["text"], rows["label"], strict=True))


def test_a_rare_class_has_a_tenth_of_its_training_rows_and_all_test_rows(monkeypatch):
    def load(*args):
        rows = {"content": [str(i) for i in range(80)], "label": [0, 1] * 40}
        data = Dataset.from_dict(rows).cast_column("label", ClassLabel(names=["Animal", "Village"]))
        return DatasetDict(train=data, test=data)

    monkeypatch.setattr(streams, "load_dataset", load)
    few, all_rows = (load_task(name, None, 3, 1000) for name in ("dbpedia14 5, imbalanced", "dbpedia14 5"))
    assert TASKS["dbpedia14 5, imbalanced"].rare == "Animal"
    counts = [sum(list(task[part]["label"]).count(1) for part in ("train", "validation")) for task in (few, all_rows)]
    # Rounding may leave one row out.
    assert counts[0] in (3, 4) and counts[1] in (39, 40)
    assert list(few["test"]["label"]).count(1) == 40
    assert set(few["train"]["text"]) <= {*all_rows["train"]["text"], *all_rows["validation"]["text"]}
    assert all(TASKS[name].rare == list(TASKS[name].labels)[1] for name in STREAMS["classes_imbalanced"])


def test_a_task_of_some_classes_has_their_rows_alone_under_its_own_labels():
    task = load_task("topics", None, 0, 1000)
    assert task["train"].features["label"].names == ["Nikola_Tesla", "Chloroplast", "Rhine", "Doctor_Who"]
    assert set(task["train"]["label"]) == {0, 1, 2, 3}
    texts = [set(task[part]["text"]) for part in ("train", "validation", "test")]
    assert not texts[0] & texts[1] and not texts[0] & texts[2]


def test_means_and_spread_are_those_of_the_cells():
    rows = [{"order": 0, "seed": s, "summary": {"average_accuracy": a}} for s, a in ((0, 0.6), (1, 0.8))]
    assert lifelong.mean_of(rows) == {
        "cells": [[0, 0], [0, 1]],
        "average_accuracy": 0.7,
        "average_accuracy_std": 0.1414,
    }
