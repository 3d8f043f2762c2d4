"""`DriftModel`: injects lifelong adapters into a base model."""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ..knowledge import KnowledgeBase
from .architectures import layers_of, signature_depths, target_names, trunk_layers
from .bank import forget
from .config import DriftAdapterConfig
from .heads import Lifelong, knowledge_of
from .hooks import Conductor, LifelongOutput
from .layers import DriftLayer, DriftTunerLayer, Route
from .passes import predict

_FILE_PREFIX = "base_model.model."


class DriftModel(BaseTuner):
    """Adds a lifelong adapter to a model; made by `get_peft_model(model, DriftAdapterConfig(...))`."""

    prefix = "drift_"
    tuner_layer_cls = DriftTunerLayer
    target_module_mapping: dict[str, list[str]] = {}

    @property
    def knowledge(self) -> KnowledgeBase:
        """What the active adapter has learned."""
        return knowledge_of(self.model)

    def predict(self, batch: dict[str, Tensor], **options: Any) -> LifelongOutput:
        """Answers a batch without being told its tasks; see `hf_lifelong.predict`."""
        return predict(self.model, batch, **options)

    def forget(self, task: str) -> None:
        """Removes a task and everything that was learned from it; see `hf_lifelong.forget`."""
        forget(self.model, task)

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict) -> Any:
        return peft_config  # targets need the model, not its configuration: `_prepare_model` sets them

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        peft_config.target_modules = set(target_names(peft_config, model))

    def _pre_injection_hook(self, model: nn.Module, config: Any, adapter_name: str) -> None:
        root = getattr(model, "lifelong", None)
        self.route = root.route if root is not None else Route()
        found = describe_base(model)
        _, layers = layers_of(model)
        trunk = trunk_layers(config, len(layers))
        if config.knowledge is None:
            self._new_knowledge = KnowledgeBase(found, trunk, signature_depths(trunk))
        else:
            self._new_knowledge = KnowledgeBase.from_dict(config.knowledge)
            check_base(self._new_knowledge, found, trunk)
        if root is not None and (root.conductor.trunk, root.conductor.depths) != (trunk, self._new_knowledge.depths):
            raise ValueError(
                f"`trunk_depth` of adapter `{adapter_name}` gives a trunk of {trunk} layers, but this model has an "
                f"adapter with {root.conductor.trunk}; adapters of one model share the trunk."
            )

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer = target if isinstance(target, DriftLayer) else DriftLayer(target, self.route)
        base = layer.get_base_layer()
        fan_in, fan_out = (
            tuple(base.weight.shape) if isinstance(base, Conv1D) else (base.in_features, base.out_features)
        )
        members = self._new_knowledge.member_offsets[-1]
        layer.update_layer(adapter_name, peft_config, members, int(fan_in), int(fan_out))
        if layer is not target:
            layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)
            self._replace_module(parent, target_name, layer, target)

    def _post_injection_hook(self, model: nn.Module, config: Any, adapter_name: str) -> None:
        if not hasattr(model, "lifelong"):
            hidden = int(model.config.hidden_size)  # type: ignore[union-attr,arg-type]
            knowledge = self._new_knowledge
            root = Lifelong(self.route, hidden, min(len(knowledge.depths) * hidden, config.signature_size))
            model.lifelong = root
            root.conductor = Conductor(model, root, knowledge.trunk, knowledge.depths)
        root = model.lifelong  # type: ignore[assignment]
        device = next(p.device for p in model.parameters())
        root.update_layer(adapter_name, config, self._new_knowledge, device)
        root.set_adapter(self.active_adapters, inference_mode=config.inference_mode)
        for module in model.modules():
            if isinstance(module, DriftTunerLayer):
                module.freeze(adapter_name)
        root.train(model.training)

    def unload(self) -> nn.Module:
        """The base model as it was: no adapter, no hooks."""
        model = super().unload()
        model.lifelong.conductor.remove()  # type: ignore[union-attr]
        del model.lifelong
        return model

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        check_tensors(model, adapter_name, state_dict)
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)


def describe_base(model: nn.Module) -> dict[str, Any]:
    """What a manifest records of the base model, to notice another one at load."""
    config: Any = model.config
    weight = model.get_input_embeddings().weight  # type: ignore[operator]
    return {
        "model_type": config.model_type,
        "hidden_size": int(config.hidden_size),
        "layers": len(layers_of(model)[1]),
        "fingerprint": fingerprint(model),
        "dtype": str(weight.dtype).removeprefix("torch."),
    }


