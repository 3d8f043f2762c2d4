"""Turns the outputs of the members that ran into one answer per input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from ...objectives import MemberAnswers, entropy_of_mean, mean_by_pair, variance_between
from ..index import Tables
from .plan import Plan
from .query import Query
from .values import Answer, Fork


@dataclass
class LifelongOutput(ModelOutput):
    """Output of a base model with a lifelong adapter, and of `predict`.

    While a task is being learned: `loss` (with targets) and `logits` of the working adapter. Otherwise, for B inputs:

    Args:
        scores (`Tensor`, *optional*): `[B, D, C]`, zero padded. The probabilities that the answer is read from: for
            text classification D = 1 and C labels; for question answering D = 2 (start, end) and C tokens; for token
            classification D tokens and C labels. For kinds that answer with numbers, the numbers: for text regression
            D = C = 1.
        logits (`Tensor`, *optional*): `[B, T, V]`, next-token logits of a language model.
        group (`Tensor`): `[B]`, the group that answered.
        task (`Tensor`): `[B]`, position of that group's newest task, whose kind and labels the scores belong to.
        uncertainty (`Tensor`): `[B]`, uncertainty of the answer.
        margin (`Tensor`): `[B]`, by how much the group was preferred to the next one.
        novelty (`Tensor`, *optional*): `[B]`, distance from the task as a share of the limit; above 1 the input is
            unknown.
        states (`Tensor`, *optional*): `[B, H]`, float32, the last hidden states of the members that answered, as the
            mean over tokens (and over members that ran one by one).
        last_hidden_state (`Tensor`): From the base model, with one row for each member that ran on an input.
        hidden_states, attentions (`tuple[Tensor]`, *optional*): From the base model, if requested. Above the trunk,
            they have one row for each member that ran on an input.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    scores: Tensor | None = None
    group: Tensor | None = None
    task: Tensor | None = None
    uncertainty: Tensor | None = None
    margin: Tensor | None = None
    novelty: Tensor | None = None
    states: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


def row_distributions(logits: Tensor, mask: Tensor, plan: Plan, tables: Tables) -> tuple[Tensor, Tensor, Tensor]:
    """The distributions from which each row's kind reads its answer.

    Every kind of the adapter is computed for all rows, and each row keeps the result of its own kind. Compared with
    the base's layers this costs nothing, and no shape depends on the choice of groups.

    Args:
        logits (`Tensor`): `[N, T, W]`, or `[N, 1, W]` of pooled texts unless `tables.per_token`.
        mask (`Tensor`): `[N, T]`.

    Returns:
        `probabilities [N, D, C]`, `weights [N, D]`, `log_classes [N, D]`, padded to the largest D and C among the
        kinds: `log_classes` with ones, the others with zeros.
    """
    group = plan.pair_group[plan.pair]
    absent = torch.arange(logits.shape[-1], device=logits.device) >= tables.width[group][:, None, None]
    logits = logits.masked_fill(absent, float("-inf"))
    of_kinds = []
    for task_kind, widest in zip(tables.objectives, tables.widest_of, strict=True):
        if task_kind.per_token:
            of_kind = logits[..., :widest]
        else:
            of_kind = _masked_mean(logits, mask) if tables.per_token else logits.squeeze(1)
        of_kinds.append(task_kind.distributions(of_kind, mask))
    if len(of_kinds) == 1:
        return of_kinds[0]
    kind = tables.kind[group]
    probabilities, weights, log_classes = zip(*of_kinds, strict=True)
    return _by_kind(probabilities, kind, 0.0), _by_kind(weights, kind, 0.0), _by_kind(log_classes, kind, 1.0)


def _by_kind(of_kinds: tuple[Tensor, ...], kind: Tensor, fill: float) -> Tensor:
    """From one tensor `[N, …]` per kind, takes each row from the tensor of its kind, padded to the largest shape."""
    shape = [max(tensor.shape[axis] for tensor in of_kinds) for axis in range(1, of_kinds[0].dim())]
    padded = []
    for tensor in of_kinds:
        room = [size for most, actual in zip(shape, tensor.shape[1:], strict=True) for size in (most - actual, 0)]
        padded.append(nn.functional.pad(tensor, room[::-1], value=fill))
    return torch.stack(padded)[kind, torch.arange(len(kind), device=kind.device)]


