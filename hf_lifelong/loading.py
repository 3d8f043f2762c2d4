"""Loading a lifelong adapter with its base and tokenizer, from a folder or from the Hub, in one call."""

from __future__ import annotations

import os
from typing import Any

import torch
from peft import PeftModel, prepare_model_for_kbit_training
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .adapter import DriftAdapterConfig
from .hub import SavedAdapter, pull


def load(
    adapter: SavedAdapter | str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: Any = None,
    load_in_4bit: bool = False,
    trainable: bool = False,
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Loads a lifelong adapter, the base that it names, and its tokenizer.

    The adapter is checked before anything else is fetched (see [`hub.pull`]). The base is read as safetensors, and no
    code that comes with a base or a tokenizer is run.

    Args:
        adapter (`SavedAdapter`, `str` or `Path`): What [`hub.pull`] returned, or what it takes: a folder or a
            repository on the Hub.
        revision (`str`, *optional*): Branch, tag or commit of the adapter's repository.
        token (`str`, *optional*): For private repositories.
        dtype (`torch.dtype` or `str`, *optional*): Of the base. By default float32 on a CPU, and on a GPU the dtype
            that the adapter was trained with.
        device_map (*optional*): Where the base is put, as in transformers; by default the GPU, where there is one.
        load_in_4bit (`bool`): Whether the base is quantised to 4 bits (NF4) as it is loaded.
        trainable (`bool`): Whether the model can go on learning.

    Returns:
        The model and its tokenizer: the one saved with the adapter, or else that of the base.

    Raises:
        ValueError: as [`hub.pull`], or when adapter and base do not fit each other; names the file or the field.
        OSError: when adapter, base or tokenizer cannot be fetched.
    """
    saved = adapter if isinstance(adapter, SavedAdapter) else pull(adapter, revision=revision, token=token)
    config = DriftAdapterConfig.from_pretrained(str(saved.folder))
    on_gpu = torch.cuda.is_available() if device_map is None else device_map not in ("cpu", {"": "cpu"})
    if dtype is None:
        dtype = saved.knowledge.base.get("dtype", "float32") if on_gpu else "float32"
    options: dict[str, Any] = {"revision": config.revision, "token": token}
    name = str(config.base_model_name_or_path)
    base = load_base(
        name,
        config.task_type,
        dtype=dtype,
        device_map={"": torch.cuda.current_device()} if device_map is None and on_gpu else device_map,
        load_in_4bit=load_in_4bit,
        trainable=trainable,
        **options,
    )
    model = PeftModel.from_pretrained(base, str(saved.folder), config=config, is_trainable=trainable)
    if saved.sizes.keys() & {"tokenizer.json", "tokenizer_config.json"}:
        tokenizer = AutoTokenizer.from_pretrained(str(saved.folder), trust_remote_code=False)
    else:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
    return model, tokenizer


def load_base(
    name: str,
    task_type: str | None,
    *,
    dtype: torch.dtype | str,
    load_in_4bit: bool = False,
    trainable: bool = False,
    **options: Any,
) -> PreTrainedModel:
    """Loads the base of an adapter: without head, or, where `task_type` is `"CAUSAL_LM"`, as a language model.

    Args:
        name (`str`): Id on the Hub or folder.
        task_type (`str`, *optional*): As in [`DriftAdapterConfig`].
        dtype, load_in_4bit, trainable: As in [`load`].
        options: For `from_pretrained`, such as `revision`, `token` and `device_map`.
    """
    kind = AutoModelForCausalLM if task_type == "CAUSAL_LM" else AutoModel
    quantised = {"quantization_config": _four_bits(dtype)} if load_in_4bit else {}
    base = kind.from_pretrained(
        name, dtype=dtype, use_safetensors=True, trust_remote_code=False, **quantised, **options
    )
    return prepare_model_for_kbit_training(base) if load_in_4bit and trainable else base


def _four_bits(dtype: torch.dtype | str) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
    )
