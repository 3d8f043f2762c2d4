"""Removing whole feed-forward neurons and attention heads, so that a model is smaller and faster, not only sparser."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from ..compat import Conv1D
from .calibration import Batches, check_batches, moments
from .targets import Target

# Name of the feed-forward width in the configurations that do not call it `intermediate_size`.
_WIDTHS = {"distilbert": "hidden_dim", "gpt2": "n_inner", "gptj": "n_inner", "opt": "ffn_dim"}
_MULTIPLE = 8


@torch.no_grad()
def shrink(
    model: Any,
    keep: float | None = None,
    *,
    keep_heads: float | None = None,
    calibration: Batches | None = None,
) -> Any:
    """Removes feed-forward neurons, the same number in every layer, and states the new width in the configuration.

    So the model saves with `save_pretrained`, loads with `from_pretrained`, and needs less time and memory on any
    hardware. The worth of a neuron is the norm of its outgoing weights times that of its incoming ones; with
    `calibration` batches, times the standard deviation of its activation instead. The mean activation of a removed
    neuron then goes into the next bias, so that a constant neuron leaves no trace. Train the model on afterwards,
    with a new trainer.

    Args:
        model (`PreTrainedModel`): Changed in place; one feed-forward block of `nn.Linear` or `Conv1D` in each layer.
        keep (`float`, *optional*): Share of the neurons to keep, rounded up to a multiple of 8 neurons. Default: only
            neurons without outgoing weights go (where other layers have more left, some of them stay).
        keep_heads (`float`, *optional*): Share of the attention heads to keep. Heads that share keys and values leave
            together; for architectures whose configuration states `head_dim` (Llama, Mistral, Qwen).
        calibration (iterable of batches, *optional*): Mappings of the model's inputs.

    Returns:
        The model.

    Raises:
        ValueError: for shares out of range, or a model whose configuration cannot state the new sizes; nothing is
            changed then.

    Source: our own criterion, in the manner of magnitude pruning of units.
    """
    for argument, share in (("keep", keep), ("keep_heads", keep_heads)):
        bad = isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1
        if share is not None and bad:
            raise ValueError(f"`{argument}` must be a share above 0 and at most 1, not {share!r}.")
    _check_model(model)
    check_batches(calibration)
    heads = _heads_left(model, keep_heads) if keep_heads is not None else None
    blocks = _blocks(model)
    worth = _worth(model, blocks, calibration)
    width = _width(blocks, keep)
    _rehearse(model, width, heads)
    for (_, falling), (value, means) in zip(blocks, worth, strict=True):
        if means is not None:
            _fold_means(falling, means, _best(value, width))
    _cut_all(model, width, [_best(value, width) for value, _ in worth], heads)
    return model


def _best(worth: Tensor, count: int) -> Tensor:
    return worth.argsort(descending=True)[:count].sort().values


def _cut_all(model: Any, width: int, neurons: list[Tensor], heads: int | None) -> None:
    """Cuts the layers to the given neurons of each block, and states the new sizes in the configuration."""
    for (name, falling), of_block in zip(_blocks(model), neurons, strict=True):
        for rising in _incoming(model, name, _features(falling)[0]):
            _cut(rising, of_block, outputs=True)
        _cut(falling, of_block, outputs=False)
    setattr(model.config, _width_name(model), width)
    if heads is not None:
        _shrink_heads(model, heads)


def _rehearse(model: Any, width: int, heads: int | None) -> None:
    """Tries the cut without memory first: it must give the model that the new configuration makes."""
    with torch.device("meta"):
        trial = type(model)(copy.deepcopy(model.config))
        neurons = torch.arange(width)
        _cut_all(trial, width, [neurons] * len(_blocks(trial)), heads)
        wanted = type(model)(copy.deepcopy(trial.config))
    cut_shapes, wanted_shapes = ({n: p.shape for n, p in m.named_parameters()} for m in (trial, wanted))
    wrong = [name for name, shape in wanted_shapes.items() if cut_shapes.get(name) != shape]
    if wrong or cut_shapes.keys() != wanted_shapes.keys():
        raise ValueError(
            f"In `{type(model).__name__}`, more than linear layers depends on the number of neurons or heads "
            f"(`{(wrong or ['?'])[0]}`), so it cannot be shrunk and then loaded with `from_pretrained`."
        )


def _check_model(model: Any) -> None:
    if not hasattr(model, "config") or not hasattr(model, "save_pretrained"):
        raise ValueError(f"`model` must be a transformers model, not `{type(model).__name__}`.")
    if hasattr(model, "peft_config"):
        raise ValueError(
            "`model` carries an adapter, which was made for the base as it is. Shrink the base, then adapt it."
        )
    if getattr(model, "is_quantized", False):
        raise ValueError("`model` is quantised; shrink it first, then quantise: `save_pretrained`, load in 4 bits.")


def _width_name(model: Any) -> str:
    return _WIDTHS.get(model.config.model_type, "intermediate_size")


def _features(module: nn.Module) -> tuple[int, int]:
    """Inputs and outputs of a linear layer."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    return module.in_features, module.out_features  # type: ignore[return-value]


