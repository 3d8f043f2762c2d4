"""What differs between base models: the path of their layers, the arguments that have rows, and default targets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import nn
from transformers import MODEL_MAPPING, PreTrainedModel

from ..compat import check_target_module_exists
from ..objectives import TEXT, Modality, modality_named
from ..storage import FULL, layer_of
from .config import DriftAdapterConfig
from .layers import is_linear
from .members import MEMBER_KINDS


@dataclass(frozen=True)
class Architecture:
    """The layers of one architecture.

    Args:
        layers (`str`): Path of the layer list from the base model (for a language model, from the model without its
            head).
        targets (`tuple[str, ...]`): Suffixes of the linear layers that carry adapters by default.
        rowless (`tuple[str, ...]`): Suffixes of the linear layers that cannot carry an adapter. They also read tensors
            that all rows of a batch share (relative positions), to which no row's own member can be applied.
        specials (`int`): Of an image base: tokens in front of the patches, the class token first; registers come on
            top.
        class_share (`float`): Of an image base: share of the class token in what heads read; the mean of the patches
            has the rest.
    """

    layers: str
    targets: tuple[str, ...]
    rowless: tuple[str, ...] = ()
    specials: int = 0
    class_share: float = 0.0


_BERT = Architecture("encoder.layer", ("query", "key", "value", "dense"))
_LLAMA = Architecture("layers", ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"))
_VIT = ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2")
# The largest DINOv2 (`use_swiglu_ffn`) has other layers behind its attention.
_DINO = (*_VIT, "gate_proj", "up_proj", "down_proj")
ARCHITECTURES: dict[str, Architecture] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "camembert": _BERT,
    "electra": _BERT,
    "distilbert": Architecture("transformer.layer", ("q_lin", "k_lin", "v_lin", "out_lin", "lin1", "lin2")),
    "deberta": Architecture("encoder.layer", ("in_proj", "dense"), ("pos_proj", "pos_q_proj")),
    "deberta-v2": Architecture(
        "encoder.layer", ("value_proj", "dense"), ("query_proj", "key_proj", "pos_key_proj", "pos_query_proj")
    ),
    "modernbert": Architecture("layers", ("Wqkv", "Wo", "Wi")),
    "gpt2": Architecture("h", ("c_attn", "c_proj", "c_fc")),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    # What a head reads is what the stock head of the architecture reads, as far as that is linear.
    "vit": Architecture("layers", _VIT, specials=1, class_share=1.0),
    "deit": Architecture("layers", _VIT, specials=2, class_share=1.0),
    "dinov2": Architecture("encoder.layer", _DINO, specials=1, class_share=0.5),
    "dinov2_with_registers": Architecture("encoder.layer", _DINO, specials=1, class_share=0.5),
    "beit": Architecture("layers", _VIT, specials=1),
    "siglip_vision_model": Architecture("encoder.layers", ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")),
}

# Default share of the layers in the trunk. A quarter of a language model's depth is enough to tell tasks apart; an
# encoder has fewer layers and needs half. What tells images apart comes later (DINOv2-small, held-out images).
TRUNK_DEPTH, TRUNK_DEPTH_CAUSAL, TRUNK_DEPTH_IMAGES = 0.5, 0.25, 5 / 6

# Names in transformers of the embedding tables for learned positions and for token types.
POSITIONS, TOKEN_TYPES = ("position_embeddings", "wpe", "embed_positions"), ("token_type_embeddings",)

# Arguments of a layer that have one row per input. Listed by name because shapes are ambiguous: DeBERTa's relative
# embeddings can have as many rows as a batch.
ROW_ARGUMENTS = frozenset(
    {
        "hidden_states",
        "x",
        "attention_mask",
        "attn_mask",
        "sliding_window_mask",
        "position_ids",
        "position_embeddings",
        "position_bias",
        "encoder_hidden_states",
        "encoder_attention_mask",
        "query_states",
    }
)


def modality_of(model: Any) -> Modality:
    """What a base takes: text or images.

    Raises:
        ValueError: when no kind of task has such inputs.
    """
    try:
        return modality_named(getattr(model, "main_input_name", "input_ids"))
    except ValueError as error:
        raise ValueError(f"`{type(model).__name__}` cannot be the base of a lifelong adapter: {error}") from error


def is_causal(model: Any) -> bool:
    """Whether a base is a causal language model with its head (`AutoModelForCausalLM`)."""
    if not isinstance(model, PreTrainedModel) or not model.can_generate():
        return False
    return not model.config.is_encoder_decoder and model.base_model is not model


def layers_of(model: Any) -> tuple[str, nn.ModuleList]:
    """Path and list of the layers of a base model.

    Raises:
        ValueError: when the model has a head of its own and is not a causal language model, or when it has no list of
            layers that run once each.
    """
    prefix = f"{model.base_model_prefix}." if is_causal(model) else ""
    if not prefix and getattr(model, "base_model", model) is not model and not _is_whole(model):
        raise ValueError(
            f"`{type(model).__name__}` has a head of its own, but heads belong to the adapter; load the base with "
            "`AutoModel.from_pretrained`, or a language model with `AutoModelForCausalLM.from_pretrained`."
        )
    inner = model.base_model if prefix else model
    architecture = ARCHITECTURES.get(getattr(getattr(model, "config", None), "model_type", ""))
    if architecture is not None:
        return prefix + architecture.layers, inner.get_submodule(architecture.layers)
    _check_uniform(model)
    lists = [
        (name, module)
        for name, module in inner.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(m) for m in module}) == 1 and name.count(".") <= 2
    ]
    path, layers = max(lists, key=lambda item: len(item[1]), default=("", nn.ModuleList()))
    # With fewer layers than the configuration states, layers run several times in one pass (ALBERT).
    if not layers or getattr(model.config, "num_hidden_layers", len(layers)) != len(layers):
        raise ValueError(
            f"No list of layers that run once each was found in `{type(model).__name__}`; lifelong adapters need a "
            f"base whose layers follow one another, such as {sorted(ARCHITECTURES)}."
        )
    return prefix + path, layers


def _is_whole(model: Any) -> bool:
    """Whether `AutoModel` gives this class for its configuration: some keep a base inside, but have no head."""
    made = MODEL_MAPPING.get(type(model.config), ())
    return type(model) in (made if isinstance(made, tuple) else (made,))


def _check_uniform(model: Any) -> None:
    """Refuses an image base whose layers differ in what they hand on (`ValueError`)."""
    config = getattr(model, "config", None)
    staged = [key for key in ("depths", "hidden_sizes") if isinstance(getattr(config, key, None), list | tuple)]
    if modality_of(model) is not TEXT and staged:
        raise ValueError(
            f"`{type(model).__name__}` runs in stages of different widths (`{staged[0]}`), and its convolutions, "
            "windows or unfolding regroup the rows of a batch, so there is no trunk of one width with rows above it "
            "that can have members of their own. Give a base whose layers are alike, such as `vit`, `dinov2` or "
            "`siglip_vision_model`."
        )


@dataclass(frozen=True)
class Positions:
    """What the positions of an image base's hidden states are.

    Args:
        specials (`int`): Tokens in front of the patches; with `class_share`, the first is the class token.
        class_share (`float`): Its share in what heads read.
        patch (`int`): Pixels along the side of a patch.
    """

    specials: int
    class_share: float
    patch: int

    def count(self, height: int, width: int) -> int:
        """Number of positions of an image."""
        return self.specials + (height // self.patch) * (width // self.patch)


def positions_of(model: Any) -> Positions | None:
    """The positions of an image base; without an entry in `ARCHITECTURES` all count as patches. `None` for texts."""
    if modality_of(model) is TEXT:
        return None
    config, one = model.config, ARCHITECTURES.get(model.config.model_type)
    side = getattr(config, "patch_size", 16)
    patch = side if isinstance(side, int) else min(side)
    if one is None:
        return Positions(0, 0.0, patch)
    return Positions(one.specials + getattr(config, "num_register_tokens", 0), one.class_share, patch)


def input_embeddings(model: Any) -> nn.Parameter:
    """The weight that embeds a base's inputs: the token embeddings, or the projection of patches."""
    return next(model.get_input_embeddings().parameters())


