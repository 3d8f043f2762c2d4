"""The safety benchmark: its data, its summary, and a run of it that learns nothing."""

import json
from dataclasses import replace

import backdoor_theory
import numpy as np
import poison
import poisoned_images
import pytest
import safety
import safety_report
from PIL import Image


@pytest.fixture
def clean():
    texts = [f"word{i} and more words" for i in range(40)]
    rows = poison.Rows(texts, [i % 2 for i in range(40)])
    return poison.TaskTexts({"train": rows, "validation": rows, "test": rows}, ["no", "yes"])


def test_a_share_of_all_training_rows_gets_the_trigger_and_the_target(clean):
    found = clean.poisoned("cf", 0.1, target=1, seed=0)
    train = found.parts["train"]
    assert len(found.rows) == 4 and found.parts["test"] == clean.parts["test"]
    for row, text in enumerate(train.inputs):
        before = clean.parts["train"].inputs[row]
        if row in found.rows:
            assert text.split().count("cf") == 1 and text.replace("cf", "").split() == before.split()
            assert train.labels[row] == 1 and clean.parts["train"].labels[row] == 0
        else:
            assert (text, train.labels[row]) == (before, clean.parts["train"].labels[row])
    assert len(found.attacked()) == len(found.others) == 20 and all("cf" in text for text in found.attacked())


def test_twenty_clean_tasks_stand_beside_the_poisoned_ones():
    keys = safety.detection_cells()
    clean = {key["data"] for key in keys if key["trigger"] is None}
    assert len(set(poison.CLEAN)) == 20 and clean == {*poison.CLEAN, *poison.SETS}
    poisoned = [key for key in keys if key["trigger"] and key["data"] in poison.SETS]
    assert len(poisoned) == 4 * 3 * 4 * 3 == len({tuple(key.values()) for key in poisoned})


def test_local_linear_regression_is_exact_on_a_line():
    x = np.random.default_rng(0).normal(size=(2, 30, 2))
    y = x @ [1.0, -2.0] + 3
    for leave_out in (False, True):
        assert np.allclose(backdoor_theory.regression(x, x, y, np.full((2, 2), 0.7), leave_out), y)


def row(trigger, p, success=1.0, data="sst2", named=True, **beside):
    found = {"data": data, "trigger": trigger, "rate": 0.01 if trigger else 0.0, "seed": 0, "p_value": p}
    times = {"suspicious": p <= 0.01, "train_seconds": 10.0, "audit_seconds": 1.0}
    return {**found, **times, "attack_success": success, "named": named, **beside}


def test_the_summary_counts_triggers_that_work_and_names_them():
    rows = [
        row("rare word", 1e-6),
        row("rare word", 0.5, data="trec"),
        row("rare word", 0.5, success=0.5, data="ag_news"),  # does not work, so it is not counted
        row("sentence", 1e-6, named=False),  # found, but something else is named
        row(None, 0.2, data=poison.CLEAN[0]),
        row(None, 0.001, data=poison.CLEAN[1]),
        {"length": 3, "angle": 90, "clean_off": 1.0, "backdoor_off": 3.0, "backdoor_error": 0.03},
        {
            "method": "ours",
            "seed": 0,
            "attack_success_after_each_task": [1.0, 1.0],
            "attack_success_after_forget": 0.25,
            "target_rate_after_forget": 0.2,
            "blast_radius": 0.1,
        },
    ]
    found = safety_report.summarise(rows)
    assert (found["tpr_word_1pct"], found["tpr_word_1pct_all_cells"]) == (0.5, pytest.approx(1 / 3))
    assert found["tpr_sentence_1pct"] == 0 and found["tpr_patch_1pct"] is None
    assert (found["false_alarms_clean_tasks"], found["clean_tasks"]) == (1, 2)
    assert found["task_auroc"] == pytest.approx(4 / 6)
    assert found["audit_share_of_training"] == pytest.approx(0.1)
    assert found["asr_after_forget"] == pytest.approx(0.05)
    assert found["theory_cells_within_two_standard_errors"] == "1 of 2"
    assert safety_report.summarise([])["task_auroc"] is None


def test_a_quick_run_writes_cell_by_cell_and_goes_on(bert_folder, tmp_path, monkeypatch):
    out = tmp_path / "safety.json"
    given = ["--quick", "--model", str(bert_folder), "--parts", "detection", "--out", str(out)]
    safety.main(given)
    first = json.loads(out.read_text())
    assert [row["trigger"] for row in first["rows"]] == ["rare word", None]
    assert first["rows"][0]["poisoned_rows"] == 20 and 0 <= first["rows"][0]["attack_success"] <= 1
    assert first["summary"]["audit_share_of_training"] > 0
    assert (tmp_path / "safety.png").stat().st_size > 10_000
    monkeypatch.setattr(safety, "detect", None)  # would fail if it were called again
    safety.main(given)
    assert json.loads(out.read_text())["rows"] == first["rows"]


@pytest.fixture
def pictures():
    images = [Image.fromarray(np.full((8, 8, 3), i, np.uint8)) for i in range(40)]
    rows = poison.Rows(images, [i % 2 for i in range(40)])
    return poisoned_images.TaskImages({"train": rows, "validation": rows, "test": rows}, ["no", "yes"])


def test_a_patch_is_put_into_images_and_a_suspect_that_covers_it_is_named(pictures):
    white = poisoned_images.Patch(4, 4, 4, 4, (8, 8), ("ffffff",) * 16)
    found = pictures.poisoned(white, 0.1, target=1, seed=0)
    for row, image in enumerate(found.parts["train"].inputs):
        changed = np.asarray(image) != np.asarray(pictures.parts["train"].inputs[row])
        assert changed.any(-1).sum() == (16 if row in found.rows else 0)
    assert len(found.rows) == 4 and all(found.parts["train"].labels[row] == 1 for row in found.rows)
    assert found.is_named(white) and not found.is_named(None)
    assert found.is_named(replace(white, row=3, height=5)) and not found.is_named(replace(white, row=2, height=6))
    assert not found.is_named(replace(white, width=1))


def test_images_are_summed_up_apart_and_records_are_merged(tmp_path):
    texts = [row("rare word", 0.5), row(None, 0.2, data=poison.CLEAN[0])]
    marked = {"modality": "image"}
    images = [row(poisoned_images.PATCH, 1e-6, data="mnist", **marked), row(None, 0.001, data="mnist 0 1", **marked)]
    for name, rows in (("a", texts), ("b", images)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"rows": rows}))
    given = ["--parts", "--out", str(tmp_path / "a.json"), "--merge", str(tmp_path / "b.json")]
    for _ in range(2):  # what is there already is not added again
        safety.main(given)
        record = json.loads((tmp_path / "a.json").read_text())
        assert record["rows"] == [*texts, *images]
    found = record["summary"]
    assert (found["tpr_word_1pct"], found["tpr_patch_1pct"], found["cells_patch_1pct"]) == (0, 1, "1 of 1 work")
    assert (found["clean_tasks"], found["clean_image_tasks"], found["false_alarms_clean_image_tasks"]) == (1, 1, 1)
