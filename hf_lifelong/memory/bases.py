"""Builds a base from its configuration alone, on the meta device: with every shape, but without memory."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from .quantised import quantise

BITS = (4, 8, 16, 32)


@dataclass(frozen=True)
class BaseSource:
    """The configuration and precision of a base.

    Args:
        name (`str`): Hub id, folder or model type.
        config (`PretrainedConfig`): The configuration.
        dtype (`torch.dtype`): Dtype of the weights that are not quantised.
        quantisation (`BitsAndBytesConfig`, *optional*): How the other weights are stored.
    """

    name: str
    config: Any
    dtype: torch.dtype
    quantisation: BitsAndBytesConfig | None

    @property
    def precision(self) -> str:
        """Name of the precision in which weights are stored."""
        if self.quantisation is None:
            return str(self.dtype).removeprefix("torch.")
        return "4 bits" if self.quantisation.load_in_4bit else "8 bits"

    @property
    def image(self) -> tuple[int, int]:
        """Channels of the images that the base takes, and pixels along their side; 0 and 0 if it takes no images."""
        side = getattr(self.config, "image_size", None)
        if side is None or not hasattr(self.config, "num_channels"):
            return 0, 0
        return self.config.num_channels, side if isinstance(side, int) else max(side)

    def check_length(self, tokens: int) -> None:
        """Refuses more tokens than the base reads (`ValueError`)."""
        most = getattr(self.config, "max_position_embeddings", None)
        if most is not None and tokens > most:
            raise ValueError(
                f"`length` (for a language model plus `new_tokens`) asks for {tokens} tokens, but the base reads at "
                f"most {most}. Give a smaller one."
            )

    def on_meta(self, causal: bool, attention: str | None) -> Any:
        """The base on the meta device."""
        options = {"attn_implementation": attention} if attention is not None else {}
        auto = AutoModelForCausalLM if causal else AutoModel
        with torch.device("meta"):
            base = auto.from_config(copy.deepcopy(self.config), dtype=self.dtype, **options)
        if self.quantisation is not None:
            quantise(base, self.quantisation)
        return base


def read_base(model: Any, bits: int | BitsAndBytesConfig | None) -> BaseSource:
    """Reads the configuration and precision of a base from the arguments of `estimate_memory`.

    Raises:
        ValueError: when there is no configuration to read, or its quantisation method is unknown.
    """
    name, config = _configuration(model)
    stored = config.__dict__.pop("quantization_config", None)
    if bits is not None:
        dtype, quantisation = _precision_of(bits)
        return BaseSource(name, config, dtype, quantisation)
    if isinstance(stored, dict) and stored.get("quant_method") == "bitsandbytes":
        stored = BitsAndBytesConfig.from_dict(stored)
    if stored is not None and not isinstance(stored, BitsAndBytesConfig):
        method = stored.get("quant_method") if isinstance(stored, dict) else type(stored).__name__
        raise ValueError(f"`model` is quantised by {method!r}, which cannot be estimated; give `bits`.")
    dtype = model.dtype if isinstance(model, PreTrainedModel) else config.dtype
    return BaseSource(name, config, dtype or torch.float32, stored)


def _configuration(model: Any) -> tuple[str, Any]:
    if isinstance(model, PreTrainedModel | PretrainedConfig):
        config = copy.deepcopy(model.config if isinstance(model, PreTrainedModel) else model)
        return config.model_type, config
    if not isinstance(model, str | os.PathLike):
        raise ValueError(
            f"`model` must be a Hub id, a folder, a configuration or a model, not `{type(model).__name__}`."
        )
    try:
        return str(model), AutoConfig.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`model` is {str(model)!r}, whose configuration cannot be read. Give a folder with a `config.json` of "
            f"transformers, or the id of a model on the Hub. ({error})"
        ) from error


def _precision_of(bits: int | BitsAndBytesConfig) -> tuple[torch.dtype, BitsAndBytesConfig | None]:
    if isinstance(bits, BitsAndBytesConfig):
        return torch.bfloat16, bits
    if bits not in BITS:
        raise ValueError(f"`bits` is {bits!r}; choose one of {list(BITS)}, or give a `BitsAndBytesConfig`.")
    if bits == 4:
        compute = torch.bfloat16
        return compute, BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute
        )
    if bits == 8:
        return torch.bfloat16, BitsAndBytesConfig(load_in_8bit=True)
    return (torch.bfloat16 if bits == 16 else torch.float32), None
