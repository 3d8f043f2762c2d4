"""Statistics of tasks: fitted at commit, stored, summed, forgotten to the byte, shown. None at all costs nothing."""

import json
import re
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from toy_statistic import GROUPS, Refusing, Toy, grouped
from training_helpers import answers, make_model, make_trainer, saved, sentiment, topics
from transformers import AutoModel
from typer.testing import CliRunner

import hf_lifelong
from hf_lifelong import forget, knowledge_of
from hf_lifelong.adapter import statistics_of, trunk_features
from hf_lifelong.cli.app import app
from hf_lifelong.statistics import REGISTER, TaskRefused, TaskStatistic, get_statistic, get_statistics
from hf_lifelong.storage import TensorSpec

FRESH = {"start_from": "fresh", "grouping": "boundary"}


def toys():
    return {"options": {"statistics": [Toy()]}}


def two():
    return [grouped(sentiment()), grouped(topics())]


@pytest.fixture(scope="module")
def learned(bert_folder, tokenizer, tmp_path_factory):
    """A trainer that has learned two tasks with a statistic and one without, and the folder it wrote."""
    folder = tmp_path_factory.mktemp("statistics") / "out"
    tasks = [*two(), answers()]
    trainer = make_trainer(make_model(bert_folder), folder, tasks, tokenizer, **toys(), **FRESH)
    trainer.train()
    return trainer, folder


def test_it_is_stored_with_its_task_and_summed_in_their_order(learned):
    trainer, _ = learned
    found = statistics_of(trainer.model, "toy")
    assert list(found) == ["sentiment", "topics"]
    for values in found.values():
        assert values["sums"].dtype == torch.float64 and values["sums"].shape == (2, 2)
        assert values["counts"].sum() == 54  # 6 of 60 rows are the validation part
        torch.testing.assert_close(values["sums"].sum(1), values["counts"].double(), rtol=1e-6, atol=0)
    total = Toy().total(found.values())
    assert total["counts"].sum() == 108
    assert torch.equal(total["sums"], found["sentiment"]["sums"] + found["topics"]["sums"])


