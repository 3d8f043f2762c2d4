"""The hooks on the base model through which an adapter acts, in whichever way the model was loaded.

One pass: the base's pre-hook decides what is asked; pre-hooks on the trunk's layers pool the signature; the pre-hook
at the trunk's end chooses groups and expands the rows; pre-hooks on every layer above expand what else the base hands
down; the base's hook turns the last hidden states into answers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from ..knowledge import novelty
from ..objectives import get_objective
from .architectures import ROW_ARGUMENTS, layers_of
from .heads import Lifelong, Request
from .layers import Plan
from .planning import Choice, Tables, make_plan, row_distributions, settle

TARGETS = ("labels", "start_positions", "end_positions")


class TrunkDone(Exception):  # noqa: N818
    """Ends a pass at the trunk's end, when only the trunk's features are asked for."""


@dataclass
class LifelongOutput(ModelOutput):
    """What the base model gives once it carries a lifelong adapter.

    While a task is being learned: `loss` (with targets) and `logits` of the working adapter. Otherwise, for B inputs:

    Args:
        scores (`Tensor`): `[B, D, C]`, the probabilities that the answer is read from, zero padded: for text
            classification D = 1 and C labels; for question answering D = 2 (start, end) and C tokens; for token
            classification D tokens and C labels.
        group (`Tensor`): `[B]`, the group that answered.
        task (`Tensor`): `[B]`, position of that group's newest task, whose kind and labels the scores are of.
        uncertainty (`Tensor`): `[B]`.
        margin (`Tensor`): `[B]`, by how much the group was preferred to the next one.
        novelty (`Tensor`, *optional*): `[B]`, distance from the task as a share of its threshold; above 1 = unknown.
        last_hidden_state (`Tensor`): Of the base model; its rows are those of the members that ran.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    scores: Tensor | None = None
    group: Tensor | None = None
    task: Tensor | None = None
    uncertainty: Tensor | None = None
    margin: Tensor | None = None
    novelty: Tensor | None = None
    last_hidden_state: Tensor | None = None


@dataclass
class Pass:
    """State of one forward pass."""

    mask: Tensor | None = None
    targets: dict[str, Tensor] = field(default_factory=dict)
    choice: Choice | None = None
    pooled: list[Tensor] = field(default_factory=list)
    features: Tensor | None = None
    tables: Tables | None = None


