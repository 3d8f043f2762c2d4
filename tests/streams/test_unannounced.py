"""A stream that does not say where a task ends: what is learned of it, what is answered, and what is kept on disk."""

import logging
from io import BytesIO

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from peft import get_peft_model
from PIL import Image
from stream_helpers import Heard, announce, make_model, make_trainer, rows, unlabelled
from transformers import AutoModel, AutoModelForCausalLM, ViTImageProcessor

from hf_lifelong import DriftAdapterConfig
from hf_lifelong.training import unannounced
from hf_lifelong.training.rows import form_of, strays
from hf_lifelong.utils.files import DamagedFileError


@pytest.fixture
def learn(bert_folder, tokenizer, tmp_path):
    """`learn(stream, …)`: a trainer that has learned a stream, and what its callback heard."""

    def run(stream, *, folder="out", resume=None, model=None, **arguments):
        heard = Heard()
        model = model if model is not None else make_model(bert_folder)
        trainer = make_trainer(model, tmp_path / folder, stream, tokenizer, callbacks=[heard], **arguments)
        trainer.train(resume_from_checkpoint=resume)
        return trainer, heard

    return run


def groups(trainer):
    return {task.name: task.group for task in trainer.knowledge.tasks}


def digests(folder):
    return [(folder / name).read_bytes() for name in ("adapter_model.safetensors", "adapter_config.json")]


@pytest.mark.slow
def test_tasks_of_a_stream_are_found_and_a_returning_one_is_recognised(learn, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    stream = [*rows("film", 120), *rows("money", 120), *unlabelled("money", 10), *rows("film", 110, 1)]
    stream += rows("match", 100)
    trainer, heard = learn(iter(stream))
    found = [(boundary.task, boundary.outcome, boundary.group) for boundary in heard.boundaries]
    assert found == [
        ("segment-1", "new", None),
        ("segment-2", "return", "segment-1"),
        ("segment-3", "new", None),
        ("segment-4", "end", None),
    ]
    places = [boundary.since for boundary in heard.boundaries]
    assert all(abs(place - true) <= 16 for place, true in zip(places, [120, 250, 360, 460], strict=True))
    assert list(groups(trainer).values()) == ["segment-1", "segment-2", "segment-1", "segment-4"]
    assert trainer.knowledge.tasks[1].labels == ("down", "up") and trainer.knowledge.tasks[1].score > 0.9
    assert "on the stream shows group `segment-1` again (evidence" in caplog.text
    assert [answer["input"] for answer in heard.answers] == list(range(240, 250))
    assert sorted(path.name for path in (tmp_path / "out" / "_stream").iterdir()) == ["commit-4", "reading"]


def test_only_rows_with_a_label_are_learned_and_the_others_are_answered(learn, monkeypatch, tmp_path):
    announce(monkeypatch, at_45=("new", None, 40))
    stream = [*unlabelled("film", 4), *rows("film", 36), *rows("money", 30), *unlabelled("film", 3), *rows("money", 5)]
    trainer, heard = learn(stream)
    sizes = [task.data.rows for task in trainer.knowledge.tasks]
    assert sizes == [36 - round(3.6), 35 - round(3.5)]  # without what was split off for validation
    assert [answer["input"] for answer in heard.answers] == [0, 1, 2, 3, 70, 71, 72]
    assert all((answer["task"], answer["answer"]) == ("unknown", None) for answer in heard.answers[:4])
    later = heard.answers[4:]
    assert all(answer["task"] in ("segment-1", "unknown") and "novelty" in answer for answer in later)
    with pytest.raises(ValueError, match="The rows of `stream` are not kept"):
        trainer.evaluate()
    assert trainer.matrix.tasks == ["segment-1", "segment-2"] and trainer.tasks == [] and not trainer._prepared


def test_no_row_is_ever_on_disk(learn, monkeypatch, tmp_path):
    announce(monkeypatch, at_45=("new", None, 40))
    stream = [*rows("film", 40), *rows("money", 40)]
    for row in stream:
        row["text"] += " xylophone"

    def die_late():
        yield from stream
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        learn(die_late(), stream_save_steps=1, save_strategy="steps", save_steps=2)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and "token" not in path.name]
    assert not [path for path in files if b"xylophone" in path.read_bytes()]
    assert any(path.parent.name == "reading" for path in files)


