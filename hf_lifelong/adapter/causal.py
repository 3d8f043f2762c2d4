"""Language models: groups are chosen in the prefill, and the answer goes on with them.

What was chosen is kept beside the cache that the prefill filled, so that it holds for as long as the answer does and
several answers can be under way at once, in whichever way generation calls the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..knowledge import KnowledgeBase, margin_of
from ..objectives.numeric import LOG_2
from .calls import Fork, Found, Pass
from .heads import Lifelong
from .hooks import Conductor, LifelongOutput, mask_for
from .layers import Plan
from .planning import Choice, Tables, settle
from .pooling import token_shares

# Most numbers of next-token distributions that the members of a few rows may give at once (float32, 0.5 GB).
MOST_LOGITS = 2**27
# Most rows of different groups whose factors are kept while they are answered.
MOST_KEPT_ROWS = 8


@dataclass
class Kept:
    """What goes on with a cache.

    Args:
        plan (`Plan`): The members of each of its rows.
        knowledge (`KnowledgeBase`): What the adapter knew, whose members the plan numbers.
        several (`bool`): Whether more than one token at a time may follow.
    """

    plan: Plan
    knowledge: KnowledgeBase
    several: bool = False


class CausalConductor(Conductor):
    """For causal language models, whose own head answers: the base's output stays what it is."""

    without_cache = {"use_cache": False}

    def __init__(self, base: nn.Module, root: Lifelong, trunk: int, depths: list[int]) -> None:
        super().__init__(base, root, trunk, depths)
        self.kept: WeakKeyDictionary[Any, Kept] = WeakKeyDictionary()

    def begin(self, base: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
        passed = super().begin(base, args, kwargs)
        current = self.route.current
        if passed is None or current is None:
            return passed
        kwargs = passed[1]
        cache = kwargs.get("past_key_values")
        rows, tokens = _size(kwargs)
        if cache is not None and cache.get_seq_length():
            if current.mode == "bank":
                self._go_on(current, cache, rows, tokens)
            return passed
        if kwargs.get("position_ids") is None and current.mask is not None:
            # Absolute positions would otherwise count padding on the left.
            kwargs["position_ids"] = positions(current.mask)
        if current.mode != "bank" or current.choice is None:
            return passed
        if current.group is None:
            refuse_unsure_routing(kwargs)
        elif len(current.group) != rows:
            current.group = current.group.repeat_interleave(rows // len(current.group))  # beams
        if current.choice.policy in ("uncertainty", "cascade") and not current.request.vote:
            self._vote_first(base, kwargs, current)
        return passed

    def weigh_tokens(self, mask: Tensor) -> Tensor:
        """All tokens count alike but the first, whose hidden state is the same large one in every text."""
        later = mask * (mask.cumsum(1) > 1)
        return token_shares(torch.where(later.any(1, keepdim=True), later, mask))

    def finish(self, output: Any, current: Pass) -> Any:
        fork = current.fork
        if fork is None:  # a task is being learned, or an answer goes on
            return output
        if current.request.vote:
            return self._vote(output.logits, current, fork)
        group, found = fork.plan.pair_group, current.request.found
        if found is None:  # else the members have voted
            preference = fork.plan.preference
            margin = margin_of(preference) if preference is not None else torch.ones_like(group, dtype=torch.float32)
            found = Found(group, fork.tables.task[group], margin)
        if current.request.novelty and fork.features is not None:
            found.novelty = self.root.novelty(fork.features, group)
        current.request.found = found
        cache = getattr(output, "past_key_values", None)
        if cache is not None:
            # Kept, the rows' factors are not gathered again for each token; of many rows they would fill the memory.
            fork.plan.factors = {} if fork.rows <= MOST_KEPT_ROWS else None
            self.kept[cache] = Kept(fork.plan, self._knowledge)
        return output

    @property
    def _knowledge(self) -> KnowledgeBase:
        return self.root.knowledge[self.root.active_adapters[0]]

    def __getstate__(self) -> dict[str, Any]:
        # A weak dictionary cannot be pickled, and no answer is under way in a copy.
        return self.__dict__ | {"kept": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.kept = WeakKeyDictionary()

    def follow(self, cache: Any, row: Tensor) -> None:
        """Lets several tokens at once follow a cache whose rows were chosen anew.

        Args:
            row (`Tensor`): `[N]`, the row of the prefill that each row of the cache is now.
        """
        plan = self.kept[cache].plan
        if plan.index is not None:
            plan = replace(plan, index=plan.index[row], factors=None)
        self.kept[cache] = Kept(plan, self._knowledge, several=True)

    def _go_on(self, current: Pass, cache: Any, rows: int, tokens: int) -> None:
        kept = self.kept.get(cache)
        index = kept.plan.index if kept is not None else None
        if kept is None or kept.knowledge is not self._knowledge or (index is not None and len(index) != rows):
            raise ValueError(
                "`past_key_values` was not filled by this model with this batch and this adapter as it is now, so the "
                "groups of its rows are not known. Give the whole prompt in one pass, without a cache."
            )
        if tokens > 1 and not kept.several:
            raise ValueError(
                f"{tokens} tokens follow a cache at once. Groups are chosen once, on the whole prompt, so chunked "
                "prefill (`prefill_chunk_size`), assisted decoding (`assistant_model`, `prompt_lookup_num_tokens`) "
                "and a further turn on an old cache are not supported: give the whole prompt to `generate` instead."
            )
        current.routed = True
        current.plan = kept.plan
        if self.root.residence is not None:  # other answers may have taken the seats
            self.root.residence.seat(kept.plan, current)

    def plan(self, choice: Choice, tables: Tables, rows: int, likelihood: Tensor | None, group: Tensor | None) -> Plan:
        plan = super().plan(choice, tables, rows, likelihood, group)
        if plan.row is None and torch.compiler.is_compiling():  # how many groups there are would end a graph
            plan.index = torch.arange(rows, device=plan.members.device) if rows > 1 else None
        elif plan.row is None:  # a group's members are merged once for all its rows, and for the passes that follow
            groups, index = torch.unique(plan.pair_group, return_inverse=True)
            first = torch.zeros_like(groups).scatter_(0, index, torch.arange(rows, device=groups.device))
            plan.members = plan.members[first]
            plan.weights = plan.weights[first] if plan.weights is not None else None
            plan.key = tuple(plan.members.flatten().tolist())
            plan.index = index if len(groups) > 1 else None
        return plan

    def _vote_first(self, base: nn.Module, kwargs: dict[str, Any], current: Pass) -> None:
        """Asks all members for the least uncertain group, in a pass of its own without a cache: the rows of all
        members would fill it."""
        names = ("input_ids", "inputs_embeds", "position_ids")
        asked = {name: kwargs[name] for name in names if kwargs.get(name) is not None} | {
            "attention_mask": current.mask
        }
        rows, tokens = _size(kwargs)
        members = self._knowledge.member_offsets[-1]
        vocabulary = int(base.config.vocab_size)  # type: ignore[union-attr, arg-type]
        step = max(1, MOST_LOGITS // (members * tokens * vocabulary))
        step = rows if current.choice is not None and current.choice.per_batch else step
        with self.route.asking(replace(current.request, vote=True)):
            votes = [
                base(**{k: v.expand(rows, *v.shape[1:])[i : i + step] for k, v in asked.items()}, use_cache=False)
                for i in range(0, rows, step)
            ]
        found = Found(*(torch.cat([vote[k] for vote in votes]) for k in ("group", "task", "margin", "uncertainty")))
        current.group, current.request.found = found.group, found
        current.choice = replace(current.choice, policy="oracle")  # type: ignore[type-var]

    def _vote(self, logits: Tensor, current: Pass, fork: Fork) -> LifelongOutput:
        mask = mask_for(current.mask, logits, fork.plan.row)
        spread = token_distributions(logits, mask)
        _, group, uncertainty, margin = settle(fork.choice, fork.plan, spread, fork.rows, fork.tables)
        return LifelongOutput(group=group, task=fork.tables.task[group], uncertainty=uncertainty, margin=margin)


def token_distributions(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Next-token distributions of a text as `planning.settle` takes them: each token counts the same.

    Args:
        logits (`Tensor`): `[N, T, V]`.
        mask (`Tensor`): `[N, T]`.

    Returns:
        `probabilities [N, T, V]`, `weights [N, T]`, `log_classes [N, T]`, float32.
    """
    weights = mask.float() / mask.sum(1, keepdim=True).clamp_min(1)
    log_classes = torch.full_like(weights, max(torch.tensor(float(logits.shape[-1])).log().item(), LOG_2))
    return logits.float().softmax(-1), weights, log_classes


def positions(mask: Tensor) -> Tensor:
    """Position of each token among those that are no padding, `[B, T]` → `[B, T]`; 0 for padding on the left."""
    return (mask.cumsum(1) - 1).clamp_min(0)


def refuse_unsure_routing(kwargs: Mapping[str, Any]) -> None:
    """Refuses ways of generating in which groups would be chosen on something else than one whole prompt.

    Raises:
        ValueError: says what to leave out.
    """
    if "cache" in kwargs or "cu_seq_lens_q" in kwargs:
        raise ValueError(
            "Continuous batching packs the tokens of several requests into one row, so that no request has a prompt "
            "of its own to choose a group by; use `generate`, whose batches may mix tasks."
        )
    if kwargs.get("use_cache") is False and isinstance(kwargs.get("logits_to_keep"), int) and kwargs["logits_to_keep"]:
        raise ValueError(
            "`use_cache=False`: without a cache each new token would choose a group anew, from prompt and answer. "
            'Leave it on, or fix the group: `hf_lifelong.generate(model, batch, policy="oracle", group=...)`. (For a '
            "single pass, leave out `logits_to_keep`.)"
        )


def _size(kwargs: Mapping[str, Any]) -> tuple[int, int]:
    given = kwargs.get("input_ids")
    given = kwargs["inputs_embeds"] if given is None else given
    return given.shape[0], given.shape[1]
