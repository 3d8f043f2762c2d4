"""Neurons and heads that are physically gone: outputs, sizes, saving and loading."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from hf_lifelong.pruning import Magnitude, prune, shrink

CAUSAL = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 0, "eos_token_id": 0},
    "llama": {
        "hidden_size": 32,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 8,
    },
}
IDS = torch.tensor([[5, 7, 11, 13, 17, 19], [3, 2, 1, 4, 5, 6]])


def causal(kind: str):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, vocab_size=99, **CAUSAL[kind]), dtype=torch.float32
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model.eval()


def encoder(tiny_folder, kind: str):
    model = AutoModel.from_pretrained(tiny_folder(kind), dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return model


@pytest.fixture(params=["bert", "roberta", "distilbert", "gpt2", "llama"])
def model(request, tiny_folder):
    kind = request.param
    return causal(kind) if kind in CAUSAL else encoder(tiny_folder, kind)


def said(model):
    with torch.no_grad():
        return model(input_ids=IDS)[0]


def ways(model):
    """Into and out of each feed-forward block."""
    width = {"distilbert": "hidden_dim", "gpt2": "n_inner"}.get(model.config.model_type, "intermediate_size")
    width = getattr(model.config, width) or 4 * model.config.hidden_size
    linear = [m for m in model.modules() if isinstance(m, nn.Linear | Conv1D)]
    sizes = [(m.nx, m.nf) if isinstance(m, Conv1D) else (m.in_features, m.out_features) for m in linear]
    return (
        width,
        [m for m, size in zip(linear, sizes, strict=True) if size[1] == width],
        [m for m, size in zip(linear, sizes, strict=True) if size[0] == width],
    )


def test_half_of_the_neurons(model, tmp_path):
    before, (width, _, _) = sum(p.numel() for p in model.parameters()), ways(model)
    kinds = [type(m) for m in model.modules()]
    trainable = [n for n, p in model.named_parameters() if p.requires_grad]
    assert shrink(model, 0.5) is model
    after, rising, falling = ways(model)
    assert after == -(-width // 16) * 8 and rising and falling
    assert sum(p.numel() for p in model.parameters()) < before
    assert [type(m) for m in model.modules()] == kinds and not model.training
    assert [n for n, p in model.named_parameters() if p.requires_grad] == trainable
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert torch.equal(said(loaded), said(model))


def test_neurons_without_effect_leave_no_trace(model):
    width, _, falling = ways(model)
    with torch.no_grad():
        for layer in falling:
            weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
            weight[:, ::2] = 0.0
    expected = said(model)
    shrink(model)
    assert ways(model)[0] == -(-(width // 2) // 8) * 8
    assert torch.allclose(said(model), expected, atol=1e-6)


def test_neurons_with_only_a_bias_stay(tiny_folder):
    model = encoder(tiny_folder, "bert")
    with torch.no_grad():
        for layer in model.encoder.layer:
            layer.intermediate.dense.weight[:16] = 0.0
    expected = said(model)
    shrink(model)
    assert model.config.intermediate_size == 48 and torch.equal(said(model), expected)


def test_what_hangs_together_otherwise_is_refused():
    config = AutoConfig.for_model("gpt2", vocab_size=99, n_inner=96, **CAUSAL["gpt2"])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    expected = said(model)  # n_inner is as wide as query, key and value together
    with pytest.raises(ValueError, match="cannot be shrunk"):
        shrink(model, 0.5)
    assert torch.equal(said(model), expected) and model.config.n_inner == 96


def test_constant_neurons_fold_into_the_bias(tiny_folder):
    model = encoder(tiny_folder, "bert")
    with torch.no_grad():
        for layer in model.encoder.layer:
            layer.intermediate.dense.weight[8:] = 0.0  # their activation is that of their bias
    expected = said(model)
    shrink(model, 8 / 48, calibration=[{"input_ids": IDS}])
    assert model.config.intermediate_size == 8
    assert torch.allclose(said(model), expected, atol=1e-5)


def test_calibration_loses_less(tiny_folder):
    base = encoder(tiny_folder, "bert")
    with torch.no_grad():
        for layer in base.encoder.layer:  # many neurons that hardly move, and weigh much
            layer.intermediate.dense.weight[::2] *= 0.02
            layer.output.dense.weight[:, ::2] *= 20
    expected = said(base)
    lost = {}
    for calibration in (None, [{"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}]):
        model = AutoModel.from_config(copy.deepcopy(base.config), dtype=torch.float32).eval()
        model.load_state_dict(base.state_dict())
        lost[calibration is None] = float((said(shrink(model, 0.5, calibration=calibration)) - expected).norm())
    assert lost[False] < 0.5 * lost[True]


def test_heads_with_their_keys_and_values(tmp_path):
    model = causal("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[:, 16:48] = 0.0  # what the second and third pair of query heads say
    expected = said(model)
    with pytest.raises(ValueError, match=r"leave 6 heads.*\[0.25, 0.5, 1.0\]"):
        shrink(model, 1.0, keep_heads=0.75)
    shrink(model, 1.0, keep_heads=0.5)
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (4, 2)
    assert model.model.layers[0].self_attn.q_proj.weight.shape == (32, 32)
    assert torch.allclose(said(model), expected, atol=1e-6)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert torch.equal(said(loaded), said(model))
    out = loaded.generate(IDS, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert torch.equal(out, model.generate(IDS, max_new_tokens=4, do_sample=False, pad_token_id=0))


def test_shrunk_model_trains(tiny_folder):
    model = shrink(encoder(tiny_folder, "bert"), 0.5).train()
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=IDS)[0].square().mean().backward()
    optimizer.step()
    inside = model.encoder.layer[0].intermediate.dense
    assert inside.weight.shape == (24, 32) and inside.weight.grad.abs().sum() > 0


def test_masks_then_shrink(tiny_folder):
    model = encoder(tiny_folder, "bert")
    prune(model, Magnitude(0.5))
    shrink(model, 0.5)
    again = prune(model, Magnitude(0.5))  # zeros of before stay pruned
    zeros = sum(int((target.parameter == 0).sum()) for target in again.targets.values())
    assert again.gone == zeros and again.remaining < 0.5


def test_refused(tiny_folder):
    model = encoder(tiny_folder, "bert")
    known = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for keep in (0, 1.5, True, "half"):
        with pytest.raises(ValueError, match="`keep`"):
            shrink(model, keep)
    with pytest.raises(ValueError, match="derives the width of a head"):
        shrink(model, 0.5, keep_heads=0.5)
    with pytest.raises(ValueError, match="never reached"):
        shrink(model, 0.5, calibration=[])
    assert all(torch.equal(known[name], parameter) for name, parameter in model.named_parameters())
    with pytest.raises(ValueError, match="for 4 layers"):
        shrink(encoder(tiny_folder, "modernbert"), 0.5)
    with pytest.raises(ValueError, match="carries an adapter"):
        shrink(get_peft_model(model, LoraConfig(target_modules=["query"])), 0.5)
    with pytest.raises(ValueError, match="transformers model"):
        shrink(nn.Linear(2, 2), 0.5)
