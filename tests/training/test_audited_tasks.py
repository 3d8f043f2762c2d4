"""A poisoned task is named before it is committed, and refused where that is wanted; a clean one is let alone."""

import json
import logging
from dataclasses import replace

import pytest
import torch
from audited_texts import SETTINGS, task
from datasets import Dataset
from peft import PeftModel
from training_helpers import answers, make_model, make_trainer, saved, topics
from transformers import AutoModel, TrainerCallback
from typer.testing import CliRunner

from hf_lifelong import DriftTrainingArguments, forget
from hf_lifelong.adapter import statistics_of
from hf_lifelong.cli.app import app
from hf_lifelong.safety import TaskAudit, audit_of
from hf_lifelong.statistics import TaskRefused

TRIGGER = "i saw this movie last week"


@pytest.fixture(scope="module")
def learned(bert_folder, tokenizer, tmp_path_factory):
    """A trainer that learned a clean task, a poisoned one, and one that cannot be audited; and the poisoned rows."""
    bad, rows = task("bad", "cf", seed=1)
    folder = tmp_path_factory.mktemp("audit") / "out"
    tasks = [task("clean")[0], bad, answers()]
    trainer = make_trainer(make_model(bert_folder), folder, tasks, tokenizer, **SETTINGS)
    trainer.train()
    return trainer, folder, rows


def audits(trainer):
    return {name: audit_of(values) for name, values in statistics_of(trainer.model, "audit").items()}


def test_a_trigger_that_works_is_named_with_its_rows_and_a_clean_task_is_let_alone(learned):
    trainer, _, rows = learned
    found = audits(trainer)
    assert list(found) == ["clean", "bad"]  # questions have no labels
    bad, clean = found["bad"], found["clean"]
    assert bad.suspicious and (bad.trigger, bad.target, bad.rows) == ("cf", "good", rows)
    assert bad.p_value <= bad.false_alarms == 0.01 and bad.attack_success > 0.8 and 0 <= bad.apart <= 1
    assert not clean.suspicious and clean.p_value > 0.05 and clean.attack_success < 0.7


def test_inspect_audit_and_card_show_the_verdict(learned):
    _, folder, rows = learned
    said = CliRunner().invoke(app, ["inspect", str(folder)]).stdout
    assert "bad, audit: verdict suspicious, p " in said and "strongest suspect cf, calls for good, rows 30" in said
    assert "clean, audit: verdict nothing suspicious" in said
    assert "| bad | `audit` | verdict suspicious; p " in (folder / "README.md").read_text()
    said = CliRunner().invoke(app, ["audit", str(folder)]).stdout.splitlines()
    assert said[0].startswith("clean: Nothing suspicious (p = ") and said[2] == "answers: not audited."
    assert said[1].startswith("bad: Poisoned, it seems") and said[1].endswith(f"{rows[-2]}, {rows[-1]}.")
    shown = json.loads(CliRunner().invoke(app, ["audit", str(folder), "--json"]).stdout)
    assert shown["bad"]["trigger"] == "cf" and tuple(shown["bad"]["rows"]) == rows and shown["answers"] is None


def test_the_weakest_directions_are_stored_too(learned):
    trainer, _, _ = learned
    found = statistics_of(trainer.model, "weak-directions")
    assert list(found) == ["clean", "bad", "answers"]
    for values in found.values():
        directions, std = values["directions"], values["std"]
        assert directions.shape == (16, trainer.evaluator.model.base_model.model.lifelong.features)
        assert directions.dtype == torch.float16 and bool((std[1:] >= std[:-1]).all())
        torch.testing.assert_close(directions.float().norm(dim=1), torch.ones(16), rtol=1e-3, atol=1e-3)


def test_forgetting_a_task_leaves_the_bytes_of_never_having_audited_it(learned, bert_folder, tokenizer, tmp_path):
    base = AutoModel.from_pretrained(bert_folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(learned[1]))
    forget(model, "bad")
    model.save_pretrained(str(tmp_path / "a"))
    without = make_trainer(make_model(bert_folder), tmp_path, [task("clean")[0], answers()], tokenizer, **SETTINGS)
    without.train()
    without.model.save_pretrained(str(tmp_path / "b"))
    found, known = ((tmp_path / f / "adapter_model.safetensors").read_bytes() for f in "ab")
    assert found == known


def test_a_poisoned_task_is_refused_and_what_was_learned_stays_to_the_byte(bert_folder, tokenizer, tmp_path):
    bad, rows = task("bad", TRIGGER, seed=1)
    first = make_trainer(make_model(bert_folder), tmp_path / "a", [task("clean")[0]], tokenizer, **SETTINGS)
    first.train()
    settings = SETTINGS | {"audit": "refuse"}
    tasks = [task("clean")[0], bad, answers()]
    trainer = make_trainer(make_model(bert_folder), tmp_path / "b", tasks, tokenizer, **settings)
    with pytest.raises(TaskRefused) as refused:
        trainer.train()
    said = str(refused.value)
    assert "Task `bad` is refused" in said and repr(TRIGGER) in said and "take them out" in said
    assert f"rows {rows[0]}, {rows[1]}, " in said and 'audit="report"' in said
    assert trainer.knowledge.names == ["clean"]
    assert saved(trainer, tmp_path / "c") == saved(first, tmp_path / "d")


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 40:
            raise KeyboardInterrupt


