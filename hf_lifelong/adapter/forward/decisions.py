"""The decisions of a pass that depend on the numbers in its tensors, not only on their shapes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ...retrieval import Evidence, Routing
from ..checks import check_usable
from ..heads import Lifelong
from ..index import Index, Tables
from .context import LOCK, Pass
from .plan import Plan, left_to_base
from .query import Query
from .residence import Residence


class Planner(Protocol):
    """What decisions need from the hooks of a base ([`Conductor`])."""

    root: Lifelong

    def plan(self, query: Query, tables: Tables, routing: Routing, rows: int) -> Plan: ...

    def finish(self, output: Any, current: Pass) -> Any: ...


class Decisions:
    """Makes the decisions of real passes. Code that runs a model without numbers, only with shapes, replaces it
    (`Conductor.decisions`)."""

    def prepare(self, base: nn.Module, root: Lifelong) -> None:
        """Makes an adapter ready to answer."""
        if not root.ready or root.signature.mean.dtype != torch.float32:
            _prepare(base, root)

    def check_mask(self, mask: Tensor) -> None:
        """Refuses a batch that is padded on the left.

        Raises:
            ValueError: says where to pad.
        """
        shifted = (mask[:, 0] == 0) & (mask != 0).any(1)
        if bool(shifted.any()):
            raise ValueError(
                f"`attention_mask`: {int(shifted.sum())} of {len(mask)} rows are padded on the left, but an encoder "
                "counts positions from the left. Pad on the right, as in its training: "
                '`tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")`.'
            )

    def fork(
        self, conductor: Planner, query: Query, tables: Tables, features: Tensor | None, rows: int
    ) -> tuple[Routing, Plan]:
        """The routing of `rows` inputs, and the plan of the members that answer them."""
        routing = query.policy.route(evidence_of(query, conductor.root.index, tables, features, rows))
        if tables.numeric is not None and not query.each_member:
            routing = comparable(routing, tables.numeric)
        plan = conductor.plan(query, tables, routing, rows)
        if query.leaves_unknown and features is not None and routing.settled is not None:
            far = conductor.root.index.novelty(features, routing.settled[0]) > 1
            if torch.compiler.is_compiling() or bool(far.any()):
                plan = left_to_base(plan, far)
        return routing, plan

    def finish(self, conductor: Planner, output: Any, current: Pass) -> Any:
        """The answer of a pass."""
        return conductor.finish(output, current)


def comparable(routing: Routing, numeric: Tensor) -> Routing:
    """A routing in which the candidates' uncertainties can be compared. Merged members do not tell how uncertain a
    number is. If a candidate of a row answers with numbers, the row's only candidate is the group that the trunk
    prefers.

    Args:
        numeric (`Tensor`): `[groups]` bool, whether a group answers with numbers.
    """
    if routing.candidates is None or routing.group is None:
        return routing
    best = torch.zeros_like(routing.candidates).scatter(1, routing.group[:, None], True)
    in_question = (routing.candidates & numeric).any(1, keepdim=True)
    return replace(routing, candidates=torch.where(in_question, best, routing.candidates))


def evidence_of(query: Query, index: Index, tables: Tables, features: Tensor | None, rows: int) -> Evidence:
    """The evidence for the policy of a query."""
    allowed, likelihood = tables.allowed(query.kinds, query.groups), None
    if query.policy.needs_likelihood and features is not None:
        likelihood = index.likelihood(features, allowed)
    return Evidence(
        rows=rows,
        groups=tables.groups,
        group_of_task=tables.group_of_task,
        features=features,
        likelihood=likelihood,
        signature=index.signature,
        allowed=allowed,
        group=query.group,
        per_batch=query.per_batch,
    )


@torch.compiler.disable
def _prepare(base: nn.Module, root: Lifelong) -> None:
    """Checks tensors that were loaded without a check, and computes the values that all passes share; once after each
    change. Not compiled: one batch before `torch.compile(model, fullgraph=True)` keeps it out of the graph."""
    name = root.active_adapters[0]
    with LOCK:  # only one of several threads does this
        check_usable(base, name)
        if root.ready:
            return
        if root.index.router is not None:  # otherwise there is no task yet
            tables, most = root.index.tables(root.where()), root.config[name].resident_groups
            if most is not None:
                root.residence = Residence(base, name, min(most * tables.merged.shape[1], len(tables.every_member)))
        root.ready = True
