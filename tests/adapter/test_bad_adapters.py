"""Damaged, foreign and hostile adapters: one clear error each, and nothing of them is used."""

import json
import sys
import time
import tracemalloc
import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from adapter_helpers import answers_equal, same_tensors, tensors_of
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM
from versions import needs_adapter_methods_of_transformers

from hf_lifelong import DriftAdapterConfig, knowledge_of, predict
from hf_lifelong.adapter.checks import fingerprint
from hf_lifelong.knowledge import FORMAT

LAYER = "base_model.model.encoder.layer.3.output.dense.drift_bank_A"
HEAD = "base_model.model.lifelong.drift_bank_head_weight"
MEAN = "base_model.model.lifelong.drift_signature_mean"


@pytest.fixture
def folder(make_model, tmp_path):
    make_model(tasks=("films", "news")).save_pretrained(tmp_path)
    return tmp_path


def change_tensors(folder, change):
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def change_manifest(folder, change):
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    change(config["knowledge"])
    path.write_text(json.dumps(config))


def drop_last_member(manifest):
    manifest["tasks"][1]["members"] = 1


def claim_many_members(manifest):
    manifest["tasks"][0]["members"] = 10**9


def put_nan(tensors):
    tensors[MEAN][0, 0] = float("nan")


def as_half(tensors):
    tensors[LAYER] = tensors[LAYER].half()


def cut_rank(tensors):
    tensors[LAYER] = tensors[LAYER][:, :1].contiguous()


def flatten(tensors):
    tensors[LAYER] = tensors[LAYER].flatten(1)


