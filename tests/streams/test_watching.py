"""Streams that are only watched: by `watch`, on the command line, and in any training."""

import pytest
import torch
from datasets import Dataset
from learned import learn_task
from stream_helpers import make_model, rows
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from hf_lifelong.adapter import knowledge_of
from hf_lifelong.knowledge import fit_signature
from hf_lifelong.streams import (
    BoundaryCallback,
    BoundaryDetector,
    Verdict,
    group_references,
    input_features,
    pipeline_of,
    watch,
)


def texts(topic, count, seed=0):
    return [row["text"] for row in rows(topic, count, seed)]


@pytest.fixture(scope="module")
def knowing(bert_folder, tokenizer):
    """A model that knows films (twice, in one group) and money."""
    model = make_model(bert_folder)
    pipe = pipeline_of(model, tokenizer)
    for name, topic, group in (("film", "film", "film"), ("money", "money", "money"), ("film-2", "film", "film")):
        features = input_features(pipe, texts(topic, 150, name))
        learn_task(
            model, name, "text-classification", ("a", "b"), 0, group, signature=fit_signature(features, 4), classes=1
        )
    return model


@pytest.fixture(scope="module")
def stream():
    return [*texts("film", 90, 7), *texts("match", 90, 7), *texts("money", 90, 7)]


@pytest.fixture(scope="module")
def verdicts(knowing, tokenizer, stream):
    return list(watch(knowing, tokenizer, iter(stream)))


def test_a_group_is_known_by_its_first_task(knowing, tokenizer):
    found = group_references(knowing)
    first = input_features(pipeline_of(knowing, tokenizer), texts("film", 150, "film")).mean(0)
    assert list(found) == ["film", "money"] and torch.allclose(found["film"].signature.mean, first, atol=1e-5)


def test_watching_says_which_task_begins_and_where(knowing, verdicts, stream):
    assert len(verdicts) == len(stream) and knowledge_of(knowing).names == ["film", "money", "film-2"]
    told = [verdict for verdict in verdicts if verdict.outcome != "same"]
    assert [(verdict.outcome, verdict.group) for verdict in told] == [
        ("return", "film"),
        ("new", None),
        ("return", "money"),
    ]
    assert all(abs(v.since - true) <= 4 for v, true in zip(told, (0, 90, 180), strict=True))
    assert all(verdict.evidence >= 1 for verdict in told)


@pytest.mark.parametrize("size", [1, 7])
def test_verdicts_are_about_inputs_not_batches(knowing, tokenizer, stream, verdicts, size):
    others = list(watch(knowing, tokenizer, stream, batch_size=size))
    assert [(v.outcome, v.group, v.since) for v in others] == [(v.outcome, v.group, v.since) for v in verdicts]
    assert torch.allclose(*(torch.tensor([v.evidence for v in some]) for some in (others, verdicts)), atol=1e-3)


def test_inputs_are_read_only_as_they_are_needed(knowing, tokenizer):
    read = []

    def inputs():
        for text in texts("film", 10):
            read.append(text)
            yield text

    found = watch(knowing, tokenizer, inputs(), batch_size=2)
    assert next(found).outcome == "same" and len(read) == 2
    with pytest.raises(ValueError, match=r"inputs\[3\] is 5, which is no known form of input"):
        list(watch(knowing, tokenizer, ["a", "b", "c", 5], batch_size=2))


def test_long_questions_count_once(knowing, tokenizer):
    pipe = pipeline_of(knowing, tokenizer)
    long = {"question": "Who?", "context": "Ada wrote notes. " * 40}
    short = {"question": "Who?", "context": "Ada."}
    features = input_features(pipe, [long, short, long])
    assert features.shape[0] == 3 and torch.allclose(features[0], features[2], atol=1e-5)
    assert torch.allclose(features[1], input_features(pipe, [short])[0], atol=1e-5)


def plain_trainer(bert_folder, tokenizer, tmp_path, data, **options):
    encoded = data.map(lambda batch: tokenizer(batch["text"]), batched=True)
    model = AutoModelForSequenceClassification.from_pretrained(bert_folder, num_labels=2)
    args = TrainingArguments(
        str(tmp_path / "plain"),
        max_steps=len(data) // 6,
        per_device_train_batch_size=6,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        logging_steps=100,
    )
    return Trainer(model, args, train_dataset=encoded.to_iterable_dataset(), processing_class=tokenizer, **options)


@pytest.fixture
def data():
    given = [*rows("film", 120), *rows("money", 60)]
    return Dataset.from_list([{"text": row["text"], "label": int(row["label"] in ("good", "up"))} for row in given])


@pytest.mark.parametrize("stop", [False, True])
def test_any_training_may_be_watched(bert_folder, tokenizer, tmp_path, data, stop):
    trainer = plain_trainer(bert_folder, tokenizer, tmp_path, data)
    callback = BoundaryCallback(trainer, stop=stop)
    trainer.add_callback(callback)
    trainer.train()
    assert [verdict.outcome for verdict in callback.boundaries] == ["new"]
    assert abs(callback.boundaries[0].since - 120) <= 16
    logged = [entry for entry in trainer.state.log_history if "boundary_since" in entry]
    assert [entry["boundary_since"] for entry in logged] == [callback.boundaries[0].since]
    assert (trainer.state.global_step < 30) == stop
    assert not trainer.model._forward_pre_hooks


def test_features_and_detector_may_be_ones_own(bert_folder, tokenizer, tmp_path, data):
    seen = []

    class Counting(BoundaryDetector):
        def update(self, features):
            seen.append(features)
            outcome = "new" if len(seen) == 20 else "same"
            return Verdict(outcome, None, 12 if outcome == "new" else None, 1.0)

    trainer = plain_trainer(bert_folder, tokenizer, tmp_path, data)
    callback = BoundaryCallback(trainer, lambda batch: batch["input_ids"][:, :3].float(), Counting())
    trainer.add_callback(callback)
    trainer.train()
    assert len(seen) == 180 and seen[0].shape == (3,)
    assert [verdict.since for verdict in callback.boundaries] == [12]


def test_what_cannot_be_watched_is_said(bert_folder, tokenizer, tmp_path, data):
    trainer = plain_trainer(bert_folder, tokenizer, tmp_path, data)
    trainer.add_callback(BoundaryCallback(trainer))
    trainer.model.get_input_embeddings = lambda: None
    with pytest.raises(ValueError, match="`features` of `BoundaryCallback` is missing"):
        trainer.train()