def _blocks(model: Any) -> list[tuple[str, nn.Module]]:
    """Name and module of the output layer of each feed-forward block: the one that reads its neurons."""
    width = getattr(model.config, _width_name(model), None)
    if width is None and _width_name(model) == "n_inner":
        width = 4 * model.config.hidden_size
    linear: list[tuple[str, nn.Module]] = [
        (n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)
    ]
    falling = [(name, m) for name, m in linear if _features(m)[0] == width]
    rising = [name for name, m in linear if _features(m)[1] == width]
    layers = getattr(model.config, "num_hidden_layers", None)
    if not isinstance(width, int) or len(falling) != layers or len(rising) not in (layers, 2 * layers):
        raise ValueError(
            f"`{type(model).__name__}` has {len(rising)} linear layers into and {len(falling)} out of a feed-forward "
            f"block of `{_width_name(model)}` = {width}, for {layers} layers; only blocks of one width, with one "
            "layer out and one or two in, can be shrunk so that `from_pretrained` loads them."
        )
    return falling


def _incoming(model: nn.Module, name: str, width: int) -> list[nn.Module]:
    """The linear layers that make the neurons which the layer `name` reads: those in the same transformer layer."""
    path = name.split(".")
    number = next(i for i, step in enumerate(path) if step.isdigit())
    layer = model.get_submodule(".".join(path[: number + 1]))
    return [m for m in layer.modules() if isinstance(m, nn.Linear | Conv1D) and _features(m)[1] == width]


def _rows(module: Any) -> Tensor:
    """Weight as `[outputs, inputs]`."""
    return Target(module.weight, 1 if isinstance(module, Conv1D) else 0, module).rows(module.weight.detach()).double()


def _worth(
    model: nn.Module, blocks: list[tuple[str, nn.Module]], calibration: Batches | None
) -> list[tuple[Tensor, Tensor | None]]:
    """For each block: the worth of its neurons, float64 `[neurons]`, and the mean of their activations if known."""
    if calibration is not None:
        squares, means = moments(model, dict(blocks), calibration)
    out: list[tuple[Tensor, Tensor | None]] = []
    for name, module in blocks:
        leaving = _rows(module).norm(dim=0)
        if calibration is None:
            entering = sum(_entering(m) for m in _incoming(model, name, len(leaving)))
            out.append((leaving * torch.as_tensor(entering).sqrt(), None))
        elif module.bias is None:
            out.append((leaving * squares[name].sqrt(), None))
        else:
            spread = (squares[name] - means[name].square()).clamp(min=0.0).sqrt()
            out.append((leaving * spread, means[name]))
    return out