def fingerprint(model: nn.Module) -> str | None:
    """Hash of a sample of the base model's embeddings, norms and biases, which no quantisation touches.

    Values are rounded to bf16 first, so that a base loaded in another dtype keeps its fingerprint. `None` on the meta
    device.
    """
    digest = hashlib.sha256()
    embedding = model.get_input_embeddings().weight  # type: ignore[operator]
    adapter = {id(p) for m in model.modules() if isinstance(m, DriftTunerLayer) for p in m.parameters(recurse=False)}
    for name, parameter in model.named_parameters():
        if (parameter.dim() != 1 and parameter is not embedding) or "drift_" in name or id(parameter) in adapter:
            continue
        if parameter.device.type == "meta":
            return None
        flat = parameter.detach().flatten()
        sample = flat[:: max(1, len(flat) // 64)].to("cpu", torch.bfloat16).contiguous()
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


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
    for key, what in (("fingerprint", "other weights"), ("dtype", "another dtype")):
        if found[key] is not None and knowledge.base.get(key) not in (None, found[key]):
            warnings.warn(
                f"The base model has {what} than the one this adapter was trained on (`{key}` {found[key]}, trained on "
                f"{knowledge.base[key]}): answers may differ.",
                stacklevel=2,
            )


def expected_shapes(model: nn.Module, adapter_name: str) -> dict[str, tuple[int, ...]]:
    """Names in an adapter file → shapes that the manifest asks for; -1 where any size is right."""
    shapes = {}
    for name, module in model.named_modules():
        if isinstance(module, DriftTunerLayer):
            for container in module.tensors:
                shape = tuple(getattr(module, container)[adapter_name].shape)
                if isinstance(module, Lifelong) and container in module.adapter_layer_names:
                    shape = (-1, *shape[1:])
                key = f"{name}.{container}".removeprefix(_FILE_PREFIX)
                shapes[key] = _by_manifest(module, container, adapter_name, shape, model)
    return shapes


def _by_manifest(
    module: DriftTunerLayer, container: str, adapter_name: str, shape: tuple[int, ...], model: nn.Module
) -> tuple[int, ...]:
    root = module if isinstance(module, Lifelong) else _root(model)
    knowledge = root.knowledge[adapter_name]
    if container.startswith("drift_bank_head"):
        return (knowledge.head_offsets[-1], *shape[1:])
    if container.startswith("drift_bank"):
        return (knowledge.member_offsets[-1], *shape[1:])
    if container.startswith("drift_signature"):
        return (len(knowledge.tasks), *shape[1:])
    return shape


def _root(model: nn.Module) -> Lifelong:
    return next(module for module in model.modules() if isinstance(module, Lifelong))


def check_tensors(model: nn.Module, adapter_name: str, state_dict: dict[str, Tensor]) -> None:
    """Checks an adapter file against the manifest before any of it is used.

    Raises:
        ValueError: names the first tensor that is missing, surplus, of another shape or dtype, or not finite.
    """
    expected = expected_shapes(model, adapter_name)
    found = {key.removeprefix(_FILE_PREFIX): value for key, value in state_dict.items()}
    what = "The adapter's `adapter_model.safetensors` does not fit its `adapter_config.json`"
    mend = "Restore both files from one save."
    missing, surplus = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or surplus:
        raise ValueError(
            f"{what}: {len(missing)} tensors are missing (first: {missing[:1]}), {len(surplus)} are surplus "
            f"(first: {surplus[:1]}). {mend}"
        )
    for key, shape in expected.items():
        tensor = found[key]
        if len(shape) != tensor.dim() or any(e not in (-1, f) for e, f in zip(shape, tensor.shape, strict=True)):
            raise ValueError(f"{what}: `{key}` has shape {tuple(tensor.shape)}, the manifest asks for {shape}. {mend}")
        if tensor.dtype != torch.float32:
            raise ValueError(f"{what}: `{key}` is {tensor.dtype}, it must be float32. {mend}")
        if ("signature" in key or "head" in key) and not torch.isfinite(tensor).all():
            raise ValueError(f"{what}: `{key}` holds NaN or infinite values. {mend}")