class Conductor:
    """Owns the hooks of one base model and the state of its current pass."""

    def __init__(self, base: nn.Module, root: Lifelong, trunk: int, depths: list[int]) -> None:
        self.root, self.route = root, root.route
        self.trunk, self.depths = trunk, depths
        self.current = Pass()
        self.projection: Tensor | None = None
        _, layers = layers_of(base)
        self.base_names = _parameter_names(base)
        self.handles = [
            base.register_forward_pre_hook(self.begin, with_kwargs=True),
            base.register_forward_hook(self.end, with_kwargs=True),
        ]
        for i, layer in enumerate(layers):
            if i in depths or i >= trunk:
                self.handles.append(layer.register_forward_pre_hook(self._before_layer(i, layer), with_kwargs=True))
        above = set(layers[trunk:])
        root.frozen_below = tuple(_outside(base, above, root))
        root.above = tuple(layers[trunk:])

    def remove(self) -> None:
        """Takes all hooks off the base model."""
        for handle in self.handles:
            handle.remove()

    def begin(self, base: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        self.route.clear()
        self.current = Pass()
        root = self.root
        if root.name is None:
            return None
        kwargs = dict(zip(self.base_names, args, strict=False)) | kwargs
        self.current.targets = {k: v for k in TARGETS if (v := kwargs.pop(k, None)) is not None}
        self.current.mask = _attention_mask(kwargs)
        if root.task is not None and root.request is None:
            self.route.mode = "working"
        elif root.request is not None or root.knowledge[root.name].tasks:
            root.check_loaded()
            self.route.mode = "bank"
            self.current.choice = self._choice(root.request or Request())
        return (), kwargs

    def _choice(self, request: Request) -> Choice | None:
        config = self.root.config[self.root.active_adapters[0]]
        if request.policy == "features":
            return None
        return Choice(
            request.policy or config.retrieval,
            request.uncertainty or config.uncertainty,
            request.answer or config.answer,
            config.per_batch if request.per_batch is None else request.per_batch,
        )

    def _before_layer(self, i: int, layer: nn.Module) -> Callable:
        names = _parameter_names(layer)

        def hook(layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
            if self.route.mode == "base":
                return None
            if self.route.mode == "working" and i != self.trunk:
                return None
            given = dict(zip(names, args, strict=False)) | kwargs
            hidden = given[names[0]]
            if self.route.mode == "working":
                given[names[0]] = self._with_noise(hidden)
                return (), given
            if i in self.depths and self._needs_features:
                self.current.pooled.append(masked_mean(hidden, self.current.mask))
            if i == self.trunk:
                self._fork(len(hidden), hidden.device)
                if self.route.plan.row is not None:  # type: ignore[union-attr]
                    given[names[0]] = hidden[self.route.plan.row]  # type: ignore[union-attr]
            if i >= self.trunk and self.route.plan.row is not None:  # type: ignore[union-attr]
                row = self.route.plan.row  # type: ignore[union-attr]
                size = len(self.current.mask)  # type: ignore[arg-type]
                given = {
                    k: _expand(v, row, size) if k in ROW_ARGUMENTS and k != names[0] else v for k, v in given.items()
                }
            return (), given

        return hook

    def _with_noise(self, hidden: Tensor) -> Tensor:
        """The trunk ends here for gradients too; drift noise is added in training."""
        hidden = hidden.detach()
        if self.root.training and self.root.input_noise:
            scale = self.root.input_noise * hidden.square().mean(-1, keepdim=True).sqrt()
            hidden = hidden + torch.randn_like(hidden) * scale
        return hidden

    @property
    def _needs_features(self) -> bool:
        choice, request = self.current.choice, self.root.request
        return choice is None or choice.asks_signature or (request is not None and request.novelty)

    def _fork(self, rows: int, device: torch.device) -> None:
        root, current = self.root, self.current
        request = root.request or Request()
        if current.pooled:
            current.features = self._project(torch.cat(current.pooled, dim=1))
        if current.choice is None:
            request.features = current.features
            raise TrunkDone
        name = root.active_adapters[0]
        knowledge = root.knowledge[name]
        current.tables = root.tables(device)
        likelihood = None
        if current.choice.asks_signature:
            likelihood = root.router(current.features)  # type: ignore[misc]
        self.route.plan = make_plan(current.choice, knowledge, current.tables, rows, likelihood, request.group)

    def _project(self, features: Tensor) -> Tensor:
        size = self.root.features
        if features.shape[1] <= size:
            return features
        if self.projection is None or self.projection.device != features.device:
            generator = torch.Generator().manual_seed(0)
            signs = torch.randint(0, 2, (features.shape[1], size), generator=generator, dtype=torch.float32) * 2 - 1
            self.projection = (signs / size**0.5).to(features.device)
        return features @ self.projection

    def end(self, base: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        mode, plan, current = self.route.mode, self.route.plan, self.current
        self.route.clear()
        if mode == "base":
            return output
        hidden = output[0]
        answer = (
            self._working(hidden, current) if mode == "working" else self._answer(hidden, plan, current)  # type: ignore[arg-type]
        )
        return answer if isinstance(output, ModelOutput) else answer.to_tuple()

    def _working(self, hidden: Tensor, current: Pass) -> LifelongOutput:
        task = self.root.task
        objective = get_objective(task.kind)  # type: ignore[union-attr]
        mask = _mask_for(current.mask, hidden)
        seen = hidden if objective.per_token else masked_mean(hidden, mask)
        logits = self.root.working_logits(seen)
        loss = objective.loss(logits, current.targets, mask) if set(objective.targets) <= set(current.targets) else None
        return LifelongOutput(loss=loss, logits=logits)

    def _answer(self, hidden: Tensor, plan: Plan, current: Pass) -> LifelongOutput:
        root, tables, choice = self.root, current.tables, current.choice
        mask = _mask_for(current.mask, hidden, plan.row)
        pooled = not any(get_objective(kind).per_token for kind in tables.kinds)  # type: ignore[union-attr]
        seen = masked_mean(hidden, mask).unsqueeze(1) if pooled else hidden
        logits = root.plan_logits(seen, plan)
        rows = len(current.mask)  # type: ignore[arg-type]
        spread = row_distributions(logits, mask, plan, tables, pooled)  # type: ignore[arg-type]
        scores, group, uncertainty, margin = settle(choice, plan, spread, rows, len(tables.task))  # type: ignore
        task = tables.task[group]  # type: ignore[union-attr]
        distance = None
        if root.request is not None and root.request.novelty:
            distance = root.relative_novelty(current.features, group)  # type: ignore[arg-type]
        return LifelongOutput(
            scores=scores,
            group=group,
            task=task,
            uncertainty=uncertainty,
            margin=margin,
            novelty=distance,
            last_hidden_state=hidden,
        )


def masked_mean(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over tokens, float32: `[B, T, H]` and `[B, T]` → `[B, H]`."""
    hidden = hidden.float()
    if mask is None:
        return hidden.mean(1)
    weight = mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weight).sum(1) / weight.sum(1).clamp_min(1)


def _attention_mask(kwargs: dict[str, Any]) -> Tensor | None:
    mask = kwargs.get("attention_mask")
    if mask is not None and mask.dim() == 2:
        return mask
    tokens = kwargs.get("input_ids")
    tokens = kwargs.get("inputs_embeds") if tokens is None else tokens
    return None if tokens is None else torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)


def _mask_for(mask: Tensor | None, hidden: Tensor, row: Tensor | None = None) -> Tensor:
    if mask is None:
        return torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
    return mask if row is None else mask[row]


def _expand(value: Any, row: Tensor, rows: int) -> Any:
    if isinstance(value, Tensor):
        return value[row] if value.dim() and len(value) == rows else value
    if isinstance(value, tuple | list):
        return type(value)(_expand(v, row, rows) for v in value)
    return value


def _parameter_names(module: nn.Module) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in inspect.signature(module.forward).parameters.values() if p.kind in kinds]


def _outside(module: nn.Module, inside: set[nn.Module], root: nn.Module) -> list[nn.Module]:
    """The topmost modules that hold none of `inside`."""
    found = []
    for child in module.children():
        if child is root or child in inside:
            continue
        if inside.intersection(child.modules()):
            found.extend(_outside(child, inside, root))
        else:
            found.append(child)
    return found