def test_it_is_saved_loaded_and_kept_without_its_class(learned, bert_folder, tmp_path):
    trainer, folder = learned
    base = AutoModel.from_pretrained(bert_folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(folder)).eval()
    known, found = statistics_of(trainer.model, "toy"), statistics_of(model, "toy")
    assert all(torch.equal(found[task][name], value) for task in known for name, value in known[task].items())
    assert knowledge_of(model) == knowledge_of(trainer.model)
    model.save_pretrained(str(tmp_path))
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    forget(model, "sentiment")
    assert list(statistics_of(model, "toy")) == ["topics"]
    model.save_pretrained(str(tmp_path / "less"))
    again = PeftModel.from_pretrained(AutoModel.from_pretrained(bert_folder), str(tmp_path / "less"))
    left = statistics_of(again, "toy")
    assert list(left) == ["topics"] and torch.equal(left["topics"]["sums"], known["topics"]["sums"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_way_of_loading_and_no_cast_changes_a_bit_of_it(learned, tokenizer, dtype):
    trainer, folder = learned
    model = AutoModel.from_pretrained(folder, dtype=dtype).to(torch.float16).to(dtype)  # transformers' own loader
    model(**tokenizer(["a film"], return_tensors="pt"))
    known, found = statistics_of(trainer.model, "toy"), statistics_of(model, "toy")
    assert all(torch.equal(found[task][name], value) for task in known for name, value in known[task].items())


def test_what_is_forgotten_leaves_the_bytes_of_never_having_been(train, tmp_path):
    with_it = train([*two(), grouped(sentiment("more", 60, 120))], folder="with", **toys(), **FRESH)
    forget(with_it.model, "topics")
    without = train([grouped(sentiment()), grouped(sentiment("more", 60, 120))], folder="without", **toys(), **FRESH)
    # The scores were measured with the task present.
    for trainer in (with_it, without):
        trainer.evaluate()
    found, known = saved(with_it, tmp_path / "a"), saved(without, tmp_path / "b")
    assert found["adapter_model.safetensors"] == known["adapter_model.safetensors"]
    tasks = [json.loads((tmp_path / f / "adapter_config.json").read_text())["knowledge"]["tasks"] for f in "ab"]
    assert tasks[0] == tasks[1] and tasks[0][1]["statistics"][0]["name"] == "toy"
    forget(with_it.model, "sentiment")
    forget(with_it.model, "more")
    with_it.model.save_pretrained(str(tmp_path / "none"))
    assert not [name for name in load_file(tmp_path / "none" / "adapter_model.safetensors") if "statistics" in name]


def test_it_is_shown_by_inspect_and_on_the_card(learned):
    trainer, folder = learned
    first = float(statistics_of(trainer.model, "toy")["topics"]["sums"][0, 0])
    line = f"topics, toy: rows 54, first score {first:.4g}"
    assert line in CliRunner().invoke(app, ["inspect", str(folder)]).stdout
    shown = json.loads(CliRunner().invoke(app, ["inspect", str(folder), "--json"]).stdout)
    assert shown["tasks"][1]["statistics"][0]["shown"] == [["rows", 54], ["first score", first]]
    assert "statistics" not in shown["tasks"][2]
    assert shown["tasks"][0]["size"] > shown["tasks"][2]["size"] > 0
    card = (folder / "README.md").read_text()
    assert "## What was measured of each task" in card
    assert f"| topics | `toy` | rows 54; first score {first:.4g} |" in card


def passes(model):
    """Counts the passes of a base from here on."""
    count = []
    model.base_model.model.register_forward_hook(lambda *_: count.append(1))
    return count


def test_none_at_all_costs_nothing(prepare, tmp_path):
    found = []
    for folder, options in (("none", {}), ("unused", toys())):
        trainer = prepare([sentiment(), answers()], folder=folder, **options)
        count = passes(trainer.model)
        trainer.train()
        found.append((len(count), saved(trainer, tmp_path / f"{folder}-saved")))
    assert found[0] == found[1]
    text = Path(tmp_path, "none-saved", "adapter_config.json").read_text()
    assert "statistics" not in text
    assert not [name for name in load_file(tmp_path / "none-saved" / "adapter_model.safetensors") if "stat" in name]


class Aligned(TaskStatistic):
    """Notes what it is given."""

    name = "aligned"
    columns = ("group", "text")
    tensors = (TensorSpec("rows", (), dtype="int64"),)
    seen = None

    def fit(self, rows):
        self.seen = rows
        return {"rows": torch.tensor(len(rows.features))}

    def describe(self, values):
        return {}


class OnValidation(Aligned):
    name, part, needs_scores = "on-validation", "validation", True


@pytest.mark.parametrize("statistic", [Aligned, OnValidation])
def test_rows_features_labels_and_columns_belong_together(train, tokenizer, statistic):
    one = statistic()
    task = sentiment()
    column = task.train.column_names[0]
    task.train = task.train.add_column("length", [len(text) for text in task.train[column]])
    task.columns = {"group": "length"}
    trainer = train([task], signature_samples=5, options={"statistics": [one]})
    rows = one.seen
    assert (rows.task, rows.kind, rows.classes) == ("sentiment", "text-classification", ("negative", "positive"))
    assert len(rows.features) == len(rows.labels) == len(rows.columns["text"]) == len(rows.columns["group"]) == 5
    names = dict(zip(task.train[column], task.train["label"], strict=True))
    for text, length, feature, label in zip(
        rows.columns["text"], rows.columns["group"], rows.features, rows.labels.tolist(), strict=True
    ):
        assert length == len(text) and names[text] == label
        encoded = tokenizer([text], return_tensors="pt", truncation=True, max_length=48)
        alone = trunk_features(trainer.model, dict(encoded))
        torch.testing.assert_close(alone[0], feature, rtol=1e-4, atol=1e-5)
    asked, states = rows.ask({"text": rows.columns["text"]})
    assert asked.shape == (5, 2) and states.shape == (5, 32)
    if statistic.needs_scores:
        torch.testing.assert_close(asked, rows.scores, rtol=1e-4, atol=1e-5)
    else:
        assert rows.scores is None


class OfBoth(Aligned):
    name, part, columns, optional_columns, asks = "of-both", "both", ("text",), ("text_pair", "group"), True

    def check(self, columns):
        self.checked = [*getattr(self, "checked", ()), len(columns["text"])]


def test_a_statistic_of_both_parts_sees_the_validation_rows_beside_the_training_rows(train):
    one = OfBoth()
    task = sentiment()
    column = task.train.column_names[0]
    train([task, answers()], options={"statistics": [one]})  # no members for texts of questions
    rows, held = one.seen, one.seen.validation
    assert one.checked == [54, 6] and (len(rows.features), len(held.features)) == (54, 6)
    assert set(rows.columns) == set(held.columns) == {"text"}  # the task has no pairs, and names no group
    for part in (rows, held):
        assert [task.train[column][number] for number in part.row_numbers] == list(part.columns["text"])
    assert sorted([*rows.row_numbers, *held.row_numbers]) == list(range(60))
    assert rows.scores is None and held.validation is None
    assert rows.ask({"text": ["a film"]}).states.shape == (1, 32)


def test_a_column_reaches_it_whatever_trainer_removes_and_however_long_a_row_is(train):
    one = Aligned()
    one.columns = ("group",)
    task = answers()
    task.train = task.train.add_column("title length", [len(text) for text in task.train["question"]])
    task.columns = {"group": "title length"}
    trainer = train([task], options={"statistics": [one]}, remove_unused_columns=True, config={"max_length": 40})
    assert len(trainer.prepared(task).train) > len(trainer.prepared(task).train_examples)  # several windows a row
    assert len(one.seen.columns["group"]) == len(one.seen.features) and one.seen.labels is None
    assert set(one.seen.columns["group"]) == set(trainer.prepared(task).train_examples["title length"])


def test_a_statistic_can_refuse_a_task_and_earlier_ones_stay(prepare, train, tmp_path):
    options = {"statistics": [Refusing("topics")]}
    before = train([grouped(sentiment())], folder="before", options=options)
    trainer = prepare(two(), folder="refused", options=options)
    with pytest.raises(TaskRefused, match="task `topics` looks poisoned"):
        trainer.train()
    assert trainer.knowledge.names == ["sentiment"]
    assert saved(trainer, tmp_path / "a") == saved(before, tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda task: task.columns.update(group="nowhere"), "Task `sentiment`: .*no column 'nowhere' in `train`"),
        (lambda task: task.columns.update(gruop="place"), "unknown role 'gruop'"),
        (
            lambda task: (
                setattr(task, "train", task.train.add_column("far", ["east"] * 60)) or task.columns.update(group="far")
            ),
            "Task `sentiment`: group 'east' is none of",
        ),
    ],
)
def test_columns_that_cannot_be_used_are_refused_before_training(prepare, change, message):
    task = grouped(sentiment())
    change(task)
    trainer = prepare([task], **toys())
    count = passes(trainer.model)
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert not count


