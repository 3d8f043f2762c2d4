"""What is checked before an adapter is used: the base model, the file, and what is held in memory."""

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
from ..storage import (
    PREFIX,
    ROOT,
    STATISTICS,
    TENSORS,
    LayoutError,
    check_layout,
    check_statistics,
    check_values,
    sizes_of,
    spec_of,
)
from ..utils.digests import TensorDigest
from .architectures import is_causal, layers_of
from .heads import lifelong_of
from .layers import Bank, DriftLayer, DriftTunerLayer
from .sharding import gathered, is_whole


def describe_base(model: Any) -> dict[str, Any]:
    """What a manifest records of the base model, to notice another one at load."""
    config = model.config
    return {
        "model_type": config.model_type,
        "hidden_size": int(config.hidden_size),
        "layers": len(layers_of(model)[1]),
        "fingerprint": fingerprint(model),
        "dtype": dtype_of(model),
    }


def dtype_of(model: Any) -> str:
    """The dtype of a base model, as a manifest names it."""
    dtype = model.get_input_embeddings().weight.dtype
    if getattr(model, "is_quantized", False) and model.config.dtype is not None:
        # Preparing it for training casts what is not quantised to float32; it is loaded again in its own dtype.
        dtype = model.config.dtype
    return str(dtype).removeprefix("torch.")


