"""The hooks on the base model through which an adapter acts, in whichever way the model was loaded.

One pass: the base's pre-hook decides what is asked; pre-hooks on the trunk's layers pool the signature; the pre-hook
at the trunk's end chooses groups and expands the rows; pre-hooks on every layer above expand what else the base hands
down; the base's hook turns the output into answers: here for bases without a head, in `causal` for language models.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from ..knowledge.projection import projection
from ..objectives import head_objective
from .architectures import ROW_ARGUMENTS, layers_of
from .calls import LOCK, Fork, Pass, Request, asked_elsewhere
from .checks import check_usable
from .config import DriftAdapterConfig
from .heads import Lifelong
from .layers import Plan
from .planning import Choice, Tables, make_plan, row_distributions, settle, without_padding
from .pooling import masked_max, masked_mean, shared_mean, signature_features, token_shares
from .residence import Residence

TARGETS = ("labels", "start_positions", "end_positions")


class TrunkDone(Exception):
    """Ends a pass at the trunk's end, when only the trunk's features are asked for."""


@dataclass
class LifelongOutput(ModelOutput):
    """What the base model gives once it carries a lifelong adapter, and what `predict` gives.

    While a task is being learned: `loss` (with targets) and `logits` of the working adapter. Otherwise, for B inputs:

    Args:
        scores (`Tensor`, *optional*): `[B, D, C]`, the probabilities that the answer is read from, zero padded: for
            text classification D = 1 and C labels; for question answering D = 2 (start, end) and C tokens; for token
            classification D tokens and C labels.
        logits (`Tensor`, *optional*): `[B, T, V]`, of the next token, from a language model.
        group (`Tensor`): `[B]`, the group that answered.
        task (`Tensor`): `[B]`, position of that group's newest task, whose kind and labels the scores are of.
        uncertainty (`Tensor`): `[B]`.
        margin (`Tensor`): `[B]`, by how much the group was preferred to the next one.
        novelty (`Tensor`, *optional*): `[B]`, distance from the task as a share of the limit; above 1 it is unknown.
        last_hidden_state (`Tensor`): Of the base model; its rows are those of the members that ran.
        hidden_states, attentions (`tuple[Tensor]`, *optional*): Of the base model, where it was asked for them; above
            the trunk, their rows are those of the members that ran.
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
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class Conductor(ABC):
    """Owns the hooks of one base model.

    Attributes:
        targets (`tuple[str, ...]`): Arguments of the base that the adapter's own loss needs and the base must not see.
        without_cache (`dict`): What tells the base that no pass follows.
    """

    targets: ClassVar[tuple[str, ...]] = ()
    without_cache: ClassVar[dict[str, Any]] = {}

    def __init__(self, base: nn.Module, root: Lifelong, trunk: int, depths: list[int]) -> None:
        self.root, self.route = root, root.route
        self.trunk, self.depths = trunk, depths
        self.projections: dict[str, Tensor] = {}  # by rule: adapters of one model may have been made by several
        _, layers = layers_of(base)
        self.base_names = _parameter_names(base)
        self.handles = [
            base.register_forward_pre_hook(self.begin, with_kwargs=True),
            base.register_forward_hook(self.end, with_kwargs=True),
            base.register_forward_hook(self.leave, always_call=True),
        ]
        for i, layer in enumerate(layers):
            if i in depths or i >= trunk:
                # A partial, not a closure: a copy of the model must get hooks on its own conductor.
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
        """Decides what a pass is asked; `args` and `kwargs` are those of the base model."""
        root, name = self.root, self.root.name
        current = Pass(self.route.resting if name is not None else "base", Request())
        self.route.enter(current)
        if name is None:
            return None
        if root.training and root.task is None and torch.is_grad_enabled():
            raise ValueError(
                "The model is in training mode, but no task is open, so nothing in it can be trained. Learn tasks "
                "with `DriftTrainer`; only to ask the model, call `model.eval()` first or use `torch.no_grad()`."
            )
        kwargs = _by_name(self.base_names, args) | kwargs
        current.targets = {k: v for k in self.targets if (v := kwargs.pop(k, None)) is not None}
        current.mask = _attention_mask(kwargs)
        request = self.route.request
        if request is not None or (root.task is None and root.knowledge[name].tasks):
            if not root.ready or root.signature.mean.dtype != torch.float32:
                prepare(base, root)
            current.mode = "bank"
            current.request = request or Request()
            current.choice = _choice(current.request, root.config[name])
            current.group = current.request.group
        elif root.task is not None:
            if not torch.compiler.is_compiling() and asked_elsewhere(self.route):
                raise RuntimeError(
                    "A task is being learned while another thread asks the same model, which is in eval mode for it. "
                    "Ask a copy of the model (`copy.deepcopy`), or after training."
                )
            current.kind = root.task.kind
        return (), kwargs

    def before_layer(
        self, i: int, names: list[str], layer: nn.Module, args: tuple, kwargs: dict[str, Any]
    ) -> tuple[tuple, dict[str, Any]] | None:
        """Does what is due before layer `i`, whose arguments are called `names`."""
        current = self.route.current
        if current is None or current.mode == "base" or current.routed:
            return None
        if current.mode == "working" and i != self.trunk:
            return None
        given = _by_name(names, args) | kwargs
        hidden = given[names[0]]
        if current.mode == "working":
            # Reentrant checkpointing keeps gradients of positional arguments that ask for one, and of nothing else.
            given[names[0]] = self._with_noise(hidden).requires_grad_(getattr(layer, "gradient_checkpointing", False))
            return _as_passed(names, args, given)
        if i in self.depths and current.needs_features:
            if current.shares is None:
                mask = mask_for(current.mask, hidden)
                current.shares, current.peak = self.weigh_tokens(mask), masked_max(hidden, mask)
            current.pooled.append(shared_mean(hidden, current.shares))
        if i == self.trunk:
            # In float32, also where a trainer runs its passes under autocast: a rounded distance is another group.
            with torch.autocast(hidden.device.type, enabled=False):
                current.fork = self._fork(current, len(hidden), hidden.device)
            current.plan = current.fork.plan
            if self.root.residence is not None:
                self.root.residence.seat(current.plan, current)
        if current.fork is None or current.fork.plan.row is None:
            return None
        fresh = ROW_ARGUMENTS - {names[0]} if i > self.trunk else ROW_ARGUMENTS | {names[0]}
        row, rows = current.fork.plan.row, current.fork.rows
        given = {k: _expand(v, row, rows) if k in fresh else v for k, v in given.items()}
        return _as_passed(names, args, given)

    def _with_noise(self, hidden: Tensor) -> Tensor:
        """The trunk ends here for gradients too; drift noise is added in training."""
        hidden = hidden.detach()
        if self.root.training and self.root.input_noise:
            scale = self.root.input_noise * hidden.square().mean(-1, keepdim=True).sqrt()
            hidden = hidden + torch.randn_like(hidden) * scale
        return hidden

    def _fork(self, current: Pass, rows: int, device: torch.device) -> Fork:
        root, features = self.root, None
        if current.pooled and current.peak is not None:
            features = self._project(signature_features(current.pooled, current.peak))
        if current.choice is None:
            current.request.features = features
            raise TrunkDone
        tables = root.tables(device)
        likelihood = None
        if current.choice.asks_signature and features is not None:
            likelihood = root.likelihood(features, current.request.kinds)
        plan = self.plan(current.choice, tables, rows, likelihood, current.group)
        return Fork(current.choice, plan, tables, rows, features)

    def plan(self, choice: Choice, tables: Tables, rows: int, likelihood: Tensor | None, group: Tensor | None) -> Plan:
        """Which members answer each row of a pass, as in `make_plan`."""
        return make_plan(choice, tables, rows, likelihood, group)

    def _project(self, features: Tensor) -> Tensor:
        size = self.root.features
        if features.shape[1] <= size:
            return features
        rule = self.root.knowledge[self.root.active_adapters[0]].constants.projection
        made = self.projections.get(rule)
        if made is None or made.device != features.device:
            made = self.projections[rule] = projection(rule, features.shape[1], size).to(features.device)
        return features @ made

    def end(self, base: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        """Turns the base model's output into an answer."""
        current = self.route.current
        if current is None or current.mode == "base":
            return output
        answer = self.finish(output, current)
        return answer if answer is output or isinstance(output, ModelOutput) else answer.to_tuple()

    def leave(self, base: nn.Module, args: tuple, output: Any) -> None:
        """Ends a pass, also one that an error has ended."""
        self.route.leave()

    def weigh_tokens(self, mask: Tensor) -> Tensor:
        """How much each token counts in what is pooled for the signature: `[B, T]` → `[B, T, 1]`, float32."""
        return token_shares(mask)

    @abstractmethod
    def finish(self, output: Any, current: Pass) -> Any:
        """The answer of a pass that an adapter took part in."""


class HeadConductor(Conductor):
    """For bases without a head: the adapter's heads turn the last hidden states into answers."""

    targets = TARGETS

    def begin(self, base: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        passed = super().begin(base, args, kwargs)
        current = self.route.current
        if current is not None and current.mask is not None and not torch.compiler.is_compiling():
            self.check_mask(current.mask)
        return passed

    def check_mask(self, mask: Tensor) -> None:
        """Refuses a batch that is padded on the left.

        Raises:
            ValueError: says where to pad.
        """
        shifted = (mask[:, 0] == 0) & (mask != 0).any(1)
        if bool(shifted.any()):
            raise ValueError(
                f"`attention_mask`: {int(shifted.sum())} of {len(mask)} rows are padded on the left, but an encoder "
                "counts positions from there. Pad on the right, as it was trained: "
                '`tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")`.'
            )

    def plan(self, choice: Choice, tables: Tables, rows: int, likelihood: Tensor | None, group: Tensor | None) -> Plan:
        plan = super().plan(choice, tables, rows, likelihood, group)
        free = plan.members.device.type == "cpu" and not torch.compiler.is_compiling()
        if free and plan.row is None and plan.pair_group.unique().numel() == 1:
            # Where it costs nothing to know: one group for all rows is one product, of factors that are kept.
            plan.members = plan.members[:1]
            plan.weights = plan.weights[:1] if plan.weights is not None else None
            plan.key = tuple(plan.members[0].tolist())
        return plan

    def finish(self, output: Any, current: Pass) -> LifelongOutput:
        if not isinstance(output, ModelOutput) and any(isinstance(part, tuple) for part in output):
            raise ValueError(
                "`return_dict=False` was given with `output_hidden_states` or `output_attentions`, which an answer "
                "holds by name only; leave `return_dict` out."
            )
        if current.fork is None:
            answer = self._working(output[0], current)
        else:
            answer = self._answer(output[0], current, current.fork)
        if self.route.request is None:  # `predict` has no use for them
            answer.hidden_states = getattr(output, "hidden_states", None)
            answer.attentions = getattr(output, "attentions", None)
        return answer

    def _working(self, hidden: Tensor, current: Pass) -> LifelongOutput:
        objective = head_objective(current.kind)
        mask = mask_for(current.mask, hidden)
        logits = self.root.working_logits(hidden if objective.per_token else masked_mean(hidden, mask))
        if not set(objective.targets) <= set(current.targets):
            return LifelongOutput(logits=logits)
        return LifelongOutput(loss=objective.loss(logits, current.targets, mask), logits=logits)

    def _answer(self, hidden: Tensor, current: Pass, fork: Fork) -> LifelongOutput:
        tables, plan = fork.tables, fork.plan
        mask = mask_for(current.mask, hidden, plan.row)
        seen = hidden if tables.per_token else masked_mean(hidden, mask).unsqueeze(1)
        logits = self.root.plan_logits(seen, plan)
        # DriftNet's least uncertainty is that of the members alone.
        if fork.features is not None and fork.choice.policy != "uncertainty":
            with torch.autocast(hidden.device.type, enabled=False):
                logits = logits.float() + self.root.closed_logits(fork.features, plan)
        spread = row_distributions(logits, mask, plan, tables)
        allowed = tables.allowed(current.request.kinds)
        scores, group, uncertainty, margin = settle(fork.choice, plan, spread, fork.rows, tables.groups, allowed)
        if len(tables.objectives) > 1 and not torch.compiler.is_compiling():
            scores = without_padding(scores, group, tables, hidden.shape[1])
        distance = None
        if current.request.novelty and fork.features is not None:
            distance = self.root.novelty(fork.features, group)
        return LifelongOutput(
            scores=scores,
            group=group,
            task=tables.task[group],
            uncertainty=uncertainty,
            margin=margin,
            novelty=distance,
            last_hidden_state=hidden,
        )


@torch.compiler.disable
def prepare(base: nn.Module, root: Lifelong) -> None:
    """Checks what came into the model unchecked, and computes what all passes share; once after each change. Not
    compiled: one batch before `torch.compile(model, fullgraph=True)` keeps it out of the graph."""
    name = root.active_adapters[0]
    with LOCK:  # of several threads that come at once, one does it
        check_usable(base, name)
        if root.ready:
            return
        if root.router is not None:  # else there is no task yet
            tables, most = root.tables(root.where()), root.config[name].resident_groups
            if most is not None:
                root.residence = Residence(base, name, min(most * tables.merged.shape[1], len(tables.every_member)))
        root.ready = True


def _by_name(names: list[str], args: tuple) -> dict[str, Any]:
    """Positional arguments by the names of the parameters; without `zip`, whose `strict` not every Dynamo traces."""
    return {names[i]: value for i, value in enumerate(args[: len(names)])}


def _as_passed(names: list[str], args: tuple, given: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Splits named arguments again into positional ones, as many as there were, and the others."""
    positional = names[: len(args)]
    rest = {k: v for k, v in given.items() if k not in positional}
    return (*(given[name] for name in positional), *args[len(names) :]), rest


def _choice(request: Request, config: DriftAdapterConfig) -> Choice | None:
    if request.policy == "features":
        return None
    return Choice(
        request.policy or config.retrieval,
        request.uncertainty or config.uncertainty,
        request.answer or config.answer,
        config.per_batch if request.per_batch is None else request.per_batch,
    )


def _attention_mask(kwargs: dict[str, Any]) -> Tensor | None:
    mask = kwargs.get("attention_mask")
    if isinstance(mask, Mapping):  # one mask for each sort of attention
        mask = mask.get("full_attention")
    tokens = kwargs.get("input_ids")
    tokens = kwargs.get("inputs_embeds") if tokens is None else tokens
    if mask is not None and mask.dim() == 4 and tokens is not None:  # what each token sees: padding is seen by none
        seen = (mask if mask.dtype == torch.bool else mask >= 0)[:, 0].any(1)
        return seen[:, : tokens.shape[1]].long()
    if mask is not None and mask.dim() == 2:
        return mask
    return None if tokens is None else torch.ones(tokens.shape[:2], dtype=torch.long, device=tokens.device)


def mask_for(mask: Tensor | None, hidden: Tensor, row: Tensor | None = None) -> Tensor:
    if mask is None:
        return torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
    return mask if row is None else mask[row]


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