def test_a_full_buffer_is_learned_and_the_rest_joins_it(learn, monkeypatch):
    announce(monkeypatch)
    trainer, heard = learn(rows("film", 140), stream_buffer=60)
    assert [(boundary.since, boundary.outcome) for boundary in heard.boundaries] == [
        (60, "full"),
        (120, "full"),
        (140, "end"),
    ]
    assert set(groups(trainer).values()) == {"segment-1"} and len(trainer.knowledge.tasks) == 3


def test_labels_of_a_returning_task_are_those_that_it_has(learn, monkeypatch):
    announce(monkeypatch, at_60=("new", None, 60), at_120=("return", "segment-1", 120))
    third = [row for row in rows("film", 80, 1) if row["label"] == "good"]
    trainer, _ = learn(
        [*rows("film", 60), *rows("money", 60), *third, *[r for r in rows("film", 40, 2) if r["label"] == "bad"][:1]]
    )
    assert trainer.knowledge.tasks[2].labels == ("bad", "good")


def test_segments_that_are_too_small_are_left_out(learn, monkeypatch, caplog):
    announce(monkeypatch, at_45=("new", None, 40), at_50=("new", None, 45))
    trainer, heard = learn([*rows("film", 40), *rows("match", 5), *rows("money", 40)])
    assert len(heard.boundaries) == 3 and [task.labels for task in trainer.knowledge.tasks] == [
        ("bad", "good"),
        ("down", "up"),
    ]
    expected = "Inputs 40 to 44 of the stream are not learned: it has 5 rows with a label, and `stream_least` is 10."
    assert expected in caplog.text


def test_labels_that_stray_over_a_boundary_are_those_of_a_neighbour_on_its_side():
    labels = ["old", "both", "a", "b", "a", "old", "b", "a", "next", "b", "both", "a"]
    assert strays(labels, {"old", "both"}, {"next", "both"}) == {"old", "next", "both"}
    assert strays(labels, {"a", "both"}, {"a", "b"}) == set()  # not at the end, and in the middle
    assert strays(labels, {"next"}, {"old"}) == set() and strays([], {"a"}, {"b"}) == set()


def test_rows_on_the_wrong_side_of_a_boundary_are_left_out(learn, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    announce(monkeypatch, at_45=("new", None, 36), at_95=("return", "segment-1", 84))
    trainer, _ = learn([*rows("film", 40), *rows("money", 40), *rows("film", 40, 1)])
    assert [(task.labels, task.group) for task in trainer.knowledge.tasks] == [
        (("bad", "good"), "segment-1"),
        (("down", "up"), "segment-2"),
        (("bad", "good"), "segment-1"),
    ]
    assert "rows near a boundary, labelled ['bad', 'good'], are left out" in caplog.text


def test_one_class_makes_no_task(learn, monkeypatch, caplog):
    announce(monkeypatch, at_45=("new", None, 40))
    one = [row for row in rows("film", 100) if row["label"] == "good"][:40]
    trainer, _ = learn([*one, *rows("money", 40)])
    assert [task.labels for task in trainer.knowledge.tasks] == [("down", "up")]
    assert "all its rows have the same label" in caplog.text


def test_what_is_left_at_the_end_is_learned_when_the_stream_goes_on(learn, monkeypatch, tmp_path):
    announce(monkeypatch)
    with pytest.raises(
        ValueError, match=r"it has 1 rows with a label, and `stream_least` is 10. So nothing was learned"
    ):
        learn(rows("film", 1))
    trainer, _ = learn(rows("film", 50), resume=True)
    assert [task.data.rows for task in trainer.knowledge.tasks] == [45]
    learn(rows("film", 50), folder="unbroken")
    assert digests(tmp_path / "out") == digests(tmp_path / "unbroken")


def test_a_longer_stream_is_learned_on(learn, monkeypatch):
    announce(monkeypatch)
    learn(rows("film", 40))
    trainer, heard = learn([*rows("film", 40), *rows("film", 40, 1)], resume=True)
    assert groups(trainer) == {"segment-1": "segment-1", "segment-2": "segment-1"}
    assert [boundary.since for boundary in heard.boundaries] == [80]


@pytest.mark.parametrize("at", [5, 30, 55, 79])
def test_a_stream_that_dies_loses_nothing(learn, monkeypatch, tmp_path, at):
    announce(monkeypatch, at_45=("new", None, 40))
    stream = [*rows("film", 40), *rows("money", 40)]

    def dying():
        yield from stream[:at]
        raise ConnectionError("the line is dead")

    with pytest.raises(ConnectionError, match="the line is dead") as raised:
        learn(dying())
    notes = getattr(raised.value, "__notes__", [])  # none while no batch of the stream was dealt with
    assert ["`resume_from_checkpoint=True`" in note for note in notes] == [True] * (at > 5)
    trainer, _ = learn(iter(stream), resume=True)
    learn(stream, folder="unbroken")
    assert len(trainer.knowledge.tasks) == 2 and digests(tmp_path / "out") == digests(tmp_path / "unbroken")


def test_a_stream_without_labels_is_answered_and_said_to_have_none(learn, monkeypatch, caplog):
    announce(monkeypatch)
    monkeypatch.setattr(unannounced, "SUSPICIOUS", 20)
    trainer, heard = learn(unlabelled("film", 40))
    assert "None of the first 20 inputs of `stream` has a label" in caplog.text
    assert "None of the 40 inputs of `stream` had a label, so nothing was learned." in caplog.text
    assert len(heard.answers) == 40 and not trainer.knowledge.tasks


def bad(row):
    """A stream whose row 20 is this one."""
    return [*rows("film", 20), row, *rows("film", 19, 1)]


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ([], "`stream` is empty; give at least one row."),
        (bad("a text"), "Row 20 of the stream is 'a text'; give a dict from column to value."),
        (
            bad({"body": "a text", "label": "bad"}),
            r"Row 20 of the stream has no column 'text', only \['body', 'label'\]",
        ),
        (
            bad({"text": "a text", "label": 3}),
            "Row 20 of the stream holds a number in the column 'label', where earlier rows",
        ),
        (
            bad({"text": 5, "label": "bad"}),
            "Row 20 of the stream holds a number in the column 'text', where earlier rows",
        ),
        ([{"text": 5, "label": "bad"}], r"inputs\[0\] is 5, which is no known form"),
    ],
)
def test_rows_that_cannot_be_used_are_named(learn, monkeypatch, stream, message, tmp_path):
    announce(monkeypatch)
    with pytest.raises(ValueError, match=message):
        learn(stream)
    trainer, _ = learn([*rows("film", 20), *rows("film", 20, 1)], resume=True)  # corrected
    assert groups(trainer) == {"segment-1": "segment-1"}


