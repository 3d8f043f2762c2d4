"""Bases without a head: the adapter's heads turn the last hidden states into answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from ...objectives import head_kind
from ..index import Tables
from .answer import LifelongOutput, row_distributions, settle, without_padding
from .conductor import Conductor
from .context import Pass
from .plan import Plan, merged_of_one
from .pooling import masked_mean
from .query import TARGETS, Query
from .values import Answer, Fork


class HeadConductor(Conductor):
    """For bases without a head."""

    targets = TARGETS

    def begun(self, base: nn.Module, kwargs: dict[str, Any], current: Pass) -> Pass:
        if current.mask is not None and not torch.compiler.is_compiling():
            self.decisions.check_mask(current.mask)
        return current

    def merged_of(self, tables: Tables, row: Tensor, group: Tensor) -> Plan:
        free = group.device.type == "cpu" and not torch.compiler.is_compiling()
        if free and group.unique().numel() == 1:
            # On a CPU, reading values costs nothing. One group for all rows is one product of cached factors.
            return merged_of_one(tables, row, group)
        return super().merged_of(tables, row, group)

    def finish(self, output: Any, current: Pass) -> LifelongOutput:
        if not isinstance(output, ModelOutput) and any(isinstance(value, tuple) for value in output):
            raise ValueError(
                "`return_dict=False` was given with `output_hidden_states` or `output_attentions`, which an answer "
                "only holds by name; leave `return_dict` out."
            )
        hidden, whole = output[0], self.context.call is None  # a call does not need the base's other outputs
        extras = {key: getattr(output, key, None) for key in ("hidden_states", "attentions")} if whole else {}
        if current.query is None or current.fork is None:
            return self._working(hidden, current, extras)
        answer = self._answer(hidden, current, current.query, current.fork)
        return LifelongOutput(
            scores=answer.scores,
            group=answer.group,
            task=answer.task,
            uncertainty=answer.uncertainty,
            margin=answer.margin,
            novelty=answer.novelty,
            states=answer.states,
            last_hidden_state=hidden if whole else None,
            **extras,
        )

    def _working(self, hidden: Tensor, current: Pass, extras: dict[str, Any]) -> LifelongOutput:
        kind = head_kind(current.kind)
        mask = self.mask_of(current, hidden)
        logits = self.root.working_logits(hidden if kind.per_token else self._whole(hidden, mask))
        if not set(kind.targets) <= set(current.targets):
            return LifelongOutput(logits=logits, **extras)
        return LifelongOutput(loss=kind.loss(logits, current.targets, mask), logits=logits, **extras)

    def _answer(self, hidden: Tensor, current: Pass, query: Query, fork: Fork) -> Answer:
        tables, plan = fork.tables, fork.plan
        mask = self.mask_of(current, hidden, plan.row)
        states = None if tables.per_token and not query.states else self._whole(hidden, mask)
        head_input = hidden if tables.per_token or states is None else states.unsqueeze(1)
        logits = self.root.plan_logits(head_input, plan)
        # DriftNet compares the uncertainty of the members alone.
        if fork.features is not None and not query.policy.every_member:
            with torch.autocast(hidden.device.type, enabled=False):
                logits = logits.float() + self.root.closed_logits(fork.features, plan)
        answer = settle(query, fork, row_distributions(logits, mask, plan, tables), states if query.states else None)
        if len(tables.objectives) > 1 and not torch.compiler.is_compiling() and answer.scores is not None:
            answer = replace(answer, scores=without_padding(answer.scores, answer.group, tables, hidden.shape[1]))
        if query.novelty and fork.features is not None:
            answer = replace(answer, novelty=self.root.index.novelty(fork.features, answer.group))
        return answer

    def _whole(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """What a head for whole inputs reads, float32: `[N, T, H]` → `[N, H]`."""
        mean = masked_mean(hidden, mask)
        if self.positions is None or not self.positions.class_share:
            return mean
        return torch.lerp(mean, hidden[:, 0].float(), self.positions.class_share)