DAMAGES = {
    "missing tensor": (change_tensors, lambda t: t.pop(LAYER), "layer.3.output.dense.drift_bank_A` is missing"),
    "surplus tensor": (change_tensors, lambda t: t.update(extra=torch.zeros(1)), "`extra` is surplus"),
    "another shape": (
        change_tensors,
        cut_rank,
        r"drift_bank_A` has shape \(4, 1, 48\), it must be \(4, 2, 48\)",
    ),
    "other dimensions": (change_tensors, flatten, r"drift_bank_A` has shape \(4, 96\), it must have 3 dim"),
    "another dtype": (change_tensors, as_half, "dense.drift_bank_A` is float16, it must be float32"),
    "NaN": (change_tensors, put_nan, "drift_signature_mean` holds NaN"),
    "fewer members stated": (change_manifest, drop_last_member, r"shape \(10, 32\), it must be \(7, 32\)"),
    "more members stated": (change_manifest, claim_many_members, r"it must be \(2000000006, 32\)"),
    "newer format": (change_manifest, lambda m: m.update(format=FORMAT + 1), "is 7, this package reads up to 6"),
    "unknown field": (change_manifest, lambda m: m.update(colour="red"), r"unknown fields \['colour'\]"),
    "missing field": (change_manifest, lambda m: m.pop("tasks"), r"lacks \['tasks'\]"),
    "unknown kind": (change_manifest, lambda m: m["tasks"][0].update(kind="juggling"), "juggling"),
    "another trunk": (change_manifest, lambda m: m.update(trunk=3, depths=[0, 3]), "trunk of 3 layers.*gives 2"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_a_damaged_adapter_is_refused(folder, bert_folder, damage, low_cpu_mem_usage):
    part, change, message = DAMAGES[damage]
    part(folder, change)
    base = AutoModel.from_pretrained(bert_folder, dtype=torch.float32)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        PeftModel.from_pretrained(base, folder, low_cpu_mem_usage=low_cpu_mem_usage)


# What it reads it casts to float32, and what is surplus it leaves out: neither makes it answer from anything random.
@pytest.mark.parametrize("damage", [d for d in DAMAGES if d not in ("surplus tensor", "another dtype")])
def test_transformers_own_loader_never_answers_from_a_damaged_adapter(folder, batch, damage):
    part, change, _ = DAMAGES[damage]
    part(folder, change)

    def load_and_ask():
        model = AutoModel.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            model(**batch)

    with pytest.raises((ValueError, RuntimeError)):
        load_and_ask()


def test_a_truncated_file_is_refused(folder, bert_folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    base = AutoModel.from_pretrained(bert_folder, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"adapter_model.safetensors` cannot be used: it is not a whole safetensors"):
        PeftModel.from_pretrained(base, folder)


def test_a_hostile_manifest_costs_neither_memory_nor_time(folder, bert_folder):
    change_manifest(folder, claim_many_members)
    base = AutoModel.from_pretrained(bert_folder, dtype=torch.float32)
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(ValueError, match="it must be"):
        PeftModel.from_pretrained(base, folder)
    assert time.perf_counter() - start < 1
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_a_refused_second_adapter_leaves_the_first_as_it_was(folder, make_model, batch):
    model = make_model()
    before, answer = tensors_of(model), predict(model, batch)
    change_tensors(folder, cut_rank)
    with pytest.raises(ValueError, match="has shape"):
        model.load_adapter(folder, adapter_name="second")
    same_tensors(tensors_of(model), before)
    answers_equal(predict(model, batch), answer)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (("bert", {"hidden_size": 64}), "`hidden_size` 32, but the model given has 64"),
        (("bert", {"num_hidden_layers": 6}), "`layers` 4, but the model given has 6"),
        (("roberta", {}), "`model_type` 'bert', but the model given has 'roberta'"),
    ],
)
def test_another_base_is_refused(folder, tiny_folder, other, message):
    base = AutoModel.from_pretrained(tiny_folder(other[0], **other[1]), dtype=torch.float32)
    with pytest.raises(ValueError, match=message):
        PeftModel.from_pretrained(base, folder)


def test_other_weights_are_warned_of(folder, tiny_folder):
    base = AutoModel.from_pretrained(tiny_folder("bert", seed=1), dtype=torch.float32)
    with pytest.warns(UserWarning, match="other weights than the one this adapter was trained on"):
        PeftModel.from_pretrained(base, folder)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_dtype_is_warned_of_and_nothing_else(folder, bert_folder, dtype):
    base = AutoModel.from_pretrained(bert_folder, dtype=dtype)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        PeftModel.from_pretrained(base, folder)
    ours = [str(w.message) for w in caught if "trained on" in str(w.message)]
    assert len(ours) == 1 and "another dtype" in ours[0]


def test_the_right_base_is_not_warned_of(folder, bert_folder):
    base = AutoModel.from_pretrained(bert_folder, dtype=torch.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        PeftModel.from_pretrained(base, folder)
    assert not [w for w in caught if "trained on" in str(w.message)]


def test_the_fingerprint_does_not_see_adapters(make_model, tiny_folder):
    base = AutoModel.from_pretrained(tiny_folder("bert"), dtype=torch.float32)
    assert fingerprint(make_model().base_model.model) == fingerprint(base) == fingerprint(base.bfloat16())
    assert fingerprint(base) != fingerprint(AutoModel.from_pretrained(tiny_folder("bert", seed=1)))
    assert fingerprint(base.to("meta")) is None


@needs_adapter_methods_of_transformers
def test_each_adapter_of_a_model_is_checked(make_model, bert_folder, batch, tmp_path):
    # transformers' own loader asks nobody, so an adapter is checked before its first answer: each of them.
    for name in ("a", "b"):
        make_model(tasks=("films", "news")).save_pretrained(tmp_path / name)
    change_tensors(tmp_path / "a", put_nan)
    base = AutoModel.from_pretrained(bert_folder, dtype=torch.float32)
    base.load_adapter(str(tmp_path / "a"), adapter_name="a")
    base.load_adapter(str(tmp_path / "b"), adapter_name="b")
    base.set_adapter("b")
    predict(base, batch)
    base.set_adapter("a")
    with pytest.raises(ValueError, match="holds NaN"):
        predict(base, batch)


def test_a_base_that_zero_3_shares_out_is_taken_as_it_is_as_a_whole(tiny_language_folder, monkeypatch):
    def adapted(change=lambda base: None):
        base = AutoModelForCausalLM.from_pretrained(tiny_language_folder("gpt2"), dtype=torch.float32)
        change(base)
        model = get_peft_model(base, DriftAdapterConfig(task_type="CAUSAL_LM", r=2))
        return knowledge_of(model), {n: p.shape for n, p in model.named_parameters() if "drift_" in n}

    held = {}

    def share_out(base):
        for i, parameter in enumerate(base.parameters()):
            held[parameter], parameter.ds_id, parameter.ds_shape = parameter.data, i, parameter.shape
            parameter.data = torch.empty(0)

    @contextmanager
    def gather(parameters):
        for parameter in parameters:
            parameter.data = held[parameter]
        yield
        for parameter in parameters:
            parameter.data = torch.empty(0)

    whole = adapted()
    monkeypatch.setitem(sys.modules, "deepspeed", SimpleNamespace(zero=SimpleNamespace(GatheredParameters=gather)))
    assert adapted(share_out) == whole


def test_a_base_that_has_the_adapter_already_is_named_as_such(make_model):
    """As when a cell of a notebook runs twice."""
    with pytest.raises(ValueError, match=r"has a lifelong adapter `default` already.*`unload\(\)`"):
        get_peft_model(make_model().get_base_model(), DriftAdapterConfig())
