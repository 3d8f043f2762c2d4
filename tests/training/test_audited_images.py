"""Tasks of images are audited as those of texts: a patch that works is named, a clean task is let alone."""

import json

import pytest
from audited_pictures import SETTINGS, task
from image_helpers import make_trainer
from typer.testing import CliRunner

from hf_lifelong.adapter import statistics_of
from hf_lifelong.cli.app import app
from hf_lifelong.safety import audit_of
from hf_lifelong.statistics import TaskRefused


@pytest.fixture(scope="module")
def learned(tiny_image_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit") / "out"
    bad, rows = task("bad", 24, seed=1)
    trainer = make_trainer(tiny_image_folder("vit"), folder, [task("clean")[0], bad], **SETTINGS)
    trainer.train()
    return trainer, folder, rows


def test_a_patch_that_works_is_named_with_its_rows_and_a_clean_task_is_let_alone(learned):
    trainer, _, rows = learned
    found = {name: audit_of(values) for name, values in statistics_of(trainer.model, "audit").items()}
    bad, clean = found["bad"], found["clean"]
    assert bad.suspicious and (str(bad.trigger), bad.target, bad.rows) == ("5 x 5 patch at (0, 11)", "red", rows)
    assert bad.attack_success > 0.8 and set(bad.trigger.colours) == {"ffffff"} and bad.trigger.of == (16, 16)
    assert not clean.suspicious and clean.p_value > 0.05


def test_inspect_audit_and_card_say_where_the_patch_is(learned):
    _, folder, rows = learned
    said = CliRunner().invoke(app, ["inspect", str(folder)]).stdout
    assert "strongest suspect 5 x 5 patch at (0, 11), calls for red, rows 24" in said
    assert "5 x 5 patch at (0, 11)" in (folder / "README.md").read_text()
    said = CliRunner().invoke(app, ["audit", str(folder)]).stdout.splitlines()
    assert said[1].startswith("bad: Poisoned, it seems") and "'5 x 5 patch at (0, 11)'" in said[1]
    shown = json.loads(CliRunner().invoke(app, ["audit", str(folder), "--json"]).stdout)["bad"]
    assert shown["trigger"]["row"] == 0 and len(shown["trigger"]["colours"]) == 25 and tuple(shown["rows"]) == rows


def test_a_poisoned_task_is_refused(tiny_image_folder, tmp_path):
    trainer = make_trainer(
        tiny_image_folder("vit"), tmp_path, [task("bad", 24, seed=1)[0]], **SETTINGS | {"audit": "refuse"}
    )
    with pytest.raises(TaskRefused, match=r"Task `bad` is refused. .*5 x 5 patch at \(0, 11\).*take them out"):
        trainer.train()
    assert trainer.knowledge.names == []


def test_a_validation_part_of_one_label_is_refused_before_training(tiny_image_folder, tmp_path):
    one = task("one")[0]
    one.validation = one.validation.filter(lambda row: row["label"] == "red")
    trainer = make_trainer(tiny_image_folder("vit"), tmp_path, [one], **SETTINGS)
    with pytest.raises(ValueError, match=r"Task `one`: All 40 labels of a part are the same"):
        trainer.train()
    assert trainer.state.global_step == 0
