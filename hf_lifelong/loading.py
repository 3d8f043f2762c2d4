"""Loads a lifelong adapter with its base and processor, from a folder or from the Hub, in one call."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import HTTPError as TransportError
from peft import PeftModel, prepare_model_for_kbit_training
from safetensors import SafetensorError
from transformers import AutoModel, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.integrations import is_deepspeed_zero3_enabled

from .adapter import DriftAdapterConfig, LoadedFrom
from .compat import find_adapter_config_file
from .hub import CONFIG, PullError, SavedAdapter, pull, quoting, reason_of
from .knowledge import ManifestError
from .objectives import Modality, modality_named
from .utils.files import DamagedFileError
from .utils.texts import without_panics


def load(
    adapter: SavedAdapter | str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
    dtype: torch.dtype | str | None = None,
    device_map: Any = None,
    load_in_4bit: bool = False,
    trainable: bool = False,
) -> tuple[PeftModel, Any]:
    """Loads a lifelong adapter, the base that it names, and its tokenizer or image processor.

    Adapter and tokenizer are checked before a base is fetched (see `hf_lifelong.hub.pull`). The base is read only as
    safetensors, and no code that comes with a base or a tokenizer is run.

    Args:
        adapter (`SavedAdapter`, `str` or `Path`): A folder, a repository on the Hub, or the result of
            `hf_lifelong.hub.pull`.
        revision (`str`, *optional*): Branch, tag or commit of the adapter's repository.
        token (`str`, *optional*): For private repositories.
        dtype (`torch.dtype` or `str`, *optional*): Dtype of the base. By default float32 on a CPU, and on a GPU the
            dtype that the adapter was trained with.
        device_map (*optional*): Device of the base, as in transformers; by default the GPU if there is one.
        load_in_4bit (`bool`): Whether the base is quantised to 4 bits (NF4) when it is loaded. A GPU then computes in
            bfloat16 instead of float32.
        trainable (`bool`): Whether the model can learn more tasks.

    Returns:
        The model, and its tokenizer or image processor: the one saved with the adapter, or else the base's.

    Raises:
        ValueError: as `hf_lifelong.hub.pull`; when `revision` is given for an adapter that is already pulled; or when
            adapter and base do not fit each other. Names the file or the field.
        PullError: when adapter, base or tokenizer cannot be fetched or read.
    """
    if isinstance(adapter, SavedAdapter) and revision is not None:
        raise ValueError(f"`revision` is {revision!r}, but `adapter` is already pulled. Give `revision` to `pull`.")
    saved = adapter if isinstance(adapter, SavedAdapter) else pull(adapter, revision=revision, token=token)
    config = _config(saved)
    options: dict[str, Any] = {"revision": config.revision, "token": token}
    processor = _processor(saved, options)
    on_gpu = _on_gpu(device_map)
    if dtype is None:
        dtype = saved.knowledge.base.get("dtype", "float32") if on_gpu else "float32"
    if device_map is None and on_gpu and not is_deepspeed_zero3_enabled():  # ZeRO-3 places the base itself
        device_map = {"": torch.cuda.current_device()}
    settings = {"dtype": dtype, "load_in_4bit": load_in_4bit, "trainable": trainable, "device_map": device_map}
    base = _base(saved, options, **settings)
    # Members that are not resident stay in the file. PEFT would otherwise load the whole file onto the GPU first.
    stays_on_disk = config.resident_groups is not None
    placement: dict[str, Any] = {"torch_device": "cpu", "low_cpu_mem_usage": True} if stays_on_disk else {}
    model = PeftModel.from_pretrained(base, str(saved.folder), config=config, is_trainable=trainable, **placement)
    return model, processor


def load_base(
    name: str,
    task_type: str | None,
    *,
    dtype: torch.dtype | str,
    load_in_4bit: bool = False,
    trainable: bool = False,
    **options: Any,
) -> Any:
    """Loads the base of an adapter: as a language model if `task_type` is `"CAUSAL_LM"`, otherwise without a head.

    Args:
        name (`str`): Id on the Hub or folder.
        task_type (`str`, *optional*): As in [`DriftAdapterConfig`].
        dtype, load_in_4bit, trainable: As in [`load`].
        options: For `from_pretrained`, such as `revision`, `token` and `device_map`.

    Raises:
        PullError: when it cannot be fetched or read.
    """
    kind = AutoModelForCausalLM if task_type == "CAUSAL_LM" else AutoModel
    if load_in_4bit:
        # Float32 products are slow on a GPU, and 4-bit weights do not need that precision.
        is_slow = _on_gpu(options.get("device_map")) and dtype in (torch.float32, "float32")
        compute = torch.bfloat16 if is_slow else dtype
        bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
        options = {**options, "quantization_config": bits}
    try:
        base = kind.from_pretrained(name, dtype=dtype, use_safetensors=True, trust_remote_code=False, **options)
    except (OSError, ValueError, SafetensorError, TransportError) as error:
        raise PullError(
            f"The base `{name}` was not loaded ({reason_of(error)[1]}). A relative folder is looked for from where "
            "the program runs: run it where the adapter was learned, or learn with the whole path."
        ) from error
    if load_in_4bit and trainable:  # the training arguments decide about checkpointing
        return prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    return base


def read_processor(folder: Path, modality: Modality) -> Any:
    """Reads the tokenizer or image processor in a folder; no code that comes with it is run.

    Raises:
        DamagedFileError: when the files do not make one.
    """
    try:
        with without_panics():
            return getattr(transformers, modality.auto_class).from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # `tokenizers` raises no narrower type for a file that it cannot read
        file = next((name for name in modality.files if (folder / name).is_file()), modality.files[0])
        reason = f"no {modality.processor_noun} can be made of it ({reason_of(error)[1]})"
        raise DamagedFileError(folder / file, reason) from error


def load_processor(base: str, modality: Modality, **options: Any) -> Any:
    """The tokenizer or image processor of a base; `options` are those of `from_pretrained`.

    Raises:
        PullError: when it cannot be fetched or read.
    """
    auto = getattr(transformers, modality.auto_class)
    try:
        with without_panics():
            return auto.from_pretrained(base, trust_remote_code=False, **options)
    except Exception as error:  # as in `read_processor`
        noun = modality.processor_noun
        raise PullError(f"The {noun} of the base `{base}` was not loaded ({reason_of(error)[1]}).") from error


def _on_gpu(device_map: Any) -> bool:
    return torch.cuda.is_available() if device_map is None else device_map not in ("cpu", {"": "cpu"})


def _config(saved: SavedAdapter) -> DriftAdapterConfig:
    try:
        config = DriftAdapterConfig.from_pretrained(str(saved.folder))
    except ValueError as error:
        raise quoting(saved.folder / CONFIG, error) from error
    # A saved adapter lists its layers in full, so the pattern is not needed; matching it might never end.
    config.exclude_modules = None
    if saved.repo_id is not None:
        config.loaded_from = LoadedFrom(saved.repo_id, str(saved.revision), str(saved.commit))
    return config


def _processor(saved: SavedAdapter, options: dict[str, Any]) -> Any:
    modality = modality_named(saved.knowledge.modality)
    if saved.sizes.keys() & set(modality.files):
        return read_processor(saved.folder, modality)
    return load_processor(saved.base, modality, **options)


def _base(saved: SavedAdapter, options: dict[str, Any], **settings: Any) -> Any:
    try:
        # transformers would also load an adapter in the base's place, of any method.
        is_adapter = find_adapter_config_file(saved.base, **options) is not None
    except (OSError, ValueError, TransportError) as error:
        raise PullError(f"The base `{saved.base}` was not loaded ({reason_of(error)[1]}).") from error
    if is_adapter:
        raise ManifestError(f"`base_model_name_or_path` is `{saved.base}`, which is an adapter, no base.")
    return load_base(saved.base, saved.config.get("task_type"), **options, **settings)