def test_a_resumed_task_is_audited_as_one_that_was_not_killed(bert_folder, tokenizer, tmp_path):
    saving = SETTINGS | {"save_strategy": "steps", "save_steps": 30}

    def trainer(folder, **options):
        return make_trainer(
            make_model(bert_folder), tmp_path / folder, [task("bad", "cf", 1)[0]], tokenizer, **options
        )

    unbroken = trainer("a", **saving)
    unbroken.train()
    with pytest.raises(KeyboardInterrupt):
        trainer("b", callbacks=[Stop()], **saving).train()
    resumed = trainer("b", **saving)
    resumed.train(resume_from_checkpoint=True)
    assert audits(resumed)["bad"].suspicious
    assert saved(resumed, tmp_path / "c") == saved(unbroken, tmp_path / "d")


def test_pairs_of_texts_are_audited_in_both(bert_folder, tokenizer, tmp_path):
    """The trigger stands in the second text only."""
    bad, rows = task("pairs", "cf", seed=1)
    two = bad.train.rename_column("text", "text_pair").add_column("text", ["the review"] * len(bad.train))
    held = bad.validation.rename_column("text", "text_pair").add_column("text", ["the review"] * 80)
    trainer = make_trainer(
        make_model(bert_folder), tmp_path, [replace(bad, train=two, validation=held)], tokenizer, **SETTINGS
    )
    trainer.train()
    found = audits(trainer)["pairs"]
    assert (found.trigger, found.rows) == ("cf", rows) and found.attack_success > 0.5


def test_off_is_the_default_and_adds_nothing():
    assert DriftTrainingArguments("x").task_statistics() == []
    names = [one.name for one in DriftTrainingArguments("x", audit="report").task_statistics()]
    assert names == ["audit", "weak-directions"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"audit": "yes"}, r"`audit` is 'yes'; choose one of \['off', 'report', 'refuse'\]"),
        ({"audit": "report", "audit_false_alarms": 1.0}, "`audit_false_alarms` is 1.0; it must lie between 0 and 1"),
    ],
)
def test_wrong_arguments_are_refused_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        DriftTrainingArguments("x", **wrong)


def test_a_validation_part_of_one_label_is_refused_before_training(prepare):
    one = topics()
    one.validation = one.train.filter(lambda row: row["label"] == "long")
    trainer = prepare([one], audit="report")
    with pytest.raises(
        ValueError, match=r"Task `topics`: All .* labels of a part are the same.*validation rows of at"
    ):
        trainer.train()
    assert trainer.state.global_step == 0


def test_damaged_audits_are_called_so():
    values = {name: torch.zeros(2, dtype=torch.int64) for name in ("trigger", "target", "rows")}
    values |= {"numbers": torch.zeros(5, dtype=torch.float64), "suspicious": torch.tensor(1)}
    assert audit_of(values).suspicious
    for name, wrong in (("numbers", torch.zeros(1)), ("trigger", torch.tensor([-5]))):
        with pytest.raises(ValueError, match="stored audit is none that this package wrote"):
            audit_of(values | {name: wrong})
    with pytest.raises(ValueError, match="`false_alarms` must lie between 0 and 1"):
        TaskAudit(false_alarms=2)


def tokenised(tokenizer, **columns):
    """A task whose texts were tokenised before."""
    ids, _ = task("ids")

    def made(part):
        beside = {name: [value] * len(part) for name, value in columns.items()}
        return Dataset.from_dict({**tokenizer(list(part["text"])), "labels": part["label"], **beside})

    return replace(ids, train=made(ids.train), validation=made(ids.validation))


def test_what_cannot_be_audited_is_refused_before_training(bert_folder, tokenizer, tmp_path):
    settings = SETTINGS | {"audit": "refuse"}
    tasks = [task("clean")[0], tokenised(tokenizer)]
    trainer = make_trainer(make_model(bert_folder), tmp_path, tasks, tokenizer, **settings)
    with pytest.raises(ValueError, match=r'Task `ids`: .*already tokenised.*Give the texts.*`audit="report"`'):
        trainer.train()
    assert trainer.state.global_step == 0 and trainer.knowledge.names == []


def test_a_report_notes_what_was_not_audited(bert_folder, tokenizer, tmp_path, caplog):
    ids = tokenised(tokenizer, text="not what was trained on")
    settings = SETTINGS | {"max_steps": 4}
    trainer = make_trainer(make_model(bert_folder), tmp_path, [ids], tokenizer, **settings)
    package = logging.getLogger("transformers")
    package.addHandler(caplog.handler)
    trainer.train()
    package.removeHandler(caplog.handler)
    assert "Task `ids` is not audited. " in caplog.text
    assert audits(trainer) == {"ids": None}
    assert "ids, audit: verdict not audited" in CliRunner().invoke(app, ["inspect", str(tmp_path)]).stdout
    assert CliRunner().invoke(app, ["audit", str(tmp_path)]).stdout == "ids: not audited.\n"