def without_padding(scores: Tensor, group: Tensor, tables: Tables, tokens: int) -> Tensor:
    """Scores `[B, D, C]` cut to the size that the groups that answered need. Other kinds may need far more."""
    answered = group.unique()
    kinds, widths = tables.kind[answered].tolist(), tables.width[answered].tolist()
    sizes = [tables.objectives[kind].sizes(tokens, width) for kind, width in zip(kinds, widths, strict=True)]
    return scores[:, : max(d for d, _ in sizes), : max(c for _, c in sizes)]


def _masked_mean(logits: Tensor, mask: Tensor) -> Tensor:
    weight = (mask / mask.sum(1, keepdim=True).clamp_min(1)).to(logits.dtype)
    # A masked sum by product would turn the -inf of absent labels into NaN.
    mean = torch.einsum("nt,ntw->nw", weight, logits.masked_fill(logits.isneginf(), 0.0))
    return torch.where(logits[:, 0].isneginf(), logits[:, 0], mean)


def settle(
    query: Query, fork: Fork, distributions: tuple[Tensor, Tensor, Tensor], states: Tensor | None = None
) -> Answer:
    """Computes one answer per input from the outputs of all members that ran.

    Args:
        fork ([`Fork`]): The routing and the plan of the members that ran.
        distributions (`tuple` of `Tensor`): The result of `row_distributions`.
        states (`Tensor`, *optional*): `[N, H]`, pooled hidden states of all members that ran, if requested.
    """
    rows, tables, plan = fork.rows, fork.tables, fork.plan
    values, weights, log_classes = distributions
    pairs, mean = len(plan.pair_row), values
    if query.each_member:  # a pair has several rows
        mean = mean_by_pair(values, plan.pair, pairs)
        first = torch.zeros(pairs, dtype=torch.long, device=plan.pair.device).scatter_reduce(
            0, plan.pair, torch.arange(len(plan.pair), device=plan.pair.device), "amin", include_self=False
        )
        weights, log_classes = weights[first], log_classes[first]
        states = None if states is None else mean_by_pair(states, plan.pair, pairs)
    answers = MemberAnswers(values, plan.pair, mean, weights, log_classes, tables.unit[plan.pair_group])
    uncertainty = _uncertainty(query, tables, plan.pair_group, answers)
    if fork.routing.settled is not None:
        group, margin = fork.routing.settled
        return Answer(group, tables.task[group], margin, uncertainty, scores=mean, states=states)
    certainty = uncertainty.new_full((rows, tables.groups), float("-inf"))
    certainty[plan.pair_row, plan.pair_group] = -uncertainty
    allowed = tables.allowed(query.kinds, query.groups)
    if allowed is not None:
        certainty = certainty.masked_fill(~allowed, float("-inf"))
    if query.per_batch:
        certainty = certainty.mean(0, keepdim=True).expand(rows, -1)
    group, margin = query.policy.choose(fork.routing, certainty)
    pair_of = torch.zeros(rows, tables.groups, dtype=torch.long, device=group.device)
    pair_of[plan.pair_row, plan.pair_group] = torch.arange(pairs, device=group.device)
    pair = pair_of.gather(1, group[:, None]).squeeze(1)
    states = None if states is None else states[pair]
    return Answer(group, tables.task[group], margin, uncertainty[pair], scores=mean[pair], states=states)


def _uncertainty(query: Query, tables: Tables, group: Tensor, answers: MemberAnswers) -> Tensor:
    """Uncertainty of each pair's answer, `[pairs]`, by the measure of the kind of its group, `group` `[pairs]`."""
    by_variance = query.uncertainty == "variance" and query.each_member
    if not tables.measures:  # a language model
        return variance_between(answers) if by_variance else entropy_of_mean(answers)
    ways = [kind.uncertainty(answers, by_variance) for kind in tables.measures]
    if len(ways) == 1:
        return ways[0]
    return torch.stack(ways)[tables.measure[group], torch.arange(len(group), device=group.device)]
