"""`DriftModel`: injects lifelong adapters into a base model."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from ..knowledge import KnowledgeBase
from ..storage import PREFIX, check_tasks, layer_of, sizes_of, spec_of
from ..utils.digests import digest_of
from .architectures import depths_of, is_causal, pooling_of, settle_trunk, target_names
from .bank import forget
from .checks import (
    check_base,
    check_name,
    check_quantised,
    check_state_dict,
    check_task_type,
    check_tasks_of,
    check_tensors,
    check_usable,
    describe_base,
    with_checksum,
)
from .export_report import ExportReport
from .exporting import export
from .forward.answer import LifelongOutput
from .forward.causal import CausalConductor
from .forward.context import Context
from .forward.encoder import HeadConductor
from .forward.predict import predict
from .heads import Lifelong, knowledge_of, lifelong_of
from .layers import DriftTunerLayer, MemberKind
from .members import MEMBER_KINDS
from .sharding import is_whole


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

    def export(self, group: int | str, folder: str | os.PathLike[str], **options: Any) -> ExportReport:
        """Writes a group as an ordinary LoRA folder; see `hf_lifelong.export`."""
        return export(self.model, group, folder, **options)

    def forget(self, task: str) -> None:
        """Removes a task and everything that was learned from it; see `hf_lifelong.forget`."""
        forget(self.model, task)

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict) -> Any:
        return peft_config  # targets need the model, not its configuration: `_prepare_model` sets them

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        peft_config.target_modules = set(target_names(peft_config, model))

    def inject_adapter(self, model: Any, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        # Not PEFT's injection hooks: it calls them for the first adapter of a model only.
        check_name(adapter_name, model)
        # Copied, because settings and what is learned are written into it, and the caller may use the object again.
        config = self.peft_config[adapter_name] = copy.copy(self.peft_config[adapter_name])
        self._read_manifest(model, config, adapter_name)
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        self._add_root(model, config, adapter_name)

    def _read_manifest(self, model: Any, config: Any, adapter_name: str) -> None:
        root = getattr(model, "lifelong", None)
        self.context = root.context if root is not None else Context()
        check_task_type(config, model)
        check_quantised(model)
        base = describe_base(model)
        trunk = settle_trunk(config, model)
        if config.knowledge is None:
            self._new_knowledge = KnowledgeBase(base, trunk, depths_of(model, trunk), pooling=pooling_of(model, trunk))
        else:
            self._new_knowledge = KnowledgeBase.from_dict(config.knowledge)
            check_tasks(self._new_knowledge, config.task_type)
            check_base(self._new_knowledge, base, trunk)
        self._new_knowledge = with_checksum(self._new_knowledge, base["hidden_size"], config.signature_size)
        if root is None:
            return
        features = _features(self._new_knowledge, root.hidden_size, config)
        conductor = root.conductor
        if (trunk, features) != (conductor.trunk, root.features):
            raise ValueError(
                f"`trunk_depth` and `signature_size` of adapter `{adapter_name}` give a trunk of {trunk} layers and "
                f"{features} signature features, but this model has an adapter with {conductor.trunk} and "
                f"{root.features}; adapters of one model share both."
            )
        if (self._new_knowledge.depths, self._new_knowledge.pooling) != (conductor.depths, conductor.pooling):
            raise ValueError(
                f"The signatures of adapter `{adapter_name}` and of the one that this model has are made of different "
                "hidden states, as adapters of different versions can be. Load each on a model of its own."
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
        kind = MEMBER_KINDS[layer_of(peft_config.r)]
        layer = target if isinstance(target, MemberKind) else kind(target, self.context)
        if not isinstance(layer, kind):
            raise ValueError(
                f"`r` of adapter `{adapter_name}` is {peft_config.r!r}, but this model has an adapter whose members "
                'are kept otherwise; the adapters of one model all have ranks, or all `r="full"`.'
            )
        if layer is not target:
            # Before it has tensors: PEFT moves 8-bit layers, and a bank without memory cannot be moved.
            self._replace_module(parent, target_name, layer, target)
        layer.update_layer(adapter_name, peft_config, sizes_of(self._new_knowledge))
        if layer is not target:
            layer.set_adapter(self.active_adapters, inference_mode=peft_config.inference_mode)

    def _add_root(self, model: Any, config: Any, adapter_name: str) -> None:
        if not hasattr(model, "lifelong"):
            hidden, knowledge = int(model.config.hidden_size), self._new_knowledge
            model.lifelong = Lifelong(self.context, hidden, _features(knowledge, hidden, config))
            conductor = CausalConductor if is_causal(model) else HeadConductor
            of_signature = knowledge.trunk, knowledge.depths, knowledge.pooling
            model.lifelong.conductor = conductor(model, model.lifelong, *of_signature)
            model.lifelong.conductor.handles.append(model.register_load_state_dict_pre_hook(check_state_dict))
        root = model.lifelong
        device = next(p.device for p in model.parameters())
        root.update_layer(adapter_name, config, self._new_knowledge, device)
        root.set_adapter(self.active_adapters, inference_mode=config.inference_mode)
        for module in model.modules():
            if isinstance(module, DriftTunerLayer) and module.holds(adapter_name):
                module.freeze(adapter_name)
        root.train(model.training)

    def _check_merge_allowed(self) -> None:
        raise ValueError(
            "A lifelong adapter answers with a different member for each input, so it cannot be merged into the base "
            "model's weights; use `unload()` to get the base model back."
        )

    def unload(self) -> nn.Module:
        """The base model without adapter and hooks."""
        model: Any = super().unload()
        model.lifelong.conductor.remove()
        del model.lifelong
        return model

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, adapter_names: Any = None, **kwargs: Any) -> Iterator[None]:
        # PEFT's `forward` and `generate` pass the adapter that each row requests here.
        if adapter_names is not None:
            raise ValueError(
                "`adapter_names`: the rows of a batch cannot ask different lifelong adapters. Leave it out: the "
                "active adapter chooses among its tasks for each row. For another adapter call `set_adapter(name)`."
            )
        yield

    @classmethod
    def _get_adapter_state_dict(
        cls, model: nn.Module, config: Any, adapter_name: str, *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        # Every way of saving takes the tensors here, and writes the configuration afterwards.
        check_usable(model, adapter_name)
        tensors = super()._get_adapter_state_dict(model, config, adapter_name, *args, **kwargs)
        names = {key: cls._remove_adapter_name_from_key(key, adapter_name).removeprefix(PREFIX) for key in tensors}
        # `check_usable` refuses learned tensors that were cast, so only tensors without learned values change here.
        for key, tensor in tensors.items():
            spec = spec_of(names[key])
            tensors[key] = tensor if spec is None else tensor.to(spec.torch_dtype)
        # Tensors that are sharded or have no memory are not written to an adapter's file.
        is_file = all(is_whole(tensor) and not tensor.is_meta for tensor in tensors.values())
        config.digest = digest_of({names[key]: tensor for key, tensor in tensors.items()}) if is_file else None
        return tensors

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        root = lifelong_of(model)
        if adapter_name not in root.unchecked:  # otherwise configuration and tensors come from the same folder
            check_tasks_of(model, adapter_name, {key.removeprefix(PREFIX): t for key, t in state_dict.items()})
        check_tensors(model, adapter_name, state_dict, root.digests.pop(adapter_name, None))
        root.checked_files.add(adapter_name)
        sizes = {**root.settled(adapter_name), **sizes_of(root.knowledge[adapter_name])}
        for module in model.modules():
            if isinstance(module, DriftTunerLayer) and module.holds(adapter_name):
                module.make_room(adapter_name, {**sizes, **module.sizes})
        return super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)


def _features(knowledge: KnowledgeBase, hidden: int, config: Any) -> int:
    return min(knowledge.pooled_width(hidden), config.signature_size)
