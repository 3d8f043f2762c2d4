"""The projection of wide features is the same everywhere and for ever, and a manifest states what it was made with."""

import json
from dataclasses import fields

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModel

from hf_lifelong import DriftAdapterConfig, knowledge_of
from hf_lifelong.adapter.bank import close_task, open_task
from hf_lifelong.knowledge import Constants, KnowledgeBase, ManifestError
from hf_lifelong.knowledge.constants import OLD_NOVELTY, UNSTATED
from hf_lifelong.knowledge.projection import RULES, checksum, projection_matrix, splitmix64


def test_the_generator_is_the_published_one():
    # The first numbers for the seed 0, as in the reference implementation's tests.
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B]
    assert [number % 2**64 for number in splitmix64(5).tolist()] == known


def test_signs_are_the_bits_of_its_numbers_row_by_row():
    bits = [number % 2**64 >> bit & 1 for number in splitmix64(3).tolist() for bit in range(64)]
    assert RULES["splitmix64"](13, 11).flatten().tolist() == bits[: 13 * 11]


@pytest.mark.parametrize("rule", RULES)
def test_a_projection_keeps_lengths_and_never_changes(rule):
    made = projection_matrix(rule, 400, 100)
    assert made.shape == (400, 100) and made.abs().unique().tolist() == [pytest.approx(0.1)]
    x = torch.randn(200, 400, generator=torch.Generator().manual_seed(1))
    assert ((x @ made).square().sum(1) / x.square().sum(1)).mean() == pytest.approx(1, abs=0.05)
    assert torch.equal(projection_matrix(rule, 400, 100), made)
    recorded = {"splitmix64": "c0c7e634cb281eb557538e5f007159f6", "torch": "bca5e6e4018b15bf3d75817d0cd5f954"}
    assert checksum(rule, 400, 100) == recorded[rule]


def test_adapters_without_stated_constants_have_those_of_their_time():
    other = ("projection", "novelty", "own", "sure", "candidates", "ratio_gain")
    same = [field.name for field in fields(Constants) if field.name not in other]
    assert all(getattr(UNSTATED, name) == getattr(Constants(), name) for name in same)
    data = KnowledgeBase().to_dict()
    assert KnowledgeBase.from_dict(data).constants == Constants()
    del data["constants"]
    with pytest.raises(ManifestError, match=r"lacks \['constants'\]"):
        KnowledgeBase.from_dict(data)
    assert KnowledgeBase.from_dict({**data, "format": 3}).constants == UNSTATED


def test_adapters_of_format_4_measure_novelty_as_then():
    stated = {**Constants(directions=16).to_dict(), "sure": 0.999}
    for name in ("own", *OLD_NOVELTY):
        del stated[name]
    data = {**KnowledgeBase().to_dict(), "format": 4, "constants": stated}
    found = KnowledgeBase.from_dict(data).constants
    assert (found.novelty, found.directions) == ("distance", 16)
    with pytest.raises(ManifestError, match=r"`knowledge.constants` lacks \['joint_limit', "):
        KnowledgeBase.from_dict({**data, "format": 5})


def test_adapters_of_format_5_compare_the_covariances_of_tasks_as_then():
    stated = {**Constants().to_dict(), "sure": 0.999, "candidates": 3}
    for name in ("own", "ratio_gain"):
        del stated[name]
    data = {**KnowledgeBase().to_dict(), "format": 5, "constants": stated}
    found = KnowledgeBase.from_dict(data).constants
    assert (found.own, found.candidates, found.sure) == ("task", 3, pytest.approx(6.9068, abs=1e-4))
    assert found.ratio_gain == 0
    for sure, limit in ((0.0, -1e4), (1.0, 1e4)):
        again = KnowledgeBase.from_dict({**data, "constants": {**stated, "sure": sure}})
        assert again.constants.sure == limit
    for wrong in (1.1, "0.999", None):
        with pytest.raises(ManifestError, match=r"`knowledge.constants.sure` must be a number from 0 to 1"):
            KnowledgeBase.from_dict({**data, "constants": {**stated, "sure": wrong}})
    assert KnowledgeBase.from_dict(KnowledgeBase(constants=found).to_dict()).constants == found


def made(bert_folder, **config):
    config = DriftAdapterConfig(r=2, members=1, signature_rank=4, signature_size=16, **config)
    model = get_peft_model(AutoModel.from_pretrained(bert_folder, dtype=torch.float32), config)
    open_task(model, "text-classification", ("a", "b"), 2)
    close_task(model)
    return model


def test_a_wide_adapter_states_its_checksum_and_one_that_differs_is_refused(bert_folder, tmp_path):
    model = made(bert_folder)
    constants = knowledge_of(model).constants
    assert constants.projection == "splitmix64" and constants.checksum == checksum("splitmix64", 128, 16)
    model.save_pretrained(str(tmp_path))
    path = tmp_path / "adapter_config.json"
    held = json.loads(path.read_text())
    assert held["knowledge"]["constants"] == constants.to_dict()
    held["knowledge"]["constants"]["projection"] = "torch"
    path.write_text(json.dumps(held))
    with pytest.raises(ValueError, match=r"checksum .*but the rule `torch` gives .*Restore"):
        PeftModel.from_pretrained(AutoModel.from_pretrained(bert_folder), str(tmp_path))


def test_a_narrow_one_states_none(bert_folder):
    config = DriftAdapterConfig(r=2, members=1)
    model = get_peft_model(AutoModel.from_pretrained(bert_folder), config)
    assert knowledge_of(model).constants == Constants()