@dataclass(frozen=True)
class InputLimits:
    """How many embeddings a base has of each sort.

    Args:
        tokens (`int`): Number of token ids.
        token_types (`int`, *optional*): Number of token types; `None` if the base takes none.
        positions (`int`, *optional*): Largest number of positions in an input; `None` if positions are relative or
            computed.
    """

    tokens: int
    token_types: int | None
    positions: int | None


def input_limits(model: Any) -> InputLimits | None:
    """The limits of a base's inputs; `None` for a base that takes images, which embeds no ids."""
    if modality_of(model) is not TEXT:
        return None
    types, positions = _table(model, TOKEN_TYPES), _table(model, POSITIONS)
    longest = None
    if positions is not None:
        # RoBERTa counts positions from its padding index, OPT and similar models from an offset.
        padding = positions.padding_idx
        longest = positions.num_embeddings - (getattr(positions, "offset", 0) if padding is None else padding + 1)
    return InputLimits(model.get_input_embeddings().num_embeddings, types and types.num_embeddings, longest)


def _table(model: nn.Module, names: tuple[str, ...]) -> Any:
    tables = (m for name, m in model.named_modules() if isinstance(m, nn.Embedding) and name.endswith(names))
    return next(tables, None)


def settle_trunk(config: DriftAdapterConfig, model: Any) -> int:
    """Number of trunk layers: the share `trunk_depth` of the layers, rounded, with at least one layer above the trunk.
    If `trunk_depth` is `None`, it is set to the default for the base."""
    if config.trunk_depth is None:
        of_heads = TRUNK_DEPTH if modality_of(model) is TEXT else TRUNK_DEPTH_IMAGES
        config.trunk_depth = TRUNK_DEPTH_CAUSAL if is_causal(model) else of_heads
    layers = len(layers_of(model)[1])
    return min(round(config.trunk_depth * layers), layers - 1)