def test_a_role_of_no_statistic_is_an_unknown_one(prepare):
    with pytest.raises(ValueError, match="unknown role 'group'"):
        prepare([grouped(sentiment())]).train()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"must give the tensors \['sums', 'counts', 'mean'\], not \[\]"),
        ({"sums": torch.zeros(2, 2)}, "`sums` of the statistic `toy` must be float64 with .*, not torch.float32"),
        ({"counts": torch.zeros(3, dtype=torch.int64)}, "`counts` .* has 3 groups, but another .* has 2"),
        ({"sums": torch.full((2, 2), float("nan"), dtype=torch.float64)}, "holds NaN"),
    ],
)
def test_values_that_are_not_those_that_it_declares_are_refused(prepare, values, message):
    class Wrong(Toy):
        def fit(self, rows):
            return {**super().fit(rows), **values} if values else {}

    trainer = prepare([grouped(sentiment())], options={"statistics": [Wrong()]})
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.knowledge.names == []


def test_a_statistic_is_given_as_an_object_a_class_or_a_name(monkeypatch):
    monkeypatch.setitem(REGISTER, "toy", ("toy_statistic", "Toy"))
    assert all(isinstance(get_statistic(given), Toy) for given in ("toy", Toy, Toy()))
    with pytest.raises(ValueError, match=r"names 'tyo', which is not known; choose one of \[.*'toy'"):
        get_statistic("tyo")
    with pytest.raises(ValueError, match="two of the name 'toy'"):
        get_statistics([Toy(), "toy"])
    with pytest.raises(ValueError, match="give a list"):
        get_statistics("toy")
    with pytest.raises(ValueError, match="`statistics` holds 3"):
        get_statistics([3])


def test_what_cannot_be_merged_says_so():
    with pytest.raises(ValueError, match="of one task alone and cannot be merged"):
        Aligned().total([{}, {}])
    with pytest.raises(ValueError, match="nothing to sum"):
        Toy().total([])
    assert GROUPS and hf_lifelong.TaskStatistic is TaskStatistic


def test_the_one_of_the_readme_is_measured_and_summed(train):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    code = next(code for code in re.findall(r"```python\n(.*?)```", readme, re.S) if "(TaskStatistic)" in code)
    shown: dict = {}
    exec(code, shown)
    statistic, tasks = shown["RightByGroup"](), [sentiment(), topics()]
    for task in tasks:
        task.train = task.train.add_column("sex", [i % 2 for i in range(len(task.train))])
        task.columns = {"group": "sex"}
    model = train(tasks, options={"statistics": [statistic]}, **FRESH).model
    values = statistics_of(model, statistic.name)
    total = statistic.total(values.values())
    assert list(values) == ["sentiment", "topics"] and total["rows"].sum() == 12  # 6 validation rows of each
    scores = [task.score * 6 for task in knowledge_of(model).tasks]
    assert [float(of_task["right"].sum()) for of_task in values.values()] == pytest.approx(scores)
    assert [name for name, _ in knowledge_of(model).tasks[0].statistics[0].shown] == ["group 0", "group 1"]