def fingerprint(model: Any) -> str | None:
    """Hash of a sample of the base model's embeddings, norms and biases, which no quantisation touches.

    Values are rounded to bf16 first, so that a base keeps its fingerprint in bf16 and float32 (not in float16, which
    rounds small values otherwise). `None` on the meta device.
    """
    digest = hashlib.sha256()
    embedding = model.get_input_embeddings().weight
    for name, parameter in model.named_parameters():
        shape = getattr(parameter, "ds_shape", parameter.shape)  # ZeRO-3 leaves an empty tensor of what it shares out
        if (len(shape) != 1 and parameter is not embedding) or "drift_" in name:
            continue
        if parameter.device.type == "meta":
            return None
        with gathered([parameter]):  # one at a time: together they may be more than a device holds
            flat = parameter.detach().flatten()
            sample = flat[:: max(1, len(flat) // 64)].to("cpu", torch.bfloat16).contiguous()
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def check_task_type(config: Any, model: Any) -> None:
    """Refuses a base that is not of the sort that `task_type` says.

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
            f"`{type(model).__name__}` keeps no cache of keys and values, so the group of an answer could not be kept "
            "from token to token; state-space models are not supported."
        )
    if not is_causal(model) and config.task_type == "CAUSAL_LM":
        raise ValueError(
            f'`task_type` is "CAUSAL_LM", but `{type(model).__name__}` is no causal language model; load the base '
            "with `AutoModelForCausalLM`, or leave `task_type` out."
        )


def check_quantised(model: nn.Module) -> None:
    """Refuses 4-bit layers that bitsandbytes cannot answer with on a CPU.

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


def check_base(knowledge: KnowledgeBase, found: dict[str, Any], trunk: int) -> None:
    """Refuses a base of another shape, and warns of other weights or another dtype.

    Raises:
        ValueError: when architecture, width, depth or trunk differ.
    """
    for key in ("model_type", "hidden_size", "layers"):
        if knowledge.base.get(key) != found[key]:
            raise ValueError(
                f"This adapter was trained on a base with `{key}` {knowledge.base.get(key)!r}, but the model given "
                f"has {found[key]!r}. Load the base that `base_model_name_or_path` names."
            )
    if knowledge.trunk != trunk:
        raise ValueError(
            f"The manifest states a trunk of {knowledge.trunk} layers, `trunk_depth` gives {trunk}; the adapter's "
            "`adapter_config.json` was changed after training. Restore it."
        )
    dtypes = {knowledge.base.get("dtype"), found["dtype"]}
    for key, what in (("dtype", "another dtype"), ("fingerprint", "other weights")):
        if key == "fingerprint" and len(dtypes) > 1 and "float16" in dtypes:
            continue
        if found[key] is not None and knowledge.base.get(key) not in (None, found[key]):
            warnings.warn(
                f"The base model has {what} than the one this adapter was trained on (`{key}` is {found[key]}, in "
                f"training it was {knowledge.base[key]}): answers may differ.",
                stacklevel=2,
            )


def with_checksum(knowledge: KnowledgeBase, hidden_size: int, most: int) -> KnowledgeBase:
    """A manifest that states the checksum of the projection to at most `most` features, where they are projected.

    Raises:
        ValueError: when it states another one.
    """
    wide, constants = knowledge.pooled_width(hidden_size), knowledge.constants
    if wide <= most:
        return knowledge
    made = checksum(constants.projection, wide, most)
    if constants.checksum not in (None, made):
        raise ValueError(
            f"The projection of features of this adapter has the checksum {constants.checksum!r:.60}, but the rule "
            f"`{constants.projection}` gives {made!r} here, so that answers would differ. Restore its "
            "`adapter_config.json`, or use the version of PyTorch that it was made with."
        )
    return replace(knowledge, constants=replace(constants, checksum=made))


def check_name(adapter_name: str, model: nn.Module) -> None:
    """Refuses names under which no tensor can be held, or which PEFT would mistake for a part of the model.

    Raises:
        ValueError: asks for another name.
    """
    parts = {part for name, _ in model.named_modules() for part in name.split(".")}
    containers = (Bank(), nn.ModuleDict())
    if (
        "." in adapter_name
        or adapter_name in parts | {*PREFIX.split("."), ROOT, *(spec.name for spec in TENSORS)}
        or any(hasattr(container, adapter_name) for container in containers)
    ):
        raise ValueError(
            f"`adapter_name` is {adapter_name!r}; it has a dot, or is also the name of a part of the model or of what "
            "PyTorch keeps tensors in. Give another one, such as `default`."
        )


def check_usable(model: nn.Module, adapter_name: str) -> None:
    """Refuses an adapter without values, one whose members were rounded, and one that came in unchecked and is
    damaged.

    Raises:
        ValueError: says how to load it.
    """
    check_precision(model, adapter_name)
    held = _stacks(model, adapter_name) or _held(model, adapter_name)
    if all(tensor.is_meta for tensor in held.values()):
        raise ValueError(
            f"Adapter `{adapter_name}` has no values, because no file was loaded into it. Load the folder of an "
            f"adapter (`load_adapter(folder, {adapter_name!r})`); for a new one, leave out `low_cpu_mem_usage`, and "
            "`knowledge` in its configuration."
        )
    check_unchecked(model, adapter_name)


def check_unchecked(model: nn.Module, adapter_name: str) -> None:
    """`check_held` for tensors that came into a model unchecked, once: before they answer, are changed or saved."""
    root, held = lifelong_of(model), _held(model, adapter_name)
    if adapter_name in root.unchecked and all(map(is_whole, held.values())):
        check_held(model, adapter_name)
        root.unchecked.discard(adapter_name)


def check_precision(model: nn.Module, adapter_name: str) -> None:
    """Refuses an adapter whose members were rounded. No cast of a model does that, but one of each parameter by
    itself, such as PEFT's `cast_mixed_precision_params`.

    Raises:
        ValueError: says how to get them back.
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
    """All that an adapter has learned; nothing before its first task."""
    found = {}
    for name, tensor in _held(model, adapter_name).items():
        spec = spec_of(name)
        if spec is not None and spec.per is not None and tensor.numel():
            found[name] = tensor
    return found


def _held(model: nn.Module, adapter_name: str) -> dict[str, Tensor]:
    """The tensors of an adapter, named as in its file without `PREFIX`."""
    return {
        f"{name.removeprefix(PREFIX)}.{container}": tensor
        for name, module in _holding(model, adapter_name)
        for container, tensor in module.held(adapter_name).items()
    }


def _holding(model: nn.Module, adapter_name: str) -> Iterator[tuple[str, DriftTunerLayer]]:
    for name, module in model.named_modules():
        if isinstance(module, DriftTunerLayer) and module.holds(adapter_name):
            yield name, module


def check_tensors(
    model: nn.Module, adapter_name: str, state_dict: Mapping[str, Tensor], digest: str | None = None
) -> None:
    """Checks an adapter file against the manifest before any of it is used.

    Args:
        digest (`str`, *optional*): What `digest_of` must give of the tensors; of older files nobody knows it.

    Raises:
        ValueError: names the first tensor that is missing, surplus, of another shape or dtype, or with values that it
            cannot have; or says that the digest is another one.
    """
    root = lifelong_of(model)
    # From the manifest, not from memory: a model may hold fewer members than the file that it is to load.
    known = {**root.settled(adapter_name), **sizes_of(root.knowledge[adapter_name])}
    layers = {
        name.removeprefix(PREFIX): module.sizes
        for name, module in _holding(model, adapter_name)
        if isinstance(module, DriftLayer)
    }
    found = {key.removeprefix(PREFIX): value for key, value in state_dict.items()}
    shapes = {name: (str(held.dtype).removeprefix("torch."), tuple(held.shape)) for name, held in found.items()}
    taken = TensorDigest()
    try:
        check_layout(shapes, known, layers)
        for name, tensor in sorted(found.items()):
            if tensor.device.type == "meta":
                raise LayoutError(f"the file gave no `{name}`")
            for part in taken.parts(name, tensor):
                check_values(name, part)
            if spec_of(name) is STATISTICS:
                check_statistics(tensor, root.knowledge[adapter_name])
    except LayoutError as error:
        raise _misfit(str(error)) from error
    if digest is not None and digest != taken.hexdigest():
        raise _misfit("its tensors are not those that were saved with it: they were damaged, or are of another save")


def check_held(model: nn.Module, adapter_name: str) -> None:
    """`check_tensors` for what a model holds: transformers' own loader fills tensors without asking the tuner, and
    only logs those that a file lacks.

    Raises:
        ValueError: as `check_tensors`.
    """
    digest = lifelong_of(model).digests.pop(adapter_name, None)
    check_tensors(model, adapter_name, _held(model, adapter_name), digest)


def check_tasks_of(model: nn.Module, adapter_name: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuses tensors of other tasks than those that an adapter knows, where they come without a manifest of their
    own: PEFT reads no configuration for an adapter that a model has already, and a state dict has none.

    Args:
        tensors (`dict[str, Tensor]`): Named as in a file without `PREFIX`; some of an adapter are enough.

    Raises:
        ValueError: names the first such tensor, and what can be loaded instead.
    """
    knowledge = lifelong_of(model).knowledge[adapter_name]
    stated = sizes_of(knowledge)
    for name, tensor in tensors.items():
        spec = spec_of(name)
        for size, found in zip(() if spec is None else spec.symbols, tensor.shape, strict=False):
            if stated.get(size, found) != found:
                known = ", ".join(f"`{task}`" for task in knowledge.names) or "no task"
                raise ValueError(
                    f"Adapter `{adapter_name}` of this model knows {known}, and these tensors are of other tasks: "
                    f"`{name}` has {found} {size}, not {stated[size]}. They come without the manifest that names "
                    "theirs, so load the folder that they were saved in: `PeftModel.from_pretrained(base, folder)`, "
                    'or beside this adapter `load_adapter(folder, "other")` and `set_adapter("other")`.'
                )


def check_state_dict(base: nn.Module, state_dict: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """`check_tasks_of`, as a load hook of the base model."""
    root = lifelong_of(base)
    for adapter_name in root.knowledge.keys() - root.checked_files:
        names = {name: f"{prefix}{name}.{adapter_name}" for name in _held(base, adapter_name)}
        given = {name: state_dict[key] for name, key in names.items() if key in state_dict}
        check_tasks_of(base, adapter_name, given)


def _misfit(reason: str) -> ValueError:
    return ValueError(
        f"The adapter's `adapter_model.safetensors` does not fit its `adapter_config.json`: {reason}. Restore both "
        "files from one save."
    )
