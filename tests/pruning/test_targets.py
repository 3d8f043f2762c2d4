"""Which weights are pruned: the backbone without embeddings and heads, an adapter, or what a pattern names."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from hf_lifelong import DriftAdapterConfig
from hf_lifelong.pruning import SAP, Magnitude, prunable, prune, sap_prune_count, sparsity_report, targets

GPT2 = {
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 2,
    "vocab_size": 99,
    "n_positions": 32,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


@pytest.fixture
def gpt2():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **GPT2), dtype=torch.float32)


@pytest.fixture
def classifier(bert_folder):
    return AutoModelForSequenceClassification.from_pretrained(bert_folder, dtype=torch.float32, num_labels=3)


def test_backbone_of_a_classifier(classifier):
    found = prunable(classifier)
    assert all(".self." in name or name.endswith("dense.weight") for name in found)
    assert not any(word in name for name in found for word in ("classifier", "embeddings", "Norm", "bias"))
    assert len(found) == 4 * 6 + 1  # six linear layers in each of four, and the pooler
    assert set(prunable(classifier, "classifier")) == {"classifier.weight"}


def test_conv1d_has_its_neurons_in_axis_1(gpt2):
    found = prunable(gpt2)
    assert len(found) == 2 * 4 and not any("wte" in name or "lm_head" in name for name in found)
    target = found["transformer.h.0.mlp.c_fc.weight"]
    assert tuple(target.parameter.shape) == (32, 128) and tuple(target.rows(target.parameter).shape) == (128, 32)
    assert torch.equal(target.unrows(target.rows(target.parameter)), target.parameter)
    wanted = [sap_prune_count(target.parameter[:, j].detach()) for j in range(128)]
    masks = prune(gpt2, SAP(scope="neuron"))
    assert masks.pruned["transformer.h.0.mlp.c_fc.weight"].sum(0).tolist() == wanted


def test_a_head_that_is_tied_to_the_embeddings_is_refused_as_that(gpt2):
    with pytest.raises(ValueError, match=r"nothing but `lm_head.weight`, which is tied to the embeddings"):
        prunable(gpt2, "lm_head")
    gpt2.lm_head.weight = torch.nn.Parameter(gpt2.lm_head.weight.detach().clone())
    assert set(prunable(gpt2, "lm_head")) == {"lm_head.weight"}


def test_tied_weights_count_once(gpt2):
    assert gpt2.lm_head.weight is gpt2.transformer.wte.weight
    assert not any("lm_head" in name or "wte" in name for name in prunable(gpt2, "weight"))
    shared = nn.Linear(4, 4)
    assert len(prunable(nn.Sequential(shared, nn.ReLU(), shared))) == 1


def test_convolutions():
    conv = nn.Conv2d(3, 5, 3)
    target = prunable(conv)["weight"]
    assert tuple(target.rows(target.parameter).shape) == (5, 27)
    prune(conv, Magnitude(0.5, "neuron"))
    assert (conv.weight == 0).flatten(1).sum(1).tolist() == [13] * 5


def test_experts_are_left_and_said(caplog):
    config = AutoConfig.for_model(
        "mixtral",
        vocab_size=99,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=2,
    )
    model = AutoModel.from_config(config, dtype=torch.float32)
    targets.logger.addHandler(caplog.handler)
    found = prunable(model)
    targets.logger.removeHandler(caplog.handler)
    assert all("self_attn" in name for name in found) and "experts of a mixture" in caplog.text


def test_adapters(bert_folder):
    base = AutoModel.from_pretrained(bert_folder, dtype=torch.float32)
    lora = get_peft_model(base, LoraConfig(r=4, target_modules=["query"], modules_to_save=["pooler"]))
    assert {name.split(".")[-3] for name in prunable(lora)} == {"lora_A", "lora_B"}
    with pytest.raises(ValueError, match="before `get_peft_model`"):
        prunable(lora, "backbone")
    drift = get_peft_model(AutoModel.from_pretrained(bert_folder, dtype=torch.float32), DriftAdapterConfig(r=4))
    drift.base_model.requires_grad_(False)
    with pytest.raises(ValueError, match="matches no weight"):
        prunable(drift)
    with pytest.raises(ValueError, match="no PEFT adapter"):
        prunable(base.encoder.layer[0].output, "adapter")


def test_refused(classifier):
    with pytest.raises(ValueError, match=r"matches no weight.*'dense'"):
        prunable(classifier, "attention.nothing")
    for wrong in (7, ["dense"], "*dense"):
        with pytest.raises(ValueError, match="`targets`"):
            prunable(classifier, wrong)
    with pytest.raises(ValueError, match="`model` must be a model"):
        sparsity_report("bert")
    with pytest.raises(ValueError, match="meta"), torch.device("meta"):
        prunable(nn.Linear(2, 2))


@pytest.mark.feature("prune", "4-bit", refused=True)
@pytest.mark.feature("prune", "8-bit", refused=True)
def test_quantised_weights_are_refused():
    layer = nn.Linear(2, 2)
    layer.weight.quant_state = "nf4"
    with pytest.raises(ValueError, match="then quantise"):
        prunable(layer)
    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match="floating-point"):
        prunable(layer)


def test_report(classifier, tmp_path, capsys):
    masks = prune(classifier, Magnitude(0.25))
    report = sparsity_report(classifier, picture=tmp_path / "report.png")
    printed = capsys.readouterr().out
    assert str(report) in printed and all(name in printed for name in masks.targets)
    assert report.total.weights == masks.total
    assert report.total.remaining == pytest.approx(masks.remaining)
    assert report.layers[0].pq_index < 0.153  # Gaussian weights that lost their smallest
    assert (tmp_path / "report.png").stat().st_size > 10_000
