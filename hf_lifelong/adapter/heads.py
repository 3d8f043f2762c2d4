"""The root of an adapter: the heads of all members, the signatures, and the manifest."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..knowledge import KnowledgeBase, Signature
from ..storage import ROOT, rank_sizes, sizes_of, specs_at
from .config import DriftAdapterConfig
from .forward.context import Context
from .forward.plan import Plan
from .index import Index
from .layers import Bank, DriftTunerLayer, Gathered, names_of

if TYPE_CHECKING:
    from .forward.conductor import Conductor
    from .forward.residence import Residence


@dataclass
class OpenTask:
    """The task that the working adapter is being trained on."""

    kind: str
    labels: tuple[str, ...]


class Lifelong(DriftTunerLayer):
    """Heads, signatures and manifests of a model's lifelong adapters: the base model's child named `lifelong`.

    `storage.TENSORS` lists its tensors: the working head, the heads of all members, and the signatures and closed-form
    heads of all tasks (zero for a task without one).
    """

    specs = specs_at(ROOT)
    tensors = tuple(spec.name for spec in specs)
    adapter_layer_names = names_of(specs, trained=True)
    other_param_names = (*names_of(specs, trained=False), "knowledge", "config")
    drift_head_weight: Bank
    drift_head_bias: Bank
    drift_bank_head_weight: Bank
    drift_bank_head_bias: Bank
    drift_signature_mean: Bank
    drift_signature_factor: Bank
    drift_signature_diagonal: Bank
    drift_signature_classes: Bank
    drift_closed_weight: Bank
    drift_closed_bias: Bank
    conductor: Conductor

    def __init__(self, context: Context, hidden_size: int, features: int) -> None:
        super().__init__(context)
        self.hidden_size = hidden_size
        self.features = features
        self.knowledge: dict[str, KnowledgeBase] = {}
        self.config: dict[str, DriftAdapterConfig] = {}
        self.task: OpenTask | None = None
        self.input_noise = 0.0
        self.frozen_below: tuple[nn.Module, ...] = ()
        self.above: tuple[nn.Module, ...] = ()
        self.still = False
        self._index: Index | None = None
        self.residence: Residence | None = None
        self.head_mixtures, self.closed_mixtures = Gathered(), Gathered()
        self.ready = False  # whether the values that all passes share are computed
        # Adapters whose tensors were not checked against their manifests, adapters whose file was checked, and the
        # digest that each adapter's tensors must have when they are loaded.
        self.unchecked: set[str] = set()
        self.checked_files: set[str] = set()
        self.digests: dict[str, str | None] = {}
        self.register_load_state_dict_pre_hook(_loading)

    def update_layer(
        self, adapter_name: str, config: DriftAdapterConfig, knowledge: KnowledgeBase, device: torch.device
    ) -> None:
        """Adds the tensors of one adapter. Tensors that will be loaded start without memory."""
        self.knowledge[adapter_name] = knowledge
        self.config[adapter_name] = config
        self.create(adapter_name, {"open": 0, **self.settled(adapter_name), **sizes_of(knowledge)}, device)
        self.checked_files.discard(adapter_name)
        self.digests[adapter_name] = config.digest
        if knowledge.tasks:
            self.unchecked.add(adapter_name)
        self.refresh()

    def settled(self, adapter_name: str) -> dict[str, int]:
        """The sizes of an adapter's tensors that do not depend on what it has learned."""
        config = self.config[adapter_name]
        sizes = {"rank": config.signature_rank, "hidden": self.hidden_size, "features": self.features}
        return {**rank_sizes(config.r), **sizes}

    @property
    def name(self) -> str | None:
        """Name of the active adapter; `None` if adapters are disabled."""
        return None if self.disable_adapters or not self.active_adapters else self.active_adapters[0]

    @property
    def signature(self) -> Signature:
        """Signatures of all tasks of the active adapter, `[tasks, …]`."""
        name = self.active_adapters[0]
        return Signature(
            self.drift_signature_mean[name],
            self.drift_signature_factor[name],
            self.drift_signature_diagonal[name],
            self.drift_signature_classes[name],
        )

    @property
    def index(self) -> Index:
        """Quantities computed from the active adapter's tensors and manifest. Any change creates a new index."""
        index = self._index
        if index is None:
            name = self.active_adapters[0]
            index = Index(self.signature, self.knowledge[name], self.config[name].signature_shrinkage)
            self._index = index
        return index

    def refresh(self) -> None:
        """Drops everything that was computed from the tensors and the manifest."""
        self._index, self.residence = None, None
        self.head_mixtures, self.closed_mixtures = Gathered(), Gathered()
        self.ready = False

    def _apply(self, fn: Any, recurse: bool = True) -> Lifelong:
        self.refresh()  # computed tensors are on the model's previous device
        return super()._apply(fn, recurse)

    def freeze(self, adapter_name: str) -> None:
        super().freeze(adapter_name)
        for container in (self.drift_head_weight, self.drift_head_bias):
            if not container[adapter_name].numel():  # the base's own head answers, and DDP waits for every gradient
                container[adapter_name].requires_grad_(False)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_names, inference_mode=inference_mode)
        self.refresh()

    def open(self, kind: str, labels: tuple[str, ...], width: int, start: Sequence[Tensor] | None = None) -> None:
        """Creates a working head of `width` rows. Until `close`, the base's forward uses the working adapter.

        Args:
            start (sequence of two `Tensor`, *optional*): Weight `[width, H]` and bias `[width]` to start from.
        """
        name, device = self.active_adapters[0], self.drift_bank_head_weight[self.active_adapters[0]].device
        weight = torch.empty(width, self.hidden_size, device=device).normal_(std=0.02)
        bias = torch.zeros(width, device=device)
        if start is not None:
            weight, bias = start[0].detach().clone(), start[1].detach().clone()
        self.drift_head_weight[name] = nn.Parameter(weight)
        self.drift_head_bias[name] = nn.Parameter(bias)
        self.task = OpenTask(kind, labels)
        self.context.learning = True

    def close(self) -> None:
        """Ends the training of a task. Empties the working head, so that a saved adapter has no trace of it."""
        name = self.active_adapters[0]
        for container in (self.drift_head_weight, self.drift_head_bias):
            container[name] = nn.Parameter(container[name].detach()[:0].clone(), requires_grad=False)
        self.task = None
        self.context.learning = False

    def working_logits(self, hidden: Tensor) -> Tensor:
        """`[…, H]` → `[…, W]` through the working head."""
        name = self.active_adapters[0]
        weight, bias = self.drift_head_weight[name], self.drift_head_bias[name]
        noisy = self.training and not self.still
        hidden = nn.functional.dropout(hidden.to(weight.dtype), self.config[name].lora_dropout, noisy)
        return nn.functional.linear(hidden, weight, bias)

    def plan_logits(self, hidden: Tensor, plan: Plan) -> Tensor:
        """Logits of each row through the mean head of its members.

        Args:
            hidden (`Tensor`): `[N, T, H]`.

        Returns:
            `[N, T, W]`, where `W` is the width of the adapter's widest head. Narrower heads are padded with logits of
            0.
        """
        name = self.active_adapters[0]
        heads = self.drift_bank_head_weight[name], self.drift_bank_head_bias[name]
        weight, bias = self.head_mixtures.of(plan, heads, partial(self._mean_heads, *heads))
        blocks = hidden.to(weight.dtype).reshape(len(weight), -1, hidden.shape[-1])
        return (blocks @ weight.mT + bias).view(*hidden.shape[:-1], -1)

    def _mean_heads(self, weight: Tensor, bias: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
        """The mean head of each row of a plan's `members`, `[entries, W, H]` and `[entries, 1, W]`."""
        tables = self.index.tables(weight.device)
        columns = torch.arange(tables.widest, device=weight.device)
        weights = 1 / plan.members.shape[1] if plan.weights is None else plan.weights[..., None]
        share = (columns < tables.head_width[plan.members][..., None]) * weights
        rows = (tables.head_start[plan.members][..., None] + columns).clamp_max(len(weight) - 1)
        factor, summand = tables.factor[plan.members][..., None], tables.summand[plan.members][..., None]
        weight, bias = weight[rows] * (factor * share)[..., None], (factor * bias[rows] + summand) * share
        return weight.sum(1), bias.sum(1).unsqueeze(1)

    def closed_logits(self, features: Tensor, plan: Plan) -> Tensor:
        """Logits of the closed-form head of each row's task.

        Args:
            features (`Tensor`): `[B, D]`, of the input rows.

        Returns:
            `[N, 1, W]`, where `W` is the width of the adapter's widest head; 0 for missing classes.
        """
        features = features if plan.row is None else features[plan.row]
        name = self.active_adapters[0]
        heads = self.drift_closed_weight[name], self.drift_closed_bias[name]
        weight, bias = self.closed_mixtures.of(plan, heads, partial(self._closed_heads, *heads))
        blocks = features.to(weight.dtype).reshape(len(weight), -1, features.shape[-1])
        return (blocks @ weight.mT + bias).view(len(features), 1, -1)

    def _closed_heads(self, weight: Tensor, bias: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
        """The closed-form heads of the rows' tasks, `[N, W, D]` and `[N, 1, W]`; one head if one task answers all."""
        tables = self.index.tables(weight.device)
        task = plan.pair_task[plan.pair] if plan.key is None else plan.pair_task[:1]
        columns = torch.arange(tables.widest, device=weight.device)
        is_class = columns < tables.classes[task][:, None]
        rows = (tables.class_start[task][:, None] + columns).clamp_max(len(weight) - 1)
        return weight[rows] * is_class[..., None], (bias[rows] * is_class).unsqueeze(1)

    def train(self, mode: bool = True) -> Lifelong:
        super().train(mode)
        for module in (*self.frozen_below, *(self.above if self.still else ())):
            module.eval()
        return self


def _loading(root: Lifelong, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    for name in root.knowledge:
        if f"{prefix}{root.tensors[0]}.{name}" not in state_dict:
            continue
        if name in root.checked_files:
            root.unchecked.discard(name)
        else:
            root.unchecked.add(name)
        root.checked_files.discard(name)
    root.refresh()


def lifelong_of(model: nn.Module) -> Lifelong:
    """The lifelong root of a model, however the model was loaded or wrapped.

    Raises:
        ValueError: when the model has no lifelong adapter.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"`model` must be a model with a lifelong adapter, not {model!r:.60}.")
    for module in itertools.islice(model.modules(), 16):
        root = module._modules.get("lifelong")
        if isinstance(root, Lifelong):
            return root
    raise ValueError(
        f"`{type(model).__name__}` has no lifelong adapter. Add one with `get_peft_model(model, DriftAdapterConfig())`"
        " or load one with `AutoPeftModelForFeatureExtraction.from_pretrained(folder)` (of a language model: "
        "`AutoPeftModelForCausalLM`)."
    )


def active_adapter(model: nn.Module) -> str:
    """Name of the active lifelong adapter of a model.

    Raises:
        ValueError: when the last one was deleted.
    """
    names = lifelong_of(model).active_adapters
    if not names:
        raise ValueError(
            "The model's lifelong adapters were all deleted. Add one (`add_adapter`, `load_adapter`) and activate it "
            "with `set_adapter`."
        )
    return names[0]


def knowledge_of(model: nn.Module) -> KnowledgeBase:
    """What the active lifelong adapter of a model has learned."""
    return lifelong_of(model).knowledge[active_adapter(model)]


def active_config(model: nn.Module) -> DriftAdapterConfig:
    """The configuration of the active lifelong adapter of a model."""
    return lifelong_of(model).config[active_adapter(model)]