def _entering(module: Any) -> Tensor:
    """Squared norm of the weights into each neuron, its bias included."""
    bias = 0.0 if module.bias is None else module.bias.detach().double().square()
    return _rows(module).square().sum(1) + bias


def _width(blocks: list[tuple[str, nn.Module]], keep: float | None) -> int:
    """How many neurons every layer keeps."""
    neurons = _features(blocks[0][1])[0]
    if keep is None:
        wanted = max(int((_rows(module) != 0).any(0).sum()) for _, module in blocks)
    else:
        wanted = round(keep * neurons)
    return min(neurons, max(1, -(-wanted // _MULTIPLE)) * _MULTIPLE)


def _fold_means(module: Any, means: Tensor, neurons: Tensor) -> None:
    """Adds to a layer's bias what all neurons but the given ones contribute on average."""
    lost = torch.ones_like(means).index_fill_(0, neurons, 0.0)
    module.bias += (_rows(module) @ (means * lost)).to(module.bias.dtype)


def _cut(module: Any, indices: Tensor, *, outputs: bool) -> None:
    """Keeps the given outputs, or inputs, of a linear layer."""
    conv = isinstance(module, Conv1D)
    indices = indices.to(module.weight.device)
    weight = module.weight.detach().index_select(0 if outputs != conv else 1, indices)
    module.weight = nn.Parameter(weight, requires_grad=module.weight.requires_grad)
    if outputs and module.bias is not None:
        module.bias = nn.Parameter(module.bias.detach()[indices], requires_grad=module.bias.requires_grad)
    size = {(True, True): "nf", (True, False): "nx", (False, True): "out_features", (False, False): "in_features"}
    setattr(module, size[conv, outputs], len(indices))


def _attentions(model: nn.Module) -> list[Any]:
    names = ("q_proj", "k_proj", "v_proj", "o_proj")
    return [m for m in model.modules() if all(isinstance(getattr(m, name, None), nn.Linear) for name in names)]


def _heads_left(model: Any, keep: float) -> int:
    """Key-value heads to keep."""
    config = model.config
    stated = isinstance(getattr(config, "head_dim", None), int) and hasattr(config, "num_key_value_heads")
    if not stated or len(_attentions(model)) != config.num_hidden_layers:
        raise ValueError(
            f"`keep_heads`: the configuration of `{type(model).__name__}` derives the width of a head from their "
            "number, so fewer heads cannot be loaded with `from_pretrained`. Leave `keep_heads` out."
        )
    pairs, heads = config.num_key_value_heads, config.num_attention_heads
    fitting = [n for n in range(1, pairs + 1) if config.hidden_size % (n * heads // pairs) == 0]
    left = max(1, round(keep * pairs))
    if left not in fitting:
        raise ValueError(
            f"`keep_heads` = {keep} would leave {left * heads // pairs} heads, but transformers loads only numbers "
            f"that divide `hidden_size` = {config.hidden_size}: shares of {[round(n / pairs, 4) for n in fitting]}."
        )
    return left


def _shrink_heads(model: Any, left: int) -> None:
    """Removes the key-value heads whose value and output weights are smallest, with the query heads that read them."""
    config = model.config
    pairs, size = config.num_key_value_heads, config.head_dim
    share = config.num_attention_heads // pairs
    for attention in _attentions(model):
        leaving = attention.o_proj.weight.detach().double().view(-1, pairs, share * size).square().sum((0, 2))
        entering = attention.v_proj.weight.detach().double().view(pairs, -1).square().sum(1)
        meta = leaving.device.type == "meta"
        heads = torch.arange(left) if meta else _best(leaving * entering, left).cpu()
        for name, width in (("q_proj", share * size), ("k_proj", size), ("v_proj", size), ("o_proj", share * size)):
            rows = (heads[:, None] * width + torch.arange(width)).flatten()
            _cut(getattr(attention, name), rows, outputs=name != "o_proj")
    config.num_attention_heads, config.num_key_value_heads = left * share, left
