"""Checks before an adapter is used: of the base model, the file, and the tensors in memory."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..compat import keeps_cache
from ..knowledge import KnowledgeBase, checksum
from ..objectives import TEXT
from ..storage import (
    PREFIX,
    ROOT,
    STATISTICS,
    TENSORS,
    LayoutError,
    check_layout,
    check_statistics,
    check_values,
    layer_of,
    sizes_of,
    spec_of,
)
from ..utils.digests import TensorDigest
from .architectures import input_embeddings, is_causal, layers_of, modality_of
from .heads import lifelong_of
from .layers import Bank, DriftTunerLayer, MemberKind
from .sharding import gathered, is_whole


def describe_base(model: Any) -> dict[str, Any]:
    """The manifest's record of the base model, which reveals a different base at load."""
    config, layers = model.config, layers_of(model)[1]
    return {
        "model_type": config.model_type,
        "hidden_size": int(config.hidden_size),
        "layers": len(layers),
        "fingerprint": fingerprint(model),
        "dtype": dtype_of(model),
        # Of a text base left out: every manifest of earlier versions is of one.
        **({} if modality_of(model) is TEXT else {"modality": modality_of(model).name}),
    }


def dtype_of(model: Any) -> str:
    """Name of a base model's dtype in a manifest."""
    dtype = input_embeddings(model).dtype
    if getattr(model, "is_quantized", False) and model.config.dtype is not None:
        # Preparation for training casts weights that are not quantised to float32. The next load is in this dtype.
        dtype = model.config.dtype
    return str(dtype).removeprefix("torch.")


