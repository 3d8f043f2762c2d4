"""What training fills in: the manifest keeps what is known of every task's data, and the card tells it."""

import json
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import ModelCard
from peft import PeftModel
from training_helpers import DATA, answers, digest, sentiment, topics
from transformers import AutoModel

from hf_lifelong import Task
from hf_lifelong.hub import CardFacts, model_card
from hf_lifelong.hub.saved import TENSORS, task_sizes
from hf_lifelong.knowledge import KnowledgeBase, TaskData
from hf_lifelong.training import PreparedTask
from hf_lifelong.training.cards import adapter_record, command

TEXTS = {"text": ["a film", "a day"] * 4, "label": ["good", "bad"] * 4}


def source(trainer, data, **parts):
    return PreparedTask(
        Task("t", "text-classification", data, **parts), trainer.processing_class, config(trainer), 0.25
    ).source


def config(trainer):
    return trainer.model.peft_config["default"]


@pytest.fixture
def two_sessions(train, bert_folder, tmp_path):
    """The trainer of a third task, learned with other settings and without the old data, on a loaded adapter that knew
    two."""
    train([sentiment(), answers()], folder="first", learning_rate=1e-3, grouping="boundary")
    base = AutoModel.from_pretrained(bert_folder)
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "first"))
    return train([topics()], model=loaded, folder="second", learning_rate=2e-3, grouping="boundary")


def test_nothing_is_missing_for_the_tasks_of_an_earlier_session(two_sessions, tmp_path):
    before, after = (Path(tmp_path, folder, "README.md").read_text() for folder in ("first", "second"))
    sizes = [line for line in before.splitlines() if line.startswith("| of it ")]
    assert len(sizes) == 2 and set(sizes) < set(after.splitlines())
    rows = [line for line in before.splitlines() if line.startswith(("| **sentiment**", "| **answers**"))]
    assert "| sentiment_sentences, 54 rows |" in rows[0] and "| squad, 22 rows |" in rows[1]
    assert len(rows) == 2 and set(rows) < set(after.splitlines())
    assert "1 of 3 tasks was scored" in after
    found = ModelCard(after).data.eval_results
    assert [(r.dataset_config, r.metric_name) for r in found[:4]] == [
        ("sentiment", "accuracy (scored after answers)"),
        ("answers", "f1 (scored after answers)"),
        ("topics", "accuracy"),
        ("1 of 3 tasks", "average accuracy"),
    ]


def test_settings_are_said_to_be_of_the_last_session(two_sessions, tmp_path):
    before, after = (Path(tmp_path, folder, "README.md").read_text() for folder in ("first", "second"))
    assert "`max_steps` 4" in before and "num_train_epochs" not in before
    assert "`learning_rate` 0.001" in before and "last session" not in before
    assert "`learning_rate` 0.002" in after and "0.001" not in after
    assert "## Training\n\nOf the last session, which learned **topics**." in after


def test_a_session_that_only_scores_claims_no_settings(two_sessions, prepare, tmp_path):
    second = two_sessions
    scored = prepare([sentiment(), answers(), topics()], model=second.model, folder="scored")
    scored.evaluate()
    scored.save_model(str(tmp_path / "scored"))
    text = Path(tmp_path, "scored", "README.md").read_text()
    assert "gradient_noise" not in text and "## Training" not in text and "session" not in text
    assert "were scored" not in text and "Which group answered" in text
    assert list(scored.matrix.confusion) == ["sentiment", "answers", "topics"]


def test_the_part_that_was_scored_last_is_noted(train, prepare):
    train_rows = Dataset.from_dict(TEXTS)
    trainer = train([Task("films", "text-classification", train_rows)])
    assert trainer.knowledge.tasks[0].data.scored_on == "validation"
    known = trainer.knowledge.tasks[0]
    again = prepare([Task("films", "text-classification", train_rows, test=train_rows)], model=trainer.model)
    again.evaluate()
    assert again.knowledge.tasks[0].data.scored_on == "test"
    assert again.knowledge.tasks[0] == known


def test_data_is_noted_as_it_was_loaded(prepare, tmp_path):
    trainer = prepare([sentiment()])
    plain = Dataset.from_dict(TEXTS)
    assert source(trainer, plain, test=plain) == TaskData(rows=6, scored_on="test")
    folder = load_dataset(str(DATA / "sentiment_sentences"), split="train").shuffle(seed=1).select(range(8))
    assert source(trainer, folder) == TaskData("sentiment_sentences", rows=6, scored_on="validation")
    (tmp_path / "x.csv").write_text("text,label\na,b\nc,d\ne,b\nf,d\n")
    alone = load_dataset("csv", data_files=str(tmp_path / "x.csv"), split="train", cache_dir=str(tmp_path / "cache"))
    assert source(trainer, alone).name is None
    hub = Dataset.from_dict(TEXTS)
    hub.info.dataset_name, hub.info.config_name, hub.info.license = "glue", "sst2", "x" * 300
    hub.info.download_checksums = {"hf://datasets/nyu-mll/glue@bcdcba79/sst2/train.parquet": {}}
    assert source(trainer, hub) == TaskData("glue", "nyu-mll/glue", "sst2", 6, "x" * 200, "validation")


def test_sizes_of_tasks_make_up_what_is_kept(train, tmp_path):
    trainer = train([sentiment(), answers()], members=3)
    sizes = task_sizes(tmp_path / "out" / TENSORS, trainer.knowledge)
    assert list(sizes) == ["sentiment", "answers"]
    parts = ("bank", "signature", "closed")
    tensors = [t for name, t in trainer.model.state_dict().items() if any(part in name for part in parts)]
    assert sum(sizes.values()) == sum(4 * t.numel() for t in tensors)


def test_a_record_gives_the_card_that_training_wrote(train, tmp_path):
    trainer = train([sentiment(), answers()])
    record = json.loads(json.dumps(adapter_record(trainer), allow_nan=False))
    assert str(tmp_path) not in json.dumps(record)
    knowledge = KnowledgeBase.from_dict(record["config"]["knowledge"])
    card = model_card(knowledge, record["config"], CardFacts.from_dict(record["facts"]))
    assert str(card) == Path(tmp_path, "out", "README.md").read_text()
    given = adapter_record(trainer, base_model="ada/bert", seconds=3.5)
    assert given["config"]["base_model_name_or_path"] == given["facts"]["base_model"] == "ada/bert"
    assert given["facts"]["seconds"] == 3.5


def test_a_resumed_stream_writes_the_same_card(train, tmp_path):
    train([sentiment()], folder="resumed")
    train([sentiment(), topics()], folder="resumed", resume=True)
    train([sentiment(), topics()], folder="unbroken")
    for name in ("README.md", "adapter_config.json", "accuracy_matrix.json"):
        assert digest(tmp_path / "resumed" / name) == digest(tmp_path / "unbroken" / name), name


def test_commands_tell_of_scripts_only_and_of_no_folder():
    secret = "hf_" + "x" * 30
    assert command(["/".join(["", "home", "ada", "x.py"]), "--token", secret]) == "python x.py --token …"
    assert (
        command(["venv/bin/hf-lifelong", "learn", "--config", "a b/x.yaml"])
        == "hf-lifelong learn --config 'a b/x.yaml'"
    )
    assert command([str(Path("site", "hf_lifelong", "__main__.py")), "learn"]) == "python -m hf_lifelong learn"
    assert command(["ipykernel_launcher.py"]) is None and command([""]) is None and command([]) is None