def depths_of(model: Any, trunk: int) -> list[int]:
    """Hidden states (0 = embeddings) that make up a signature. Of images they are the last three of the trunk, because
    lower layers describe what all images have in common. Of prompts it is the trunk's end, where the last token has
    read the most."""
    if pooling_of(model, trunk) == "last":
        return [trunk]
    return signature_depths(trunk) if modality_of(model) is TEXT else list(range(max(trunk - 2, 0), trunk + 1))


def pooling_of(model: Any, trunk: int) -> str:
    """How a text's hidden states become features, one of `POOLINGS`. The mean of a prompt says what it is about; its
    last token, after which the answer begins, what is asked. Below the first layer, that token has read no other."""
    return "last" if is_causal(model) and trunk else "mean-and-peak"


def signature_depths(trunk: int, most: int = 4) -> list[int]:
    """Up to `most` hidden states, evenly spread over the trunk including its end."""
    count = min(most, trunk + 1)
    return [round(i * trunk / max(count - 1, 1)) for i in range(count)] if count > 1 else [trunk]


def target_names(config: DriftAdapterConfig, model: Any) -> list[str]:
    """Full names of the layers above the trunk that carry adapters.

    Raises:
        ValueError: when no layer matches, or one that cannot carry an adapter; the message names the layers.
    """
    path, layers = layers_of(model)
    architecture = ARCHITECTURES.get(model.config.model_type, Architecture(path, ()))
    above = range(settle_trunk(config, model), len(layers))
    kind = MEMBER_KINDS[layer_of(config.r)]
    everywhere = [
        {
            f"{path}.{i}.{name}": _base(module)
            for name, module in layer.named_modules()
            if kind.fits(_base(module)) and not name.endswith(".base_layer")
        }
        for i, layer in enumerate(layers)
    ]
    fitting = {name: module for i in above for name, module in everywhere[i].items()}
    wanted = config.target_modules
    if wanted is None:
        wanted = "all" if layer_of(config.r) == FULL else set(architecture.targets) or "all-linear"
    if wanted in ("all", "all-linear"):
        names = [
            name
            for name, module in fitting.items()
            if not name.endswith(architecture.rowless) and (wanted == "all" or is_linear(module))
        ]
    else:
        match = DriftAdapterConfig(target_modules=wanted, exclude_modules=config.exclude_modules)
        names = [name for name in fitting if check_target_module_exists(match, name)]
    rowless = sorted({name.rsplit(".", 1)[-1] for name in names if name.endswith(architecture.rowless)})
    if rowless:
        raise ValueError(
            f"`target_modules` names {rowless}, which read relative positions that all inputs of a batch share; an "
            "adapter there cannot differ from input to input. Leave them out."
        )
    unmatched = _unmatched(config, chain.from_iterable(everywhere)) if names else wanted
    if unmatched:
        raise ValueError(
            f"`target_modules` {unmatched!r} matches no {kind.what} above the trunk (layers {above.start} to "
            f"{above.stop - 1} of `{path}`).{_beside(model, path, config)} The {kind.what}s there end in "
            f"{sorted({name.rsplit('.', 1)[-1] for name in fitting})}."
        )
    return names


def _unmatched(config: DriftAdapterConfig, names: Iterable[str]) -> list[str]:
    """The entries of a list of `target_modules` that match none of `names`, by their end as in PEFT."""
    listed = config.target_modules if isinstance(config.target_modules, set) else ()
    ends = [f".{name}" for name in names]
    return sorted(entry for entry in listed if not any(end.endswith(f".{entry}") for end in ends))


def _beside(model: nn.Module, path: str, config: DriftAdapterConfig) -> str:
    """A sentence on what `target_modules` names that is in no layer, such as the embeddings; may be empty."""
    names = {name.removesuffix(".weight") for name, _ in (*model.named_modules(), *model.named_parameters())}
    found = sorted(n for n in names if not n.startswith(f"{path}.") and check_target_module_exists(config, n))
    if not found:
        return ""
    return f" `{found[0]}` is not part of a layer: it runs once for all members, which differ only in layers."


def _base(module: Any) -> nn.Module:
    return getattr(module, "base_layer", module)