def fingerprint(model: Any) -> str | None:
    """Hash of a sample of the base model's embeddings, norms and biases, which no quantisation touches.

    Values are rounded to bf16 first, so bf16 and float32 give the same fingerprint (float16 does not, because it
    rounds small values differently). `None` on the meta device.
    """
    digest = hashlib.sha256()
    embedding = input_embeddings(model)
    for name, parameter in model.named_parameters():
        shape = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO-3 leaves empty tensors for sharded parameters
        if (len(shape) != 1 and parameter is not embedding) or "drift_" in name:
            continue
        if parameter.device.type == "meta":
            return None
        with gathered([parameter]):  # one at a time: all of them may not fit on a device
            flat = parameter.detach().flatten()
            sample = flat[:: max(1, len(flat) // 64)].to("cpu", torch.bfloat16).contiguous()
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def check_task_type(config: Any, model: Any) -> None:
    """Refuses a base that does not match `task_type`.

    Raises:
        ValueError: says how to load the base, or what to configure.
    """
    if is_causal(model) and config.task_type != "CAUSAL_LM":
        raise ValueError(
            f"`task_type` is {config.task_type!r}, but `{type(model).__name__}` is a causal language model; give "
            '`DriftAdapterConfig(task_type="CAUSAL_LM")`, or load the base with `AutoModel` for tasks with heads.'
        )
    if is_causal(model) and not keeps_cache(model):
        raise ValueError(
            f"`{type(model).__name__}` keeps no cache of keys and values, which carries the group of an answer from "
            "token to token; state-space models are not supported. Give a base with such a cache."
        )
    if not is_causal(model) and config.task_type == "CAUSAL_LM":
        raise ValueError(
            f'`task_type` is "CAUSAL_LM", but `{type(model).__name__}` is no causal language model; load the base '
            "with `AutoModelForCausalLM`, or leave `task_type` out."
        )


def check_quantised(model: nn.Module) -> None:
    """Refuses 4-bit layers that bitsandbytes cannot run on a CPU.

    Raises:
        ValueError: names the first layer.
    """
    module: Any
    for name, module in model.named_modules():
        on_cpu = type(module).__name__ == "Linear4bit" and module.weight.device.type == "cpu"
        if on_cpu and module.out_features % 32:
            raise ValueError(
                f"`{name}` has {module.out_features} outputs, but on a CPU bitsandbytes needs a multiple of 32 in 4 "
                "bits; name it in `llm_int8_skip_modules` of `BitsAndBytesConfig`, use 8 bits, or a GPU."
            )


def check_base(knowledge: KnowledgeBase, base: dict[str, Any], trunk: int) -> None:
    """Compares a base with the one in the manifest. Warns if weights or dtype differ.

    Args:
        base (`dict`): The base as `describe_base` describes it.
        trunk (`int`): Number of its trunk layers.

    Raises:
        ValueError: when architecture, width, depth or trunk differ.
    """
    for key in ("model_type", "hidden_size", "layers", "modality"):
        if knowledge.base.get(key) != base.get(key):
            raise ValueError(
                f"This adapter was trained on a base with `{key}` {knowledge.base.get(key)!r}, but the model given "
                f"has {base.get(key)!r}. Load the base that `base_model_name_or_path` names."
            )
    if knowledge.trunk != trunk:
        raise ValueError(
            f"The manifest states a trunk of {knowledge.trunk} layers, `trunk_depth` gives {trunk}; the adapter's "
            "`adapter_config.json` was changed after training. Restore it."
        )
    dtypes = {knowledge.base.get("dtype"), base["dtype"]}
    for key, what in (("dtype", "another dtype"), ("fingerprint", "other weights")):
        if key == "fingerprint" and len(dtypes) > 1 and "float16" in dtypes:
            continue
        if base[key] is not None and knowledge.base.get(key) not in (None, base[key]):
            warnings.warn(
                f"The base model has {what} than the one this adapter was trained on (`{key}` is {base[key]}, in "
                f"training it was {knowledge.base[key]}): answers may differ.",
                stacklevel=2,
            )


def with_checksum(knowledge: KnowledgeBase, hidden_size: int, most: int) -> KnowledgeBase:
    """The manifest with the checksum of its projection to `most` features; unchanged if features are not projected.

    Raises:
        ValueError: when the manifest has a different checksum.
    """
    wide, constants = knowledge.pooled_width(hidden_size), knowledge.constants
    if wide <= most:
        return knowledge
    actual = checksum(constants.projection, wide, most)
    if constants.checksum not in (None, actual):
        raise ValueError(
            f"The projection of features of this adapter has the checksum {constants.checksum!r:.60}, but the rule "
            f"`{constants.projection}` gives {actual!r} here, so answers would differ. Restore its "
            "`adapter_config.json`, or use the version of PyTorch that it was made with."
        )
    return replace(knowledge, constants=replace(constants, checksum=actual))


def check_name(adapter_name: str, model: nn.Module) -> None:
    """Refuses names that PyTorch cannot store tensors under, or that PEFT would mistake for a module of the model.

    Raises:
        ValueError: asks for another name.
    """
    if adapter_name in getattr(getattr(model, "lifelong", None), "knowledge", {}):
        raise ValueError(
            f"The base has a lifelong adapter `{adapter_name}` already, as after `get_peft_model` was called on it "
            "before. Load the base anew, or take that adapter off with `unload()`."
        )
    module_names = {segment for name, _ in model.named_modules() for segment in name.split(".")}
    containers = (Bank(), nn.ModuleDict())
    if (
        "." in adapter_name
        or adapter_name in module_names | {*PREFIX.split("."), ROOT, *(spec.name for spec in TENSORS)}
        or any(hasattr(container, adapter_name) for container in containers)
    ):
        raise ValueError(
            f"`adapter_name` is {adapter_name!r}, which has a dot or is the name of a module of the model or of an "
            "attribute of PyTorch's containers. Give another one, such as `default`."
        )


def check_usable(model: nn.Module, adapter_name: str) -> None:
    """Refuses an adapter without values, with rounded members, or with damaged tensors that were not checked before.

    Raises:
        ValueError: says how to load it.
    """
    check_precision(model, adapter_name)
    tensors = _stacks(model, adapter_name) or _tensors_of(model, adapter_name)
    if all(tensor.is_meta for tensor in tensors.values()):
        raise ValueError(
            f"Adapter `{adapter_name}` has no values, because no file was loaded into it. Load the folder of an "
            f"adapter (`load_adapter(folder, {adapter_name!r})`); for a new one, leave out `low_cpu_mem_usage`, and "
            "`knowledge` in its configuration."
        )
    check_unchecked(model, adapter_name)


def check_unchecked(model: nn.Module, adapter_name: str) -> None:
    """Runs `check_held` once on tensors that were loaded without a check, before they answer, change or are saved."""
    root, tensors = lifelong_of(model), _tensors_of(model, adapter_name)
    if adapter_name in root.unchecked and all(map(is_whole, tensors.values())):
        check_held(model, adapter_name)
        root.unchecked.discard(adapter_name)


def check_precision(model: nn.Module, adapter_name: str) -> None:
    """Refuses an adapter whose members were rounded. Casting a model does not round them, but casting each parameter
    does, as PEFT's `cast_mixed_precision_params`.

    Raises:
        ValueError: says how to restore them.
    """
    for name, tensor in _stacks(model, adapter_name).items():
        spec = spec_of(name)
        if spec is not None and tensor.dtype != spec.torch_dtype:
            raise ValueError(
                f"What adapter `{adapter_name}` has learned was cast to {tensor.dtype}, which changes its answers. "
                "Load it again, onto a base of that dtype (`from_pretrained(..., dtype=...)`), or cast the whole "
                "model with `model.to(...)`, which leaves adapters as they are."
            )


def _stacks(model: nn.Module, adapter_name: str) -> dict[str, Tensor]:
    """The stacks of an adapter's learned tensors; empty before its first task."""
    stacks = {}
    for name, tensor in _tensors_of(model, adapter_name).items():
        spec = spec_of(name)
        if spec is not None and spec.per is not None and tensor.numel():
            stacks[name] = tensor
    return stacks


def _tensors_of(model: nn.Module, adapter_name: str) -> dict[str, Tensor]:
    """The tensors of an adapter, named as in its file without `PREFIX`."""
    return {
        f"{name.removeprefix(PREFIX)}.{container}": tensor
        for name, module in _modules_of(model, adapter_name)
        for container, tensor in module.held(adapter_name).items()
    }


def _modules_of(model: nn.Module, adapter_name: str) -> Iterator[tuple[str, DriftTunerLayer]]:
    for name, module in model.named_modules():
        if isinstance(module, DriftTunerLayer) and module.holds(adapter_name):
            yield name, module


def check_tensors(
    model: nn.Module, adapter_name: str, state_dict: Mapping[str, Tensor], digest: str | None = None
) -> None:
    """Checks an adapter file against the manifest before any of it is used.

    Args:
        digest (`str`, *optional*): The digest that `digest_of` must give for the tensors; unknown for older files.

    Raises:
        ValueError: names the first tensor that is missing, surplus, of the wrong shape or dtype, or with impossible
            values; or says that the digest differs.
    """
    root = lifelong_of(model)
    # From the manifest, not from memory: the model may have fewer members than the file.
    sizes = {**root.settled(adapter_name), **sizes_of(root.knowledge[adapter_name])}
    layers = {
        name.removeprefix(PREFIX): module.sizes
        for name, module in _modules_of(model, adapter_name)
        if isinstance(module, MemberKind)
    }
    tensors = {key.removeprefix(PREFIX): value for key, value in state_dict.items()}
    layouts = {name: (str(t.dtype).removeprefix("torch."), tuple(t.shape)) for name, t in tensors.items()}
    actual = TensorDigest()
    try:
        check_layout(layouts, sizes, layers, layer_of(root.config[adapter_name].r))
        for name, tensor in sorted(tensors.items()):
            if tensor.device.type == "meta":
                raise LayoutError(f"the file gave no `{name}`")
            for chunk in actual.parts(name, tensor):
                check_values(name, chunk)
            if spec_of(name) is STATISTICS:
                check_statistics(tensor, root.knowledge[adapter_name])
    except LayoutError as error:
        raise _misfit(str(error)) from error
    if digest is not None and digest != actual.hexdigest():
        raise _misfit("its tensors are not those that were saved with it: they were damaged, or are of another save")


def check_held(model: nn.Module, adapter_name: str) -> None:
    """Runs `check_tensors` on the tensors in a model. The loader of transformers fills tensors without calling the
    tuner, and only logs tensors that are missing in a file.

    Raises:
        ValueError: as `check_tensors`.
    """
    digest = lifelong_of(model).digests.pop(adapter_name, None)
    check_tensors(model, adapter_name, _tensors_of(model, adapter_name), digest)


def check_tasks_of(model: nn.Module, adapter_name: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuses tensors of tasks that an adapter does not know, for tensors that come without a manifest.

    PEFT reads no configuration for an adapter that the model already has, and a state dict has no configuration.

    Args:
        tensors (`dict[str, Tensor]`): Some or all tensors of an adapter, named as in a file without `PREFIX`.

    Raises:
        ValueError: names the first such tensor, and what to load instead.
    """
    knowledge = lifelong_of(model).knowledge[adapter_name]
    stated = sizes_of(knowledge)
    for name, tensor in tensors.items():
        spec = spec_of(name)
        for symbol, size in zip(() if spec is None else spec.symbols, tensor.shape, strict=False):
            if stated.get(symbol, size) != size:
                tasks = ", ".join(f"`{task}`" for task in knowledge.names) or "no task"
                raise ValueError(
                    f"Adapter `{adapter_name}` of this model knows {tasks}, but these tensors are of other tasks: "
                    f"`{name}` has {size} {symbol}, not {stated[symbol]}. They come without their manifest, so load "
                    "the folder that they were saved in: `PeftModel.from_pretrained(base, folder)`, or beside this "
                    'adapter `load_adapter(folder, "other")` and `set_adapter("other")`.'
                )


def check_state_dict(base: nn.Module, state_dict: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Load hook of the base model that runs `check_tasks_of`."""
    root = lifelong_of(base)
    for adapter_name in root.knowledge.keys() - root.checked_files:
        keys = {name: f"{prefix}{name}.{adapter_name}" for name in _tensors_of(base, adapter_name)}
        tensors = {name: state_dict[key] for name, key in keys.items() if key in state_dict}
        check_tasks_of(base, adapter_name, tensors)


def _misfit(reason: str) -> ValueError:
    return ValueError(
        f"The adapter's `adapter_model.safetensors` does not fit its `adapter_config.json`: {reason}. Restore both "
        "files from one save."
    )