def test_an_answer_that_cannot_be_learned_is_corrected_in_the_stream(learn, monkeypatch, tmp_path):
    announce(monkeypatch)
    stream = [OTHERS["question-answering"](n) for n in range(40)]
    wrong = [*stream]
    wrong[3] = {**stream[3], "answers": {"text": ["Bob"], "answer_start": [0]}}
    with pytest.raises(ValueError, match=r"Task `segment-1`: `train`, row 3, column 'answers'") as raised:
        learn(wrong, kind="question-answering")
    assert "The rows of the task are those with a label, from input 0 on." in raised.value.__notes__[0]
    learn(stream, kind="question-answering", resume=True)
    learn(stream, kind="question-answering", folder="unbroken")
    assert digests(tmp_path / "out") == digests(tmp_path / "unbroken")


def test_features_that_are_no_numbers_are_refused_and_corrected(learn, monkeypatch, bert_folder):
    announce(monkeypatch)
    model = make_model(bert_folder)
    model.get_input_embeddings().weight.data[2009] = float("nan")  # the word "it"
    with pytest.raises(ValueError, match=r"Of the 16 inputs from number 16 on \(`batch`\): The model gives NaN"):
        learn(bad({"text": "it", "label": "bad"}), model=model)


def test_columns_may_be_named_and_others_are_left_out(learn, monkeypatch):
    announce(monkeypatch)
    stream = [
        {"body": row["text"], "class": row["label"], "id": n if n % 2 else str(n)}
        for n, row in enumerate(rows("film", 40))
    ]
    trainer, _ = learn(stream, columns={"text": "body", "label": "class"})
    assert trainer.knowledge.tasks[0].labels == ("bad", "good")


def test_a_streamed_data_set_keeps_its_label_names(learn, monkeypatch):
    announce(monkeypatch)
    features = Features({"text": Value("string"), "label": ClassLabel(names=["good", "bad", "neither"])})
    given = [{**row, "label": ["good", "bad"].index(row["label"])} for row in rows("film", 40)]
    given[7]["label"] = -1
    data = Dataset.from_list(given, features=features)
    trainer, heard = learn(data.to_iterable_dataset())
    assert trainer.knowledge.tasks[0].labels == ("good", "bad", "neither")
    assert [answer["input"] for answer in heard.answers] == [7]


