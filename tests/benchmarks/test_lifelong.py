"""The evidence benchmark: cells, choices, and a small version of the claim."""

import itertools
import sys
from dataclasses import replace

import datasets
import lifelong
import pytest
import streams
from datasets import ClassLabel, Dataset, DatasetDict
from methods import METHODS
from methods.shared import Result
from stream_records import add_row, read_record
from streams import STREAMS, TASKS, load_task, stream
from transformers.utils import logging


@pytest.fixture(scope="module")
def run():
    """`run(folder)`: `lifelong.py --quick`, on fewer and shorter texts."""
    hidden, verbosity = datasets.are_progress_bars_disabled(), logging.get_verbosity()

    def call(folder):
        with pytest.MonkeyPatch.context() as patch:
            budget = {**lifelong.QUICK.budget, "train_texts": 96, "test_texts": 40, "max_length": 40}
            patch.setattr(lifelong, "QUICK", replace(lifelong.QUICK, budget=budget))
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
        record = read_record(quick / "quick" / f"{name}.json")
        ours, sequential = (row["summary"] for row in record["rows"])
        assert [row["method"] for row in record["rows"]] == ["ours", "sequential"] and record["stream"] == name
        assert ours["average_accuracy"] > sequential["average_accuracy"] + 0.2
        assert ours["forgetting"] <= 0.05


@pytest.mark.slow
def test_a_cell_that_is_there_is_not_run_again(run, quick):
    records = sorted((quick / "quick").iterdir())
    before = [(path, path.stat().st_mtime_ns) for path in records]
    run(quick)
    assert [(path, path.stat().st_mtime_ns) for path in records] == before
    assert [path.name for path in records] == ["shipped.json", "shipped_reversed.json"]


@pytest.fixture
def bench(tmp_path, monkeypatch):
    """`bench(*options)`: `lifelong.py` on methods that learn nothing; gives what was run, and `tmp_path` is filled."""
    score = {"average_accuracy": 0.5}

    class Matrix:
        summary, to_dict, average_accuracy = lambda self: score, lambda self: {"scores": []}, lambda self: 0.5

    def call(*options, model="a-model"):
        ran = []

        def learn(tasks, setting):
            ran.append((setting.seed, setting.budget.get("train_texts"), setting.chosen))
            return Result(Matrix(), [1], 1.0, 1.0)

        methods = {name: replace(METHODS[name], run=learn) for name in ("lda", "sequential")}
        for name in ("FULL", "SMALL"):
            monkeypatch.setattr(lifelong, name, replace(getattr(lifelong, name), methods=methods))
        monkeypatch.setattr(lifelong, "prepare", lambda tasks, setting: tasks)
        monkeypatch.setattr(lifelong, "load_task", lambda *args, **options: {"validation": args[3]})
        monkeypatch.setattr(lifelong.AutoConfig, "from_pretrained", lambda model: None)
        monkeypatch.setattr(lifelong.datasets, "disable_progress_bars", lambda: None)
        monkeypatch.setattr(lifelong.logging, "set_verbosity_error", lambda: None)
        command = ["--streams", "domains", "--model", model, "--results", str(tmp_path), *options]
        monkeypatch.setattr(sys, "argv", ["lifelong.py", "--methods", "sequential", "lda", *command])
        lifelong.main()
        return ran

    return call


def test_only_cells_that_a_record_lacks_are_run(bench, tmp_path):
    assert len(bench("--seeds", "1")) == 2
    assert [seed for seed, *_ in bench("--seeds", "0", "1")] == [0, 0]
    record = read_record(tmp_path / "full" / "domains.json")
    found = [(row["method"], row["order"], row["seed"]) for row in record["rows"]]
    assert found == [("lda", 0, 0), ("lda", 0, 1), ("sequential", 0, 0), ("sequential", 0, 1)]
    assert record["model"] == "a-model" and record["tasks"] == STREAMS["domains"]
    assert record["command"].endswith("--budget full --data_dir DATA --model a-model --streams domains")


def test_each_budget_has_a_folder_of_its_own(bench, tmp_path):
    assert {texts for _, texts, _ in bench("--seeds", "0")} == {1500}
    assert {texts for _, texts, _ in bench("--seeds", "0", "--budget", "small")} == {500}
    full, small = (read_record(tmp_path / name / "domains.json") for name in ("full", "small"))
    assert [record["budget"]["train_texts"] for record in (full, small)] == [1500, 500]


def test_cells_of_another_backbone_or_budget_are_not_mixed_into_a_record(bench, monkeypatch):
    bench("--seeds", "0")
    with pytest.raises(SystemExit, match=r"domains.json has rows with a-model and .*give another folder as"):
        bench("--seeds", "1", model="another-model")
    monkeypatch.setattr(lifelong, "FULL", replace(lifelong.FULL, budget={**lifelong.BUDGET, "epochs": 1}))
    with pytest.raises(SystemExit, match="with a-model"):
        bench("--seeds", "1")


def test_what_did_best_is_recorded_once_and_used(bench, tmp_path):
    assert len(bench("--choose")) == 4 + 6
    assert not bench("--choose")
    path = tmp_path / "full" / "chosen.json"
    record = read_record(path)
    rows = {row["method"]: row for row in record["rows"]}
    # LDA, which needs no training, is chosen with all texts.
    assert {name: row["choice"]["train_texts"] for name, row in rows.items()} == {"lda": 1500, "sequential": 300}
    assert len(rows["lda"]["tried"]) == 6 and record["model"] == "a-model"
    assert rows["lda"]["chosen"] == METHODS["lda"].candidates()[0]  # all score alike here
    best = {"layers": "last", "shrinkage": 0.5}
    add_row(path, record, {**rows["lda"], "chosen": best})
    assert best in [used for *_, used in bench("--seeds", "0")]


def test_a_data_set_without_its_folder_is_named(tmp_path):
    with pytest.raises(SystemExit, match="sst2` is no folder: `--data_dir` needs one of each data set"):
        load_task("sst2", str(tmp_path), 0, 10)


def test_a_model_that_cannot_be_used_is_refused_before_anything_runs(tmp_path, monkeypatch, capsys):
    command = ["lifelong.py", "--model", str(tmp_path / "nowhere"), "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="2"):
        lifelong.main()
    assert "give the folder of an encoder" in capsys.readouterr().err


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
