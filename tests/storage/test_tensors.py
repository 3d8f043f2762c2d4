"""A stored tensor is one line of a list: everything else follows from it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hf_lifelong.knowledge import KnowledgeBase, LearnedTask
from hf_lifelong.storage import PREFIX, LayoutError, check_layout, sizes_of, spec_of, task_bytes

SCRIPT = Path(__file__).parent / "one_more_tensor.py"


def task(name, labels=("a", "b"), members=2, classes=1):
    return LearnedTask(name, "text-classification", labels, len(labels), members, name, 10, classes=classes)


KNOWLEDGE = KnowledgeBase({}, 2, [0], [task("one"), task("two", ("x", "y", "z"), 3, 3)])
KNOWN = {"r": 2, "rank": 4, "hidden": 8, "features": 6, **sizes_of(KNOWLEDGE)}
LAYERS = {"encoder.dense": {"in": 8, "out": 12}}


def sound():
    shapes = {
        "encoder.dense.drift_A": (2, 8),
        "encoder.dense.drift_B": (12, 2),
        "encoder.dense.drift_bank_A": (5, 2, 8),
        "encoder.dense.drift_bank_B": (5, 2, 12),
        "lifelong.drift_head_weight": (0, 8),
        "lifelong.drift_head_bias": (0,),
        "lifelong.drift_bank_head_weight": (13, 8),
        "lifelong.drift_bank_head_bias": (13,),
        "lifelong.drift_signature_mean": (2, 6),
        "lifelong.drift_signature_factor": (2, 4, 6),
        "lifelong.drift_signature_diagonal": (2, 6),
        "lifelong.drift_signature_classes": (4, 6),
        "lifelong.drift_closed_weight": (4, 6),
        "lifelong.drift_closed_bias": (4,),
    }
    return {name: ("float32", shape) for name, shape in shapes.items()}


@pytest.mark.parametrize("layers", [LAYERS, None])
def test_a_sound_layout_passes_with_and_without_a_base(layers):
    found = check_layout(sound(), KNOWN, layers)
    assert found["encoder.dense"]["out"] == 12 and found["lifelong"]["open"] == 0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("encoder.dense.drift_bank_A", None, "`encoder.dense.drift_bank_A` is missing"),
        ("encoder.dense.drift_bank_A", ("float16", (5, 2, 8)), "is float16, it must be float32"),
        ("encoder.dense.drift_bank_A", ("float32", (4, 2, 8)), r"\(4, 2, 8\), it must be \(5, 2, 8\)"),
        ("encoder.dense.drift_bank_A", ("float32", (5, 16)), "must have 3 dimensions"),
        ("encoder.dense.drift_bank_B", ("float32", (5, 2, 13)), r"\(5, 2, 13\), it must be \(5, 2, 12\)"),
        ("lifelong.drift_signature_mean", ("float32", (2, 7)), r"\(2, 7\), it must be \(2, 6\)"),
        ("encoder.dense.drift_signature_mean", ("float32", (2, 6)), "surplus"),
        ("encoder.dense.weight", ("float32", (2, 6)), "surplus"),
        ("drift_bank_A", ("float32", (2, 6)), "surplus|missing"),
    ],
)
@pytest.mark.parametrize("layers", [LAYERS, None])
def test_what_differs_is_named(layers, name, value, message):
    found = sound() | {name: value}
    with pytest.raises(LayoutError, match=message):
        check_layout({name: held for name, held in found.items() if held is not None}, KNOWN, layers)


def test_layers_that_the_base_lacks_are_surplus_and_those_that_it_has_are_needed():
    with pytest.raises(LayoutError, match=r"`encoder.dense.drift_A` is surplus"):
        check_layout(sound(), KNOWN, {"encoder.other": {"in": 8, "out": 12}})
    with pytest.raises(LayoutError, match=r"`encoder.other.drift_A` is missing"):
        check_layout(sound(), KNOWN, {**LAYERS, "encoder.other": {"in": 8, "out": 12}})


def test_a_task_takes_the_bytes_that_are_its_own():
    shapes = {PREFIX + name: shape for name, (_, shape) in sound().items()}
    members, rows, tasks, classes = 2 * 8 + 2 * 12, 8 + 1, 6 + 24 + 6, 6 + 6 + 1
    assert task_bytes(shapes, KNOWLEDGE) == {
        "one": 4 * (2 * members + 4 * rows + tasks + classes),
        "two": 4 * (3 * members + 9 * rows + tasks + 3 * classes),
    }


def test_names_lead_to_the_tensor_that_they_are_of():
    assert spec_of(f"{PREFIX}encoder.dense.drift_bank_B").keeps == "drift_B"
    assert spec_of("lifelong.drift_signature_diagonal").torch_dtype == torch.float32
    assert spec_of("lifelong.drift_bank_B") is None and spec_of("encoder.dense.drift_closed_bias") is None


def test_a_new_tensor_is_one_line(bert_folder, tmp_path):
    path = os.pathsep.join([str(SCRIPT.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, SCRIPT, bert_folder, tmp_path],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["created"][:2] == [0, 4]
    assert found["appended"] and found["loaded"] and found["left"] == ["news"]
    assert found["sizes"]["films"] == found["sizes"]["news"] > found["own"]
    assert 0 < found["bytes"] - sum(found["sizes"].values()) < found["bytes"] / 2  # the working pairs, which are zero
    assert all("it must be (2, 4," in message for message in found["refusals"]["wide"])
    assert found["refusals"]["bound"][0] == ""  # no header shows values
    assert "holds values from" in found["refusals"]["bound"][1]
    assert all(message and "is missing" in message for message in found["refusals"]["missing"])
