"""Pruned models in few bytes: bit-identical, small, and refused when damaged."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from hf_lifelong.pruning import Magnitude, load_compact, prune, save_compact
from hf_lifelong.utils.files import DamagedFileError


@pytest.fixture
def layer():
    torch.manual_seed(0)
    layer = nn.Linear(512, 512, bias=False)
    prune(layer, Magnitude(0.9))
    return layer


def test_ninety_percent(layer, tmp_path):
    path = tmp_path / "model.safetensors"
    save_compact(layer, path)
    assert path.stat().st_size < 0.15 * layer.weight.nbytes
    assert torch.equal(load_compact(path)["weight"], layer.weight)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int8, torch.bool]
)
def test_bits_of_every_dtype(dtype, tmp_path):
    torch.manual_seed(0)
    values = (torch.randn(37, 11) * 20 * (torch.rand(37, 11) < 0.1)).to(dtype)
    state = {"w": values, "dense": torch.randn(5), "scalar": torch.tensor(3.0), "empty": torch.zeros(0, 3)}
    if dtype.is_floating_point:
        values[0, :3] = torch.tensor([-0.0, float("nan"), float("-inf")]).to(dtype)
    save_compact(state, tmp_path / "x.safetensors")
    back = load_compact(tmp_path / "x.safetensors")
    assert back.keys() == state.keys()
    for name, tensor in state.items():
        assert back[name].dtype == tensor.dtype and back[name].shape == tensor.shape
        assert torch.equal(back[name].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


@pytest.mark.parametrize("left", [1, 40])
def test_float8(left, tmp_path):
    values = torch.zeros(1000)
    values[:left] = 1.5
    save_compact({"w": values.to(torch.float8_e4m3fn)}, tmp_path / "x.safetensors")
    assert torch.equal(load_compact(tmp_path / "x.safetensors")["w"].float(), values)


def test_tied_weights_are_stored_once(tmp_path):
    config = AutoConfig.for_model("gpt2", n_embd=32, n_layer=1, n_head=2, vocab_size=990)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    prune(model, Magnitude(0.9))
    save_compact(model, tmp_path / "m.safetensors")
    keys = load_file(tmp_path / "m.safetensors").keys()
    assert sum("wte" in key or "lm_head" in key for key in keys) == 1
    other = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    other.load_state_dict(load_compact(tmp_path / "m.safetensors"))
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    )


def rewritten(path, change):
    """Changes tensors and header of a compact file."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["hf_lifelong"])
    tensors = load_file(path)
    change(tensors, header)
    save_file(tensors, path, metadata={"hf_lifelong": json.dumps(header)})


DAMAGES = {
    "no bits": lambda t, h: t.pop("bits:weight"),
    "no values": lambda t, h: t.pop("values:weight"),
    "short bits": lambda t, h: t.update({"bits:weight": t["bits:weight"][:-1]}),
    "float bits": lambda t, h: t.update({"bits:weight": t["bits:weight"].float()}),
    "short values": lambda t, h: t.update({"values:weight": t["values:weight"][:-1].clone()}),
    "flipped bit": lambda t, h: t["bits:weight"].bitwise_xor_(torch.tensor([1] + [0] * 32767, dtype=torch.uint8)),
    "huge shape": lambda t, h: h["shapes"].update(weight=[10**12, 10**12]),
    "negative shape": lambda t, h: h["shapes"].update(weight=[-512, -512]),
    "text shape": lambda t, h: h["shapes"].update(weight="512x512"),
    "surplus": lambda t, h: t.update(other=torch.ones(1)),
    "bad alias": lambda t, h: h["aliases"].update(a="b"),
    "alias of itself": lambda t, h: h["aliases"].update(weight="weight"),
    "alias no text": lambda t, h: h["aliases"].update(a=["weight"]),
    "twice": lambda t, h: t.update({"dense:weight": torch.ones(2)}),
    "newer": lambda t, h: h.update(version=2),
    "other format": lambda t, h: h.update(format="x"),
    "no shapes": lambda t, h: h.pop("shapes"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged(layer, tmp_path, damage):
    path = tmp_path / "model.safetensors"
    save_compact(layer, path)
    rewritten(path, DAMAGES[damage])
    with pytest.raises(DamagedFileError, match="model\\.safetensors"):
        load_compact(path)


def test_damaged_bytes(layer, tmp_path):
    path = tmp_path / "model.safetensors"
    save_compact(layer, path)
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[:-1], b"\x80\x04pickle" + whole):
        path.write_bytes(content)
        with pytest.raises(DamagedFileError):
            load_compact(path)
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(DamagedFileError, match="was not written by `save_compact`"):
        load_compact(path)
    with pytest.raises(DamagedFileError):
        load_compact(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("model", ["model.safetensors", {"weight": [1.0]}, None])
def test_what_is_no_model_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="must be a model"):
        save_compact(model, tmp_path / "x.safetensors")
