"""The hooks on the base model through which an adapter acts, however the model was loaded.

In one pass, the base's pre-hook decides what is asked. Pre-hooks on the trunk's layers pool the signature's features.
The pre-hook at the trunk's end chooses groups and expands the rows. Pre-hooks on every layer above expand the other
arguments that the base passes. The base's hook turns the output into answers: in `encoder` for bases without a head,
in `causal` for language models.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from ...knowledge import projection_matrix
from ...retrieval import Routing
from ..architectures import ROW_ARGUMENTS, layers_of, modality_of, positions_of
from ..heads import Lifelong
from ..index import Tables
from .context import Pass, asked_elsewhere
from .decisions import Decisions
from .plan import Plan, all_members, each_member, merged
from .pooling import last_state, mask_for, masked_max, patch_mask, shared_mean, signature_features, token_shares
from .query import Query, query_of
from .values import Fork, Pooled


class TrunkDone(Exception):
    """Ends a pass at the trunk's end when only the trunk's features are requested.

    Args:
        features (`Tensor`): `[B, D]`.
    """

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features = features


class Conductor(ABC):
    """Owns the hooks of one base model.

    Attributes:
        targets (`tuple[str, ...]`): Arguments that the adapter's loss needs and the base must not get.
        without_cache (`dict`): Arguments that tell the base that no pass follows.
        decisions ([`Decisions`]): Makes the decisions that depend on the numbers of a pass.
        modality ([`~objectives.Modality`]), positions ([`Positions`], *optional*): What the base takes; of an image
            base, what the positions of its hidden states are.
    """

    targets: ClassVar[tuple[str, ...]] = ()
    without_cache: ClassVar[dict[str, Any]] = {}

    def __init__(self, base: nn.Module, root: Lifelong, trunk: int, depths: list[int], pooling: str) -> None:
        self.root, self.context = root, root.context
        self.trunk, self.depths, self.pooling = trunk, depths, pooling
        self.modality, self.positions = modality_of(base), positions_of(base)
        self.decisions = Decisions()
        self.projections: dict[str, Tensor] = {}  # by rule: the adapters of a model may have different rules
        _, layers = layers_of(base)
        self.base_names = _parameter_names(base)
        self.handles = [
            base.register_forward_pre_hook(self.begin, with_kwargs=True),
            base.register_forward_hook(self.end, with_kwargs=True),
            base.register_forward_hook(self.leave, always_call=True),
        ]
        for i, layer in enumerate(layers):
            if i in depths or i >= trunk:
                # A partial, not a closure, so that a copy of the model gets hooks on its own conductor.
                hook = partial(self.before_layer, i, _parameter_names(layer))
                self.handles.append(layer.register_forward_pre_hook(hook, with_kwargs=True))
        above = set(layers[trunk:])
        root.frozen_below = tuple(_outside(base, above, root))
        root.above = tuple(layers[trunk:])

    def remove(self) -> None:
        """Takes all hooks off the base model."""
        for handle in self.handles:
            handle.remove()

    def begin(self, base: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        """Decides what a pass is asked; `args` and `kwargs` are the base model's."""
        root, name = self.root, self.root.name
        if name is None:
            self.context.proceed(Pass("base"))
            return None
        if root.training and root.task is None and torch.is_grad_enabled():
            raise ValueError(
                "The model is in training mode, but no task is open, so nothing in it can be trained. Learn tasks "
                "with `DriftTrainer`; only to ask the model, call `model.eval()` first or use `torch.no_grad()`."
            )
        kwargs = _by_name(self.base_names, args) | kwargs
        if self.positions is not None:  # PEFT's wrapper passes the arguments of text bases too, as `None`
            kwargs = {k: v for k, v in kwargs.items() if v is not None or k in self.base_names}
        targets = {k: v for k in self.targets if (v := kwargs.pop(k, None)) is not None}
        mask, call = _attention_mask(kwargs), self.context.call
        if call is not None or (root.task is None and root.knowledge[name].tasks):
            self.decisions.prepare(base, root)
            query = query_of(root.config[name], root.knowledge[name]) if call is None else call.query
            current = Pass("bank", query, mask, targets)
        elif root.task is not None:
            if not torch.compiler.is_compiling() and asked_elsewhere(self.context):
                raise RuntimeError(
                    "A task is being learned while another thread asks the same model, which is in eval mode for it. "
                    "Ask a copy of the model (`copy.deepcopy`), or wait until training ends."
                )
            current = Pass("working", mask=mask, targets=targets, kind=root.task.kind)
        else:
            current = Pass("base", mask=mask, targets=targets)
        self.context.proceed(self.begun(base, kwargs, current))
        return (), kwargs

    def begun(self, base: nn.Module, kwargs: dict[str, Any], current: Pass) -> Pass:
        """The pass, completed with what is known before the base runs.

        Args:
            kwargs (`dict`): The base's arguments by name, which this may change.
        """
        return current

    def before_layer(
        self, i: int, names: list[str], layer: nn.Module, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]] | None:
        """Hook before layer `i`, whose parameters are called `names`."""
        current = self.context.current
        if current is None or current.mode == "base" or current.goes_on:
            return None
        if current.mode == "working" and i != self.trunk:
            return None
        arguments = _by_name(names, args) | kwargs
        hidden = arguments[names[0]]
        if current.mode == "working":
            # Reentrant checkpointing computes gradients only if a positional argument requires one.
            arguments[names[0]] = self._with_noise(hidden).requires_grad_(
                getattr(layer, "gradient_checkpointing", False)
            )
            return _as_passed(names, args, arguments)
        current = self._read(i, current, hidden)
        if current.plan is None or current.plan.row is None or current.fork is None:
            return None
        fresh = ROW_ARGUMENTS - {names[0]} if i > self.trunk else ROW_ARGUMENTS | {names[0]}
        row, rows = current.plan.row, current.fork.rows
        arguments = {k: _expand(v, row, rows) if k in fresh else v for k, v in arguments.items()}
        return _as_passed(names, args, arguments)

    def _read(self, i: int, current: Pass, hidden: Tensor) -> Pass:
        """The pass, completed from the hidden states before layer `i`: pooled features at each depth, a fork at the
        trunk's end."""
        query = current.query
        if query is None:
            return current
        if i in self.depths and query.needs_features:
            current = replace(current, pooled=self._pool(current, hidden))
            self.context.proceed(current)
        if i == self.trunk:
            # In float32, even if a trainer runs under autocast, because rounded distances can change the group.
            with torch.autocast(hidden.device.type, enabled=False):
                fork = self._fork(query, current.pooled, len(hidden), hidden.device)
            current = replace(current, fork=fork, plan=fork.plan)
            self.context.proceed(current)
        return current

    def _with_noise(self, hidden: Tensor) -> Tensor:
        """Stops gradients at the trunk's end, and adds drift noise in training."""
        hidden = hidden.detach()
        if self.root.training and self.root.input_noise:
            scale = self.root.input_noise * hidden.square().mean(-1, keepdim=True).sqrt()
            hidden = hidden + torch.randn_like(hidden) * scale
        return hidden

    def _pool(self, current: Pass, hidden: Tensor) -> Pooled:
        pooled = current.pooled
        mask = self.mask_of(current, hidden) if current.prompt is None else current.prompt
        reads_last = self.pooling == "last"
        if pooled is None:
            has_peak = self.positions is None and not reads_last
            pooled = Pooled((), self.weigh_tokens(mask), masked_max(hidden, mask) if has_peak else None)
        state = last_state(hidden, mask) if reads_last else shared_mean(hidden, pooled.shares)
        return replace(pooled, states=(*pooled.states, state))

    def _fork(self, query: Query, pooled: Pooled | None, rows: int, device: torch.device) -> Fork:
        features = None if pooled is None else self._project(signature_features(pooled.states, pooled.peak))
        if query.only_features and features is not None:
            raise TrunkDone(features)
        tables = self.root.index.tables(device)
        routing, plan = self.decisions.fork(self, query, tables, features, rows)
        residence = self.root.residence
        if residence is not None:
            plan = replace(plan, seats=residence.seats_of(plan.members, plan.key))
        return Fork(rows, features, routing, plan, tables)

    def plan(self, query: Query, tables: Tables, routing: Routing, rows: int) -> Plan:
        """Which members answer each of `rows` inputs."""
        if routing.group is None:
            return all_members(tables, rows)
        if routing.candidates is not None:
            pair_row, pair_group = routing.candidates.nonzero(as_tuple=True)
        else:
            pair_row, pair_group = torch.arange(rows, device=tables.task.device), routing.group
        if query.each_member:
            return each_member(tables, pair_row, pair_group)
        if len(pair_row) != rows:
            return merged(tables, pair_row, pair_group, expand=True)
        return self.merged_of(tables, pair_row, pair_group)

    def merged_of(self, tables: Tables, row: Tensor, group: Tensor) -> Plan:
        """The plan of merged answers if each row has one group, `group`; `row` numbers all rows."""
        return merged(tables, row, group, expand=False)

    def _project(self, features: Tensor) -> Tensor:
        size = self.root.features
        if features.shape[1] <= size:
            return features
        rule = self.root.knowledge[self.root.active_adapters[0]].constants.projection
        projection = self.projections.get(rule)
        if projection is None or projection.device != features.device:
            projection = projection_matrix(rule, features.shape[1], size).to(features.device)
            self.projections[rule] = projection
        return features @ projection

    def end(self, base: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """Turns the base model's output into an answer."""
        current = self.context.current
        if current is None or current.mode == "base":
            return output
        answer = self.decisions.finish(self, output, current)
        return answer if answer is output or isinstance(output, ModelOutput) else answer.to_tuple()

    def leave(self, base: nn.Module, args: tuple, output: Any) -> None:
        """Ends a pass, even after an error."""
        self.context.leave()

    def mask_of(self, current: Pass, hidden: Tensor, row: Tensor | None = None) -> Tensor:
        """Which positions of `hidden [N, T, H]` are pooled, `[N, T]`; `row [N]` as in `mask_for`."""
        if self.positions is not None:
            return patch_mask(hidden, self.positions.specials)
        return mask_for(current.mask, hidden, row)

    def weigh_tokens(self, mask: Tensor) -> Tensor:
        """Weight of each token in the signature's features: `[B, T]` → `[B, T, 1]`, float32."""
        return token_shares(mask)

    @abstractmethod
    def finish(self, output: Any, current: Pass) -> Any:
        """Turns the output of a pass with an adapter into its answer."""


def _by_name(names: list[str], args: tuple) -> dict[str, Any]:
    """Positional arguments by parameter name. Without `zip`, because not every Dynamo can trace its `strict`."""
    return {names[i]: value for i, value in enumerate(args[: len(names)])}


def _as_passed(names: list[str], args: tuple, arguments: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Splits named arguments into positional ones, as many as `args`, and keyword arguments."""
    positional = names[: len(args)]
    rest = {k: v for k, v in arguments.items() if k not in positional}
    return (*(arguments[name] for name in positional), *args[len(names) :]), rest


def _attention_mask(kwargs: dict[str, Any]) -> Tensor | None:
    mask = kwargs.get("attention_mask")
    if isinstance(mask, Mapping):  # one mask per type of attention
        mask = mask.get("full_attention")
    tokens = kwargs.get("input_ids")
    tokens = kwargs.get("inputs_embeds") if tokens is None else tokens
    if mask is not None and mask.dim() == 4 and tokens is not None:
        # Says which tokens each token attends to. No token attends to padding.
        attended = (mask if mask.dtype == torch.bool else mask >= 0)[:, 0].any(1)
        return attended[:, : tokens.shape[1]].long()
    if mask is not None and mask.dim() == 2:
        return mask
    return None if tokens is None else torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)


def _expand(value: Any, row: Tensor, rows: int) -> Any:
    if isinstance(value, Tensor):
        return value[row.to(value.device)] if value.dim() and len(value) == rows else value
    if isinstance(value, tuple | list):
        return type(value)(_expand(v, row, rows) for v in value)
    return value


def _parameter_names(module: nn.Module) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in inspect.signature(module.forward).parameters.values() if p.kind in kinds]


def _outside(module: nn.Module, inside: set[nn.Module], root: nn.Module) -> list[nn.Module]:
    """The topmost modules that contain none of `inside`."""
    outermost = []
    for child in module.children():
        if child is root or child in inside:
            continue
        if inside.intersection(child.modules()):
            outermost.extend(_outside(child, inside, root))
        else:
            outermost.append(child)
    return outermost
