"""The root of an adapter: heads of all members, signatures, and the manifest they follow."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..knowledge import (
    Familiarity,
    KnowledgeBase,
    Router,
    Signature,
    familiarity,
    group_posterior,
    novelty,
    shared_router,
)
from ..storage import ROOT, sizes_of, specs_at
from .calls import Route
from .config import DriftAdapterConfig
from .layers import Bank, DriftTunerLayer, Gathered, Plan, names_of
from .planning import Tables
from .residence import Residence


@dataclass
class OpenTask:
    """The task that the working adapter is being trained on."""

    kind: str
    labels: tuple[str, ...]


class Lifelong(DriftTunerLayer):
    """Heads, signatures and manifest of a model's lifelong adapters; a child of the base model named `lifelong`.

    Its tensors are those that `storage.TENSORS` puts at the root: the working head; the heads of all members; of all
    tasks the signatures and the closed-form heads (zero where a task has none).
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
    conductor: Any  # the base's hooks (`hooks.Conductor`)

    def __init__(self, route: Route, hidden_size: int, features: int) -> None:
        super().__init__(route)
        self.hidden_size = hidden_size
        self.features = features
        self.knowledge: dict[str, KnowledgeBase] = {}
        self.config: dict[str, DriftAdapterConfig] = {}
        self.task: OpenTask | None = None
        self.input_noise = 0.0
        self.frozen_below: tuple[nn.Module, ...] = ()
        self.above: tuple[nn.Module, ...] = ()
        self.still = False
        self._router: Router | None = None
        self._familiarity: Familiarity | None = None
        self._tables: Tables | None = None
        self.residence: Residence | None = None
        self.kept_heads, self.kept_closed = Gathered(), Gathered()
        self.ready = False  # whether what all passes share is computed
        # Adapters whose tensors nobody has held against their manifests yet, and those whose file was; and the digest
        # that the tensors of each must have when they come.
        self.unchecked: set[str] = set()
        self.checked_files: set[str] = set()
        self.digests: dict[str, str | None] = {}
        self.register_load_state_dict_pre_hook(_loading)

    def update_layer(
        self, adapter_name: str, config: DriftAdapterConfig, knowledge: KnowledgeBase, device: torch.device
    ) -> None:
        """Adds the tensors of one adapter; what will be loaded starts without memory."""
        self.knowledge[adapter_name] = knowledge
        self.config[adapter_name] = config
        self.create(adapter_name, {"open": 0, **self.settled(adapter_name), **sizes_of(knowledge)}, device)
        self.checked_files.discard(adapter_name)
        self.digests[adapter_name] = config.digest
        if knowledge.tasks:
            self.unchecked.add(adapter_name)
        self.refresh()

    def settled(self, adapter_name: str) -> dict[str, int]:
        """The sizes of an adapter's tensors that do not follow from what it has learned."""
        config = self.config[adapter_name]
        return {"r": config.r, "rank": config.signature_rank, "hidden": self.hidden_size, "features": self.features}

    @property
    def name(self) -> str | None:
        """The active adapter; `None` when adapters are switched off."""
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
    def router(self) -> Router | None:
        """Discriminants of the tasks present; computed on first use and again after any change."""
        knowledge, config = self.knowledge[self.active_adapters[0]], self.config[self.active_adapters[0]]
        router = self._router
        if router is None and knowledge.tasks:
            counts = torch.tensor([task.examples for task in knowledge.tasks])
            classes, groups = [task.classes for task in knowledge.tasks], knowledge.group_of_task
            # The first pass may run under a trainer's autocast, which would round a covariance beyond use.
            with torch.no_grad(), torch.autocast(self.signature.mean.device.type, enabled=False), _factorised():
                router = shared_router(
                    self.signature, counts, classes, groups, config.signature_shrinkage, knowledge.constants
                )
            self._router = router
        return router

    def likelihood(self, features: Tensor, kinds: tuple[str, ...] | None = None) -> Tensor:
        """Log-likelihoods by signature, up to a constant per row: `[B, D]` → `[B, tasks]`; of other kinds -inf."""
        if self.router is None:
            raise ValueError("The adapter knows no task yet, so it has no signature to compare inputs with.")
        tables = self.tables(features.device)
        allowed = tables.allowed(kinds)
        return self.router(features, None if allowed is None else allowed[tables.group_of_task])

    def posterior(self, features: Tensor, kinds: tuple[str, ...] | None = None) -> Tensor:
        """Probabilities of the groups by signature, on the root's device: `[B, D]` → `[B, groups]`."""
        likelihood = self.likelihood(features.to(self.where()), kinds)
        tables = self.tables(likelihood.device)
        return group_posterior(likelihood, tables.group_of_task, tables.groups)

    def tables(self, device: torch.device) -> Tables:
        """What the manifest says of each group, as tensors."""
        tables = self._tables
        if tables is None or tables.task.device != device:
            tables = self._tables = Tables(self.knowledge[self.active_adapters[0]], device)
        return tables

    def novelty(self, features: Tensor, group: Tensor) -> Tensor:
        """How new each row is to the nearest task of its group, `[B]`; 0 when one task is known, see `familiarity`."""
        known = self._familiarity
        if known is None:
            with torch.no_grad(), torch.autocast(features.device.type, enabled=False), _factorised():
                constants = self.knowledge[self.active_adapters[0]].constants
                known = self._familiarity = familiarity(self.signature, self.router, constants)  # type: ignore[arg-type]
        if known is None:
            return features.new_zeros(len(features))
        in_group = self.tables(group.device).group_of_task == group[:, None]
        with torch.autocast(features.device.type, enabled=False):
            nearest = self.likelihood(features).masked_fill(~in_group, float("-inf")).argmax(1)
            return novelty(features, nearest, known)

    def refresh(self) -> None:
        """Drops what was computed from the tensors and the manifest."""
        self._router, self._familiarity, self._tables, self.residence = None, None, None, None
        self.kept_heads, self.kept_closed = Gathered(), Gathered()
        self.ready = False

    def _apply(self, fn: Any, recurse: bool = True) -> Lifelong:
        self.refresh()  # what was computed lies where the model was
        return super()._apply(fn, recurse)

    def freeze(self, adapter_name: str) -> None:
        super().freeze(adapter_name)
        for container in (self.drift_head_weight, self.drift_head_bias):
            if not container[adapter_name].numel():  # a head of the base's own answers; DDP waits for each gradient
                container[adapter_name].requires_grad_(False)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        super().set_adapter(adapter_names, inference_mode=inference_mode)
        self.refresh()

    def open(self, kind: str, labels: tuple[str, ...], width: int, start: Sequence[Tensor] | None = None) -> None:
        """Makes a working head of `width` rows; from here to `close`, the base's forward uses the working adapter.

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
        self.route.resting = "working"

    def close(self) -> None:
        """Ends training of a task: the working head is emptied, so that a saved adapter bears no trace of it."""
        name = self.active_adapters[0]
        for container in (self.drift_head_weight, self.drift_head_bias):
            container[name] = nn.Parameter(container[name].detach()[:0].clone(), requires_grad=False)
        self.task = None
        self.route.resting = "base"

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
            `[N, T, W]`, `W` the widest head of the adapter; narrower heads give logits of 0 in the rest.
        """
        name = self.active_adapters[0]
        heads = self.drift_bank_head_weight[name], self.drift_bank_head_bias[name]
        weight, bias = self.kept_heads.of(plan, heads, partial(self._mean_heads, *heads))
        blocks = hidden.to(weight.dtype).reshape(len(weight), -1, hidden.shape[-1])
        return (blocks @ weight.mT + bias).view(*hidden.shape[:-1], -1)

    def _mean_heads(self, weight: Tensor, bias: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
        """The mean head of each entry of a plan's members, `[entries, W, H]` and `[entries, 1, W]`."""
        tables = self.tables(weight.device)
        columns = torch.arange(tables.widest, device=weight.device)
        weights = 1 / plan.members.shape[1] if plan.weights is None else plan.weights[..., None]
        share = (columns < tables.head_width[plan.members][..., None]) * weights
        rows = (tables.head_start[plan.members][..., None] + columns).clamp_max(len(weight) - 1)
        return (weight[rows] * share[..., None]).sum(1), (bias[rows] * share).sum(1).unsqueeze(1)

    def closed_logits(self, features: Tensor, plan: Plan) -> Tensor:
        """What the closed-form head of each row's task says.

        Args:
            features (`Tensor`): `[B, D]`, of the input rows.

        Returns:
            `[N, 1, W]`, `W` the widest head of the adapter; 0 where a task has fewer classes, or none.
        """
        features = features if plan.row is None else features[plan.row]
        name = self.active_adapters[0]
        heads = self.drift_closed_weight[name], self.drift_closed_bias[name]
        weight, bias = self.kept_closed.of(plan, heads, partial(self._closed_heads, *heads))
        blocks = features.to(weight.dtype).reshape(len(weight), -1, features.shape[-1])
        return (blocks @ weight.mT + bias).view(len(features), 1, -1)

    def _closed_heads(self, weight: Tensor, bias: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
        """The closed-form head of each row's task, or of the one that answers all, `[N, W, D]` and `[N, 1, W]`."""
        tables = self.tables(weight.device)
        task = plan.pair_task[plan.pair] if plan.key is None else plan.pair_task[:1]
        columns = torch.arange(tables.widest, device=weight.device)
        known = columns < tables.classes[task][:, None]
        rows = (tables.class_start[task][:, None] + columns).clamp_max(len(weight) - 1)
        return weight[rows] * known[..., None], (bias[rows] * known).unsqueeze(1)

    def train(self, mode: bool = True) -> Lifelong:
        super().train(mode)
        for module in (*self.frozen_below, *(self.above if self.still else ())):
            module.eval()
        return self


@contextmanager
def _factorised() -> Iterator[None]:
    """Says in which file the statistics are that no covariance can be made of."""
    try:
        yield
    except torch.linalg.LinAlgError as error:
        raise ValueError(
            "The statistics of the tasks in the adapter's `adapter_model.safetensors` cannot be used: they give no "
            f"covariance that can be inverted ({error}). Restore the file and its `adapter_config.json` from one save."
        ) from error


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
            "The model's lifelong adapters were all deleted. Add one (`add_adapter`, `load_adapter`) and choose it "
            "with `set_adapter`."
        )
    return names[0]


def knowledge_of(model: nn.Module) -> KnowledgeBase:
    """What the active lifelong adapter of a model has learned."""
    return lifelong_of(model).knowledge[active_adapter(model)]


def active_config(model: nn.Module) -> Any:
    """The configuration of the active lifelong adapter of a model."""
    return lifelong_of(model).config[active_adapter(model)]
