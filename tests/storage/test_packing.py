"""What statistics store: packed and unpacked to the bit, and refused where the manifest lies about it."""

import json

import pytest
import torch
from learned import learn_task
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from hf_lifelong import DriftAdapterConfig, knowledge_of
from hf_lifelong.adapter.statistics import set_statistics, statistics_of
from hf_lifelong.hub.saved import read_saved
from hf_lifelong.knowledge import KnowledgeBase, LearnedTask
from hf_lifelong.statistics import TaskStatistic
from hf_lifelong.storage import TensorSpec
from hf_lifelong.storage.packing import pack, record_of, stored_statistics, unpack

VALUES = {
    "odd": torch.tensor([1.5, -2.25, 3.0], dtype=torch.float16),
    "wide": torch.tensor([[1e300, 1 / 3]], dtype=torch.float64),
    "whole": torch.tensor(2**60 + 1),
    "plain": torch.tensor([[[0.1]]]),
    "none": torch.empty(0, 4),
}


class Mixed(TaskStatistic):
    name = "mixed"
    tensors = (
        TensorSpec("odd", ("a",), dtype="float16"),
        TensorSpec("wide", ("b", "c"), dtype="float64"),
        TensorSpec("whole", (), dtype="int64"),
        TensorSpec("plain", ("b", "b", "b")),
        TensorSpec("none", ("d", "e")),
    )

    def fit(self, rows):
        return VALUES

    def describe(self, values):
        return {"a | b": "<b>", "share": 1 / 3, "is": True}


def test_tensors_come_back_to_the_bit():
    record = record_of("mixed", VALUES, {})
    packed = pack(VALUES)
    assert packed.dtype == torch.uint8 and len(packed) == record.bytes == 6 + 16 + 8 + 4
    found = unpack(packed, record)
    assert list(found) == list(VALUES)
    for name, value in VALUES.items():
        assert found[name].dtype == value.dtype and torch.equal(found[name], value), name


def test_each_task_gets_its_own():
    def task(name, *records):
        return LearnedTask(name, "text-classification", ("a", "b"), 2, 1, name, 10, statistics=records)

    less = {"plain": torch.ones(2)}
    knowledge = KnowledgeBase(
        tasks=[task("one", record_of("m", VALUES, {})), task("two"), task("three", record_of("l", less, {}))]
    )
    found = stored_statistics(torch.cat([pack(VALUES), pack(less)]), knowledge)
    assert (
        found["two"] == {} and list(found["one"]) == ["m"] and torch.equal(found["three"]["l"]["plain"], torch.ones(2))
    )


@pytest.fixture(scope="module")
def folder(bert_folder, tmp_path_factory):
    model = get_peft_model(
        AutoModel.from_pretrained(bert_folder), DriftAdapterConfig(r=2, members=1, signature_rank=4)
    )
    for seed, name in enumerate(("films", "news")):
        learn_task(model, name, "text-classification", ("bad", "good"), seed, members=1)
    set_statistics(model, "news", {Mixed(): VALUES})
    set_statistics(model, "films", {Mixed(): VALUES})
    set_statistics(model, "news", {Mixed(): VALUES})  # in the place of what it had
    assert knowledge_of(model).tasks[1].statistics[0].shown == (("a | b", "<b>"), ("share", 1 / 3), ("is", True))
    folder = tmp_path_factory.mktemp("packed")
    model.save_pretrained(str(folder))
    return folder


def changed(folder, target, change, tensors=None):
    config = json.loads((folder / "adapter_config.json").read_text())
    config["digest"] = None
    change(config["knowledge"]["tasks"][0]["statistics"])
    (target / "adapter_config.json").write_text(json.dumps(config))
    stored = load_file(folder / "adapter_model.safetensors")
    if tensors is not None:
        tensors(stored)
    save_file(stored, target / "adapter_model.safetensors", metadata={"format": "pt"})
    return target


def test_a_sound_folder_is_read(folder, bert_folder):
    assert len(read_saved(folder).knowledge.tasks[0].statistics) == 1
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(bert_folder), str(folder))
    found = statistics_of(model, "mixed")
    assert list(found) == ["films", "news"] and torch.equal(found["news"]["wide"], VALUES["wide"])
    assert statistics_of(model, "other") == {}


def tensor(**fields):
    return lambda records: records[0]["tensors"][1].update(fields)


def record(**fields):
    return lambda records: records[0].update(fields)


LIES = {
    "a huge shape": (tensor(shape=[2**31, 2**31]), r"has shape \(68,\), it must be \(\d+,\)"),
    "another shape": (tensor(shape=[3]), r"has shape \(68,\), it must be \(76,\)"),
    "a negative shape": (tensor(shape=[-1]), r"shape` must be an integer from 0"),
    "a float shape": (tensor(shape=[2.0]), r"shape` must be an integer from 0"),
    "many dimensions": (tensor(shape=[1] * 9), "has 9 entries, more than 8"),
    "another dtype": (tensor(dtype="float32"), r"has shape \(68,\), it must be \(60,\)"),
    "a dtype of nothing": (tensor(dtype="__import__"), r"dtype` must be one of \['float16'"),
    "a dtype that is a list": (tensor(dtype=[]), r"dtype` must be one of"),
    "another tensor's name": (tensor(name="odd"), "names 'odd' twice"),
    "a name that moves the cursor": (record(name="\x1b[2J"), "must be at most 60 lower-case letters"),
    "a long name": (record(name="x" * 61), "must be at most 60 lower-case letters"),
    "a field of elsewhere": (record(code="x"), r"unknown fields \['code'\]"),
    "no tensors": (record(tensors=None), "tensors` must be a list"),
    "shown things": (record(shown=[["a", {}]]), "must hold pairs of a text and a text or number"),
    "long things shown": (record(shown=[["a", "x" * 201]]), "more than 60 or 200 characters"),
    "many things shown": (record(shown=[["a", 1]] * 33), "has 33 entries, more than 32"),
    "twice the same": (lambda records: records.append(records[0]), "names 'mixed' twice"),
    "none": (lambda records: records.clear(), r"has shape \(68,\), it must be \(34,\)"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_manifest_that_lies_is_refused_before_a_tensor_is_read(folder, tmp_path, lie):
    change, message = LIES[lie]
    with pytest.raises(ValueError, match=message) as caught:
        read_saved(changed(folder, tmp_path, change))
    assert "\x1b" not in str(caught.value)


def fill(stored, dtype=torch.uint8):
    name = next(name for name in stored if name.endswith("drift_statistics"))
    stored[name] = torch.full((68,), 255, dtype=torch.uint8).to(dtype)


def drop(stored):
    del stored[next(name for name in stored if name.endswith("drift_statistics"))]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (fill, "`odd` of the statistic `mixed` of task `films` holds NaN"),
        (lambda stored: fill(stored, torch.float32), "`lifelong.drift_statistics` is float32, it must be uint8"),
        (drop, "`lifelong.drift_statistics` is missing"),
    ],
)
def test_tensors_that_lie_are_refused_when_they_are_loaded(folder, bert_folder, tmp_path, damage, message):
    changed(folder, tmp_path, lambda records: None, damage)
    with pytest.raises(ValueError, match=message):
        PeftModel.from_pretrained(AutoModel.from_pretrained(bert_folder), str(tmp_path))


def test_statistics_of_no_task_are_surplus(folder, tmp_path):
    changed(folder, tmp_path, lambda records: records.clear())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    del config["knowledge"]["tasks"][1]["statistics"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"drift_statistics` is surplus"):
        read_saved(tmp_path)
