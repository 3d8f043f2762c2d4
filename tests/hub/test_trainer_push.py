"""What a trainer pushes, through the unmodified client, to a server on loopback."""

import json
import logging
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from hub_server import hub  # noqa: F401
from huggingface_hub import ModelCard
from peft import AutoPeftModelForFeatureExtraction, get_peft_model
from transformers import AutoModel

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, Task, knowledge_of, predict
from hf_lifelong.hub import PushConflictError, PushError

REPO = "me/stream"
FILES = {
    "README.md",
    "accuracy_matrix.json",
    "accuracy_matrix.png",
    "adapter_config.json",
    "adapter_model.safetensors",
}


def task(name):
    texts = [f"{word} {i}" for i in range(10) for word in ("good", "bad")]
    return Task(name, "text-classification", Dataset.from_dict({"text": texts, "label": ["pos", "neg"] * 10}))


@pytest.fixture
def prepare(hub, tiny_folder, tokenizer, tmp_path):  # noqa: F811
    hub.create("me/base")
    hub.write_folder("me/base", tiny_folder("bert"))

    def make(*names, model=None, base=None, folder="out", **arguments):
        if model is None:
            torch.manual_seed(0)
            backbone = AutoModel.from_pretrained(base or tiny_folder("bert"), dtype=torch.float32)
            model = get_peft_model(
                backbone, DriftAdapterConfig(r=2, members=1, signature_rank=2, max_length=16, stride=4)
            )
        settings = {"push_to_hub": True, "hub_model_id": REPO, "hub_base_model": "me/base", **arguments}
        args = DriftTrainingArguments(
            str(tmp_path / folder), max_steps=2, report_to="none", disable_tqdm=True, use_cpu=True, save_strategy="no",
            grouping="boundary", **settings,
        )  # fmt: skip
        return DriftTrainer(model, args, tasks=[task(name) for name in names], processing_class=tokenizer)

    return make


def messages(server, revision="main"):
    return [commit.message for commit in server.repos[REPO].history(revision)]


def files(server, revision="main"):
    return server.repos[REPO].files(revision)


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint", "all_checkpoints", "end"])
def test_every_task_is_one_commit_of_exactly_the_adapter(hub, prepare, tokenizer, strategy, tmp_path):  # noqa: F811
    trainer = prepare("first", "second", hub_strategy=strategy)
    trainer.train()
    if strategy == "end":
        assert not {"adapter_config.json"} & set(files(hub))
        trainer.push_to_hub()
        assert messages(hub)[0] == "End of training"
    else:
        assert messages(hub)[:2] == ["Learned `second`", "Learned `first`"]
    found = files(hub)
    assert set(found) >= FILES
    assert not [name for name in found if "training_args" in name or "checkpoint" in name or name.startswith("_")]
    assert all(str(tmp_path).encode() not in data for data in found.values())
    assert json.loads(found["adapter_config.json"])["base_model_name_or_path"] == "me/base"
    card = ModelCard(found["README.md"].decode())
    assert card.data.base_model == "me/base" and card.data.tags[0] == "hf_lifelong"
    assert card.content == (tmp_path / "out" / "README.md").read_text()
    assert {r.dataset_config for r in card.data.eval_results} >= {"first", "second"}
    loaded = AutoPeftModelForFeatureExtraction.from_pretrained(REPO, dtype=torch.float32)
    batch = tokenizer(["good 3"], return_tensors="pt")
    assert torch.equal(predict(loaded, batch).scores, predict(trainer.model, batch).scores)


def test_learning_on_from_the_hub_keeps_history(hub, prepare):  # noqa: F811
    prepare("first").train()
    loaded = AutoPeftModelForFeatureExtraction.from_pretrained(REPO, dtype=torch.float32, is_trainable=True)
    trainer = prepare("second", model=loaded, folder="later")
    trainer.train()
    trainer.push_to_hub("With a licence", license="mit", language="en")
    assert messages(hub)[:3] == ["With a licence", "Learned `second`", "Learned `first`"]
    card = ModelCard(files(hub)["README.md"].decode())
    assert card.data.license == "mit" and card.data.language == ["en"]
    assert knowledge_of(trainer.model).names == ["first", "second"]
    for name in ("first", "second"):
        assert f"| **{name}** |" in card.content and f"| of it {name} |" in card.content
    assert card.content.count("| 18 rows |") == 2 and "which learned **second**" in card.content