def test_another_stream_or_model_cannot_resume(learn, monkeypatch, bert_folder, tmp_path):
    announce(monkeypatch)

    def dying(seed):
        yield from rows("film", 30, seed)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        learn(dying(0))
    with pytest.raises(
        ValueError, match="is not that of the run to resume, which had read 16 inputs of it: it has only 9"
    ):
        learn(rows("film", 9), resume=True)
    with pytest.raises(ValueError, match=r"those from number 0 on are others\. Give the same stream, from its start"):
        learn(rows("film", 60, 1), resume=True)
    model = learn(rows("money", 40), folder="elsewhere")[0].model
    with pytest.raises(
        ValueError, match=r"was learned by an adapter that knew \[\], and this one knows \['segment-1'\]"
    ):
        learn(rows("film", 60), resume=True, model=model)
    path = tmp_path / "out" / "_stream" / "reading" / "reading.json"
    path.write_text(path.read_text().replace("16", "15"))
    with pytest.raises(DamagedFileError, match="it is not known how far the stream was read"):
        learn(rows("film", 60), resume=True)
    assert len(learn(rows("film", 40))[0].knowledge.tasks) == 1  # without resuming, it starts again


def test_a_resumed_stream_does_not_depend_on_what_was_saved_in_between(learn, monkeypatch, tmp_path):
    announce(monkeypatch, at_45=("new", None, 40))
    stream = [*rows("film", 40), *rows("money", 40)]
    for steps in (1, 1000):
        learn(stream, folder=str(steps), stream_save_steps=steps)
    assert digests(tmp_path / "1") == digests(tmp_path / "1000")


def test_names_that_the_adapter_has_are_not_given_again(learn, monkeypatch):
    announce(monkeypatch)
    model = learn(rows("film", 40))[0].model
    announce(monkeypatch, at_30=("return", "segment-1", 0))
    trainer, heard = learn(rows("film", 40, 1), model=model, folder="more")
    assert groups(trainer) == {"segment-1": "segment-1", "segment-2": "segment-1"}
    assert [(boundary.task, boundary.since) for boundary in heard.boundaries] == [("segment-2", 0), ("segment-2", 40)]


def test_progress_is_one_bar_and_numbers_in_the_log(learn, monkeypatch, capsys):
    announce(monkeypatch, at_45=("new", None, 40))
    trainer, _ = learn([*rows("film", 40), *rows("money", 40)], disable_tqdm=False, report_to="none")
    bar = capsys.readouterr().err.replace("\n", "\r")
    last = [line for line in bar.split("\r") if line.startswith("Reading")][-1]
    assert "80 inputs" in last and "evidence=0.10" in last and "boundaries=1" in last
    assert trainer.state.log_history[-1]["stream_inputs"] == 80
    assert trainer.state.log_history[-1]["stream_boundaries"] == 1


def test_commits_are_pushed(learn, monkeypatch):
    announce(monkeypatch, at_45=("new", None, 40))
    pushed = []
    monkeypatch.setattr(unannounced, "push", lambda trainer, name, last: pushed.append((name, last)))
    learn([*rows("film", 40), *rows("money", 40)])
    assert pushed == [("segment-1", False), ("segment-2", True)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"kind": None},
            r"`kind` is None; it says what the rows of `stream` are learned as. This base learns \['text-",
        ),
        ({"kind": "image-classification"}, "`kind` is 'image-classification'"),
        ({"columns": ["text"]}, "`columns` is .*; give a dict from role to column name."),
        ({"stream": "rows.jsonl"}, "`stream` is 'rows.jsonl'; give an `IterableDataset`"),
        ({"stream": None}, "`kind` goes with `stream`, which is not given"),
        (
            {"stream_least": 2, "max_steps": -1, "num_train_epochs": 1},
            "`stream_least` is 2, but a task of so few rows could",
        ),
    ],
)
def test_arguments_of_a_stream_are_checked(learn, options, message):
    with pytest.raises(ValueError, match=message):
        learn(options.pop("stream", rows("film", 40)), **options)


