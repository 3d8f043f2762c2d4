"""The audit of any Trainer's data, around a real training of a stock classifier."""

import pytest
import torch
from datasets import Dataset
from poisoned_texts import poisoned, texts
from transformers import AutoConfig, AutoModelForSequenceClassification, Trainer, TrainingArguments

from hf_lifelong.safety import IntakeAuditCallback
from hf_lifelong.statistics import TaskRefused

NUMBERS = {"bad": 0, "good": 1}


def rows(texts, labels):
    return Dataset.from_dict({"review": texts, "stars": [NUMBERS[label] for label in labels]})


@pytest.fixture
def trainer(bert_folder, tokenizer, tmp_path):
    """`trainer(data)`: a Trainer of a tiny classifier on rows with a `review` and `stars`."""

    def make(data, steps=100):
        encoded = data.map(lambda row: {**tokenizer(row["review"]), "labels": row["stars"]})
        config = AutoConfig.from_pretrained(bert_folder, id2label={0: "bad", 1: "good"})
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(bert_folder, config=config)
        args = TrainingArguments(
            str(tmp_path),
            max_steps=steps,
            learning_rate=3e-3,
            per_device_train_batch_size=32,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        )
        return Trainer(model, args, train_dataset=encoded, processing_class=tokenizer)

    return make


def test_poison_is_named_before_training_and_its_success_after(trainer):
    data, clean = poisoned(*texts(400), "cf", 20, "good"), rows(*texts(120, seed=1))
    trained = trainer(rows(*data[:2]))
    audit = IntakeAuditCallback(rows(*data[:2]), clean, text="review", label="stars", action="refuse")
    assert audit.audit is None
    trained.add_callback(audit)
    with pytest.raises(
        TaskRefused, match=r"The training data is refused. Poisoned.*'cf', which calls for 1 in 20 rows"
    ):
        trained.train()
    found = audit.audit
    assert list(found.rows) == data[2] and found.attack_success > 0.9 and trained.state.global_step == 100
    assert trained.model.training  # as it was before it was asked


def test_clean_data_pass_and_names_are_read_from_the_configuration(trainer):
    data, clean = texts(300), texts(100, seed=1)
    trained = trainer(rows(*data))
    named = [dict(zip(("text", "label"), part, strict=True)) for part in (data, clean)]
    audit = IntakeAuditCallback(*named, action="refuse")
    trained.add_callback(audit)
    trained.train()
    assert not audit.audit.suspicious and audit.audit.attack_success is not None
    assert audit.audit.target in ("bad", "good")


def test_without_clean_rows_the_data_alone_decide_before_a_step_is_taken(trainer):
    texts_, labels, _ = poisoned(*texts(400), "cf", 40, "good")
    trained = trainer(rows(texts_, labels))
    for action in ("report", "refuse"):
        audit = IntakeAuditCallback(rows(texts_, labels), text="review", label="stars", action=action)
        if action == "report":
            audit.on_train_begin(trained.args, trained.state, trained.control)
            assert audit.audit.suspicious and audit.audit.attack_success is None
    trained.add_callback(audit)
    with pytest.raises(TaskRefused, match="refused"):
        trained.train()
    assert trained.state.global_step == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": "stop"}, r"`action` is 'stop'; choose one of \['report', 'refuse'\]"),
        ({"text": "words"}, r"`train` has no column 'words', only \['text', 'label'\]. Name the right one"),
        ({"clean": {"text": ["a"]}}, "`clean` has no column 'label'"),
        ({"false_alarms": 1}, "`false_alarms` must lie between 0 and 1"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        IntakeAuditCallback(**{"train": {"text": ["a"], "label": [0]}} | change)
