"""Bad input: one clear error each, before anything is trained or written."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset, DatasetDict
from training_helpers import PLAIN, make_model, rows, sentiment, topics
from transformers import AutoModel, TrainingArguments

from hf_lifelong import DriftTrainer, DriftTrainingArguments, Task
from hf_lifelong.adapter import lifelong_of
from hf_lifelong.training.tasks import single_task


def data(**columns):
    return Dataset.from_dict(columns or {"text": ["a b", "c d", "e f", "g h"], "label": ["x", "y", "x", "y"]})


def nothing_written(folder: Path) -> bool:
    return not any(path.name.startswith(("adapter_", "accuracy_", "commit-")) for path in folder.rglob("*"))


def test_a_task_without_rows():
    with pytest.raises(ValueError, match="`train` of task `films` is empty"):
        Task("films", "text-classification", data(text=[], label=[]))
    with pytest.raises(ValueError, match="`test` of task `films` is empty"):
        Task("films", "text-classification", data(), test=data().select([]))


def test_a_task_of_no_kind_or_name():
    with pytest.raises(ValueError, match="`kind` of task `films` is 'regression'; choose one of"):
        Task("films", "regression", data())
    for name in (" ", "b\n2024", "\x1b[2J", "\ud800", 7, None):
        with pytest.raises(ValueError, match=r"`name` of a task is .*; give only printable characters"):
            Task(name, "text-classification", data())
    with pytest.raises(ValueError, match="is 'unknown', which is the answer to inputs of no task"):
        Task("unknown", "text-classification", data())


def test_a_task_of_wrong_types():
    for columns in (None, "text", {"text": 3}, ["text"]):
        with pytest.raises(ValueError, match=r"`columns` of task `films` is .*; give a dict from role to column name"):
            Task("films", "text-classification", data(), columns=columns)
    with pytest.raises(ValueError, match="`template` of task `films` is 3; give a text"):
        Task("films", "text-generation", data(), template=3)


def test_data_that_is_no_dataset():
    with pytest.raises(ValueError, match=r"must be a `datasets.Dataset`, not DatasetDict"):
        Task("films", "text-classification", DatasetDict(train=data()))
    with pytest.raises(ValueError, match=r"`validation` of task `films` must be a `datasets.Dataset`, not list"):
        Task("films", "text-classification", data(), validation=[1])


SENTENCES = ["one two", "three four", "five six", "seven eight"]
SQUAD = {"question": ["Who?"] * 4, "context": ["Ada wrote it."] * 4}
WORDS = {"tokens": [["Ada", "wrote"], ["it", "."]] * 2, "tags": [["PER", "O"], ["O", "O"]] * 2}
NO_WORDS = {"tokens": [], "tags": []}
BAD_DATA = {
    "wrong columns": (
        Task("bad", "text-classification", data(sentence=SENTENCES, stars=[1, 2, 1, 2])),
        r"Task `bad`: columns\['text'\].*no column",
    ),
    "unknown role": (
        Task("bad", "text-classification", data(), columns={"txt": "text"}),
        "Task `bad`: columns has the unknown role 'txt'",
    ),
    "one label": (Task("bad", "text-classification", data(text=SENTENCES, label=["x"] * 4)), "Task `bad`: .*label"),
    "missing label": (
        Task("bad", "text-classification", data(text=SENTENCES, label=["x", "y", None, "x"])),
        "Task `bad`: ",
    ),
    "test label outside the names": (
        Task("bad", "text-classification", data(), test=data(text=["a", "b"], label=["x", "z"])),
        "Task `bad`: .*'z'",
    ),
    "validation label outside the names": (
        Task("bad", "text-classification", data(), validation=data(text=["a", "b"], label=["x", "z"])),
        "Task `bad`: .*'z'",
    ),
    "one row": (Task("bad", "text-classification", data().select([0])), "Task `bad`: `train` has one row"),
    "several labels of a text": (
        Task("bad", "text-classification", data(text=SENTENCES, label=[[0, 1]] * 4)),
        "Task `bad`: .*multi-label is not supported",
    ),
    "targets of a regression": (
        Task("bad", "text-classification", data(text=SENTENCES, label=[0.5, 1.0, 2.5, 3.0])),
        "Task `bad`: .*floats are the target of a regression, which is a `text-regression` task",
    ),
    "a number that is missing": (
        Task("bad", "text-regression", data(text=SENTENCES, label=[0.5, 1.0, None, 3.0])),
        r"Task `bad`: `train`, row 2.*None is no finite number|Task `bad`: .*row 2: None is no finite number",
    ),
    "numbers that do not differ": (
        Task("bad", "text-regression", data(text=SENTENCES, label=[0.5] * 4)),
        "Task `bad`: .*too little to tell them apart",
    ),
    "one row beside validation": (
        Task("bad", "text-classification", data().select([0, 1])),
        "Task `bad`: 1 row is left for training.*give at least 2 beside those for validation",
    ),
    "words nowhere": (
        Task(
            "bad",
            "token-classification",
            data(**WORDS),
            validation=data(**WORDS).map(lambda row: {"tokens": [], "tags": []}),
        ),
        "Task `bad`: the validation rows cannot be scored: references holds no words",
    ),
    "no answers": (Task("bad", "question-answering", data(**SQUAD)), r"Task `bad`: columns\['answers'\]"),
    "answer outside its context": (
        Task("bad", "question-answering", data(**SQUAD, answers=[{"text": ["Bob"], "answer_start": [90]}] * 4)),
        "Task `bad`: ",
    ),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_refused_before_the_first_task_is_trained(prepare, tmp_path, case):
    task, message = BAD_DATA[case]
    trainer = prepare([sentiment(), task])
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert nothing_written(tmp_path) and trainer.knowledge.names == [] and trainer.state.global_step == 0
    assert lifelong_of(trainer.model).task is None


def test_a_missing_tokenizer(bert_folder, tmp_path):
    args = DriftTrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    trainer = DriftTrainer(make_model(bert_folder), args, tasks=[sentiment()])
    with pytest.raises(ValueError, match=r"Task `sentiment`: .*`processing_class` is missing"):
        trainer.train()
    assert nothing_written(tmp_path)


@pytest.fixture
def setup(bert_folder, tmp_path):
    def call(**changes):
        args = DriftTrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
        given = {"model": make_model(bert_folder), "args": args, "tasks": [sentiment()], **changes}
        return DriftTrainer(**given)

    return call


def test_a_model_that_cannot_learn(setup, bert_folder):
    with pytest.raises(ValueError, match="`BertModel` has no lifelong adapter"):
        setup(model=AutoModel.from_pretrained(bert_folder))
    for model in (None, str(bert_folder)):
        with pytest.raises(ValueError, match="`model` must be a model"):
            setup(model=model)


def test_arguments_that_clash(setup, tmp_path):
    with pytest.raises(ValueError, match="`args` must be `DriftTrainingArguments`, not `TrainingArguments`"):
        setup(args=TrainingArguments(str(tmp_path), use_cpu=True))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match="`optimizers` cannot be given"):
        setup(optimizers=(optimizer, None))
    with pytest.raises(ValueError, match="`model_init` would discard"):
        setup(model_init=lambda: None)
    with pytest.raises(ValueError, match="either `tasks` or `train_dataset`"):
        setup(train_dataset=rows("sentiment_sentences", 0, 10))
    with pytest.raises(ValueError, match="either `tasks` or `train_dataset`"):
        setup(tasks=None)
    with pytest.raises(ValueError, match="`tasks` is empty"):
        setup(tasks=[])
    for tasks in (sentiment(), "films", [1], 3, [sentiment(), "films"]):
        with pytest.raises(ValueError, match=r"`tasks` is .*; give a list of `Task`"):
            setup(tasks=tasks)
    with pytest.raises(ValueError, match="`processing_class` is 'bert'; give the tokenizer of the base"):
        setup(processing_class="bert")
    with pytest.raises(ValueError, match="`eval_dataset` goes with `train_dataset`"):
        setup(eval_dataset=rows("sentiment_sentences", 0, 10))


def test_a_train_dataset_that_is_no_task(setup):
    with pytest.raises(ValueError, match="`train_dataset` is a `DatasetDict`"):
        setup(tasks=None, train_dataset=DatasetDict(train=data()))
    with pytest.raises(ValueError, match="`train_dataset` is empty"):
        setup(tasks=None, train_dataset=data().select([]))
    with pytest.raises(ValueError, match=r"columns \['stars', 'text'\], which fit no kind of task"):
        setup(tasks=None, train_dataset=data(text=["a"], stars=[1]))
    with pytest.raises(ValueError, match=r"`train_dataset` has a transform"):
        setup(tasks=None, train_dataset=data().with_transform(lambda rows: rows))


TAGGED = {"tokens": [["a"]], "ner_tags": [["O"]]}
ASKED = {"question": ["Who?"], "context": ["Ada."], "answers": [{"text": ["Ada"], "answer_start": [0]}]}


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ({"text": ["a"], "label": ["x"]}, "text-classification"),
        ({"text": ["a"], "tokens": [["a"]], "label": ["x"]}, "text-classification"),
        ({"text": ["a"], **TAGGED}, "token-classification"),
        ({"label": ["x"], **ASKED}, "question-answering"),
        ({"input_ids": [[1]], "label": [0]}, "text-classification"),
        ({"input_ids": [[1]], "labels": [0]}, "text-classification"),
        ({"input_ids": [[1]], "labels": [[0]]}, "token-classification"),
        ({"input_ids": [[1]], "start_positions": [0], "end_positions": [0]}, "question-answering"),
        ({"text": ["a"], "labels": [["x", "y"]]}, "text-classification"),  # which then says multi-label
        ({"text": ["a"], "label": [0.5]}, "text-regression"),
        ({"text": ["a"], "text_pair": ["b"], "score": [0.5]}, "text-regression"),
        ({"input_ids": [[1]], "labels": [0.5]}, "text-regression"),
    ],
)
def test_the_kind_is_guessed_by_all_columns(columns, kind):
    for form in (None, "torch"):
        assert single_task(data(**columns).with_format(form), None, [], "FEATURE_EXTRACTION").kind == kind


def test_columns_that_fit_no_kind_or_several(setup):
    with pytest.raises(ValueError, match=r"columns \['label', 'tokens'\], which fit no kind"):
        single_task(data(tokens=[["a"]], label=["x"]), None, [], "FEATURE_EXTRACTION")
    message = r"fit several kinds of task \(text-classification, token-classification\)\. Give `tasks=\["
    with pytest.raises(ValueError, match=message):
        single_task(data(text=["a"], label=["x"], **TAGGED), None, [], "FEATURE_EXTRACTION")


def test_evaluate_before_anything_is_learned(prepare):
    with pytest.raises(ValueError, match="This trainer has not learned any task yet"):
        prepare([sentiment()]).evaluate()


def test_evaluate_on_other_data(train):
    with pytest.raises(ValueError, match="`eval_dataset` cannot be given outside of training"):
        train([sentiment()]).evaluate(rows("sentiment_sentences", 0, 10))


def test_fewer_steps_than_members(prepare, tmp_path):
    trainer = prepare([sentiment()], members=5, max_steps=4)
    with pytest.raises(ValueError, match=r"4 optimiser steps, fewer than `members` \(5\)"):
        trainer.train()
    assert nothing_written(tmp_path) and trainer.knowledge.names == []


def test_search_is_refused(prepare):
    with pytest.raises(ValueError, match="hyperparameter search"):
        prepare([sentiment()]).train(trial={"learning_rate": 1})


@pytest.mark.parametrize("drift", [{}, PLAIN])
def test_a_learning_rate_that_diverges(prepare, tmp_path, drift):
    trainer = prepare([sentiment()], learning_rate=1e30, **drift)
    with pytest.raises(FloatingPointError, match=r"of task `sentiment` .* NaN or infinite"):
        trainer.train()
    assert nothing_written(tmp_path) and trainer.knowledge.names == []
    assert lifelong_of(trainer.model).task is None


def test_a_loss_that_is_nan(prepare, tmp_path):
    trainer = prepare([sentiment()])
    known = trainer.compute_loss

    def damaged(model, inputs, **options):
        return known(model, inputs, **options) * float("nan")

    trainer.compute_loss = damaged
    with pytest.raises(FloatingPointError, match="gradient of task `sentiment` is NaN"):
        trainer.train()
    assert nothing_written(tmp_path)
    trainer.compute_loss = known
    trainer.train()  # the model is as it was
    assert trainer.knowledge.names == ["sentiment"]


@pytest.mark.feature("learn several tasks in one launch", "FSDP2", refused=True)
@pytest.mark.feature("learn several tasks in one launch", "ZeRO", refused=True)
@pytest.mark.parametrize("flag", ["is_fsdp_enabled", "is_deepspeed_enabled"])
def test_several_tasks_under_fsdp_or_deepspeed_are_refused(prepare, tmp_path, flag):
    trainer = prepare([sentiment(), sentiment("again", 60, 120)])
    setattr(trainer, flag, True)
    with pytest.raises(ValueError, match="under FSDP and DeepSpeed a launch learns one"):
        trainer.train()
    assert nothing_written(tmp_path)


def test_several_devices_in_one_process_are_refused(setup, tmp_path, monkeypatch):
    args = DriftTrainingArguments(str(tmp_path), use_cpu=True)
    monkeypatch.setattr(DriftTrainingArguments, "n_gpu", 2)
    with pytest.raises(ValueError, match="Start one process per GPU"):
        setup(args=args)


def test_an_output_folder_that_cannot_be_written(prepare, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        prepare([sentiment()], folder="file/out")


def test_a_folder_whose_tasks_would_be_lost_is_refused(prepare, train, tmp_path):
    train([topics()], folder="used", max_steps=2)
    before = (tmp_path / "used" / "adapter_model.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"whose adapter knows \['topics'\], which would be lost. Give another"):
        prepare([sentiment()], folder="used").train()
    assert (tmp_path / "used" / "adapter_model.safetensors").read_bytes() == before
    train([topics(), sentiment()], folder="used", max_steps=2)  # the same task is learned again