def test_branch_and_privacy(hub, prepare):  # noqa: F811
    trainer = prepare("first", hub_revision="trial", hub_private_repo=True)
    trainer.train()
    assert messages(hub, "trial")[0] == "Learned `first`"
    assert "adapter_config.json" not in files(hub)
    assert hub.repos[REPO].private


def test_a_push_that_fails_in_mid_stream_is_made_good_by_the_next(hub, prepare, caplog):  # noqa: F811
    trainer = prepare("first", "second")
    hub.fail("/commit/", 500, times=10**6, method="POST")
    original = trainer.push_to_hub

    def push(message, **options):
        if "second" in message:
            hub.heal()
        return original(message, **options)

    trainer.push_to_hub = push
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert "Training goes on with the next task" in caplog.text
    assert messages(hub)[0] == "Learned `second`" and "Learned `first`" not in messages(hub)


def test_the_last_push_raises_and_can_be_repeated(hub, prepare):  # noqa: F811
    trainer = prepare("first")
    hub.fail("/commit/", 403, times=10**6, method="POST")
    with pytest.raises(PushError, match="write permission"):
        trainer.train()
    assert knowledge_of(trainer.model).names == ["first"]
    hub.heal()
    trainer.push_to_hub()
    assert messages(hub)[0] == "End of training"


def test_somebody_elses_commit_is_a_conflict(hub, prepare):  # noqa: F811
    trainer = prepare("first")
    trainer.train()
    hub.write(REPO, {"README.md": "edited"}, "by a colleague")
    for _ in range(2):
        with pytest.raises(PushConflictError, match="Nothing was changed"):
            trainer.push_to_hub()
    assert files(hub)["README.md"] == b"edited"


def test_what_was_loaded_from_the_hub_follows_the_commit_that_it_was(hub, prepare):  # noqa: F811
    prepare("first").train()
    loaded = AutoPeftModelForFeatureExtraction.from_pretrained(REPO, dtype=torch.float32, is_trainable=True)
    hub.write(REPO, {"README.md": "edited"}, "by a colleague")
    trainer = prepare("second", model=loaded, folder="later")
    for push in (trainer.train, trainer.push_to_hub):
        with pytest.raises(PushConflictError, match="that this push follows"):
            push()
    assert files(hub)["README.md"] == b"edited"
    assert knowledge_of(trainer.model).names == ["first", "second"]


def test_a_resumed_run_goes_on_from_what_it_has_pushed_itself(hub, prepare):  # noqa: F811
    prepare("first").train()
    start = hub.repos[REPO].refs["main"]

    def again():
        return AutoPeftModelForFeatureExtraction.from_pretrained(
            REPO, revision=start, dtype=torch.float32, is_trainable=True
        )

    prepare("second", model=again(), folder="later").train()
    trainer = prepare("second", "third", model=again(), folder="later")
    trainer.train(resume_from_checkpoint=True)
    assert messages(hub)[:3] == ["Learned `third`", "Learned `second`", "Learned `first`"]


def test_in_the_background(hub, prepare):  # noqa: F811
    trainer = prepare("first", hub_strategy="end")
    trainer.train()
    future = trainer.push_to_hub(blocking=False)
    assert future.result(60).oid == hub.repos[REPO].history()[0].oid


def test_a_base_from_a_folder_is_refused_before_training(hub, prepare):  # noqa: F811
    with pytest.raises(ValueError, match="`hub_base_model` in its arguments"):
        prepare("first", hub_base_model=None)
    assert REPO not in hub.repos


def test_without_the_hub_the_folder_has_the_card(prepare, tmp_path):
    trainer = prepare("first", push_to_hub=False, hub_model_id=None, hub_base_model=None, folder="local")
    trainer.train()
    text = Path(tmp_path / "local" / "README.md").read_text()
    assert "import hf_lifelong" in text and str(tmp_path) not in text
    trainer.save_model(str(tmp_path / "again"))
    assert ModelCard((tmp_path / "again" / "README.md").read_text()).data.library_name == "peft"