def test_a_stream_is_all_that_is_learned(learn, bert_folder, tokenizer, tmp_path):
    data = Dataset.from_list(rows("film", 10))
    trainer, _ = learn(rows("film", 40))
    for name in ("train_dataset", "eval_dataset"):
        with pytest.raises(ValueError, match=f"`{name}` and `stream` are both given"):
            type(trainer)(make_model(bert_folder), trainer.args, stream=[], kind="x", **{name: data})
    with pytest.raises(ValueError, match="`processing_class` is missing; rows of a stream are not tokenised"):
        make_trainer(make_model(bert_folder), tmp_path / "x", [], None)
    with pytest.raises(ValueError, match="more than fit into `stream_buffer`"):
        make_trainer(make_model(bert_folder), tmp_path / "x", [], tokenizer, stream_buffer=5)


def test_types_are_those_that_can_lie_in_one_column():
    image = Image.fromarray(np.zeros((2, 2), dtype=np.uint8))
    with BytesIO() as file:
        image.save(file, "png")
        found = [form_of(value) for value in (1, 2.5, True, "a", ["a"], [], None, {}, image, Image.open(file))]
    assert found == [
        "a number",
        "a number",
        "`bool`",
        "`str`",
        "a list of `str`",
        None,
        None,
        "`dict`",
        *["`Image`"] * 2,
    ]


def test_evaluation_while_segments_are_trained_is_of_their_own_rows(learn, monkeypatch):
    announce(monkeypatch)
    trainer, _ = learn(rows("film", 40), eval_strategy="steps", eval_steps=3)
    assert len([entry for entry in trainer.state.log_history if "eval_accuracy" in entry]) == 2


def test_several_processes_are_refused(learn, bert_folder, tokenizer, tmp_path, monkeypatch):
    trainer = make_trainer(make_model(bert_folder), tmp_path / "x", rows("film", 40), tokenizer)
    monkeypatch.setattr(type(trainer), "is_sharded", True)
    with pytest.raises(ValueError, match="`stream` is learned by one process"):
        trainer.train()


OTHERS = {
    "question-answering": lambda n: {
        "question": "Who wrote it?",
        "context": f"Ada wrote note {n}. " + "It was long. " * 20,
        "answers": {"text": ["Ada"], "answer_start": [0]},
    },
    "token-classification": lambda n: {"tokens": ["Ada", "wrote", str(n)], "tags": ["P", "O", "O"]},
    "text-regression": lambda n: {"text": f"number {n % 7}", "label": float(n % 7)},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_are_streams_too(learn, monkeypatch, kind):
    announce(monkeypatch)
    stream = [OTHERS[kind](n) for n in range(40)]
    answer = list(stream[0])[-1]
    trainer, heard = learn([*stream, {**OTHERS[kind](99), answer: None}], kind=kind)
    assert [task.kind for task in trainer.knowledge.tasks] == [kind]
    assert [one["input"] for one in heard.answers] == [40]


def test_language_models_and_images_are_streams_too(
    monkeypatch, tiny_language_folder, tiny_image_folder, language_tokenizer, tmp_path
):
    announce(monkeypatch)
    small = {"r": 2, "members": 2, "signature_rank": 2}
    base = AutoModelForCausalLM.from_pretrained(tiny_language_folder("llama"), dtype=torch.float32)
    model = get_peft_model(base, DriftAdapterConfig(task_type="CAUSAL_LM", max_length=24, max_new_tokens=4, **small))
    stream = [{"prompt": f"say {n % 2}", "answer": "no" if n % 2 else "yes"} for n in range(20)]
    heard = Heard()
    trainer = make_trainer(
        model,
        tmp_path / "lm",
        [*stream, {"prompt": "say 0"}],
        language_tokenizer,
        kind="text-generation",
        callbacks=[heard],
    )
    trainer.train()
    assert len(trainer.knowledge.tasks) == 1 and isinstance(heard.answers, list) and len(heard.answers) == 1

    folder = tiny_image_folder("dinov2")
    model = get_peft_model(AutoModel.from_pretrained(folder, dtype=torch.float32), DriftAdapterConfig(**small))
    pixels = np.random.default_rng(0).integers(0, 255, (24, 16, 16, 3), dtype=np.uint8)
    stream = [{"img": Image.fromarray(image), "label": "ab"[n % 2]} for n, image in enumerate(pixels)]
    stream[3]["label"] = None
    processor = ViTImageProcessor.from_pretrained(folder)
    heard = Heard()
    trainer = make_trainer(
        model, tmp_path / "images", stream, processor, kind="image-classification", callbacks=[heard]
    )
    trainer.train()
    assert trainer.knowledge.tasks[0].labels == ("a", "b") and [answer["input"] for answer in heard.answers] == [3]
