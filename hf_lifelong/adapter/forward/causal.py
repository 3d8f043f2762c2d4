"""Language models: the prefill chooses the groups, and the answer continues with them.

The choice is stored with the cache that the prefill filled. It therefore lasts as long as the answer, and several
answers can be under way at once, however generation calls the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ...compat import cache_in, cache_of, is_packed
from ...knowledge import KnowledgeBase
from ...objectives import IGNORED, LOG_2
from ...retrieval import BUILT_IN
from ..heads import Lifelong
from ..index import Tables
from .answer import LifelongOutput, settle
from .conductor import Conductor
from .context import Factors, Pass
from .plan import Plan, merged, merged_by_group
from .pooling import mask_for, token_shares
from .query import Query
from .values import Answer, Fork

# Largest number of logits that the members may compute at once (float32, 0.5 GB).
MOST_LOGITS = 2**27
# Largest number of rows whose factors are kept while they are answered.
MOST_KEPT_ROWS = 8


@dataclass(frozen=True, eq=False)
class UnderWay:
    """An answer that continues from pass to pass, with the cache that its prompt filled.

    Args:
        plan ([`Plan`]): The members of each of its rows.
        knowledge ([`KnowledgeBase`]): The adapter's manifest at the prefill, by which the plan numbers members.
        factors (`dict`, *optional*): The factors of its rows, which its passes share.
        several (`bool`): Whether a pass may add more than one token.
    """

    plan: Plan
    knowledge: KnowledgeBase
    factors: Factors | None = None
    several: bool = False


class CausalConductor(Conductor):
    """For causal language models, whose own head answers. The base's output is not changed."""

    without_cache = {"use_cache": False}

    def __init__(self, base: nn.Module, root: Lifelong, trunk: int, depths: list[int], pooling: str) -> None:
        super().__init__(base, root, trunk, depths, pooling)
        self.under_way: WeakKeyDictionary[Any, UnderWay] = WeakKeyDictionary()

    def begun(self, base: nn.Module, kwargs: dict[str, Any], current: Pass) -> Pass:
        cache, rows = cache_in(kwargs), _size(kwargs)[0]
        if cache is not None and cache.get_seq_length():
            return self._going_on(current, cache, kwargs) if current.mode == "bank" else current
        if kwargs.get("position_ids") is None and current.mask is not None:
            # Absolute positions would otherwise count padding on the left.
            kwargs["position_ids"] = positions(current.mask)
        query = current.query
        if query is None or query.only_features:
            return current
        if query.group is None:
            refuse_unsure_routing(kwargs)
            if kwargs.get("labels") is not None:
                current = replace(current, prompt=prompt_tokens(kwargs["labels"], current.mask))
        elif len(query.group) != rows:  # beams
            query = replace(query, group=query.group.repeat_interleave(rows // len(query.group)))
        if query.policy.asks_members and not query.only_vote:
            mask = current.mask if current.prompt is None else current.prompt
            voted = self._vote_first(base, kwargs, mask, query)
            query = replace(query, policy=BUILT_IN["oracle"], group=voted.group)
            return replace(current, query=query, voted=voted)
        return replace(current, query=query)

    def weigh_tokens(self, mask: Tensor) -> Tensor:
        """Gives all tokens the same weight except the first, whose hidden state is large and the same in all texts."""
        later = mask * (mask.cumsum(1) > 1)
        return token_shares(torch.where(later.any(1, keepdim=True), later, mask))

    def finish(self, output: Any, current: Pass) -> Any:
        query, fork = current.query, current.fork
        if query is None or fork is None:  # a task is being learned, or an answer continues
            return output
        if query.only_vote:
            return self._vote(output.logits, current.mask, query, fork)
        answer = current.voted
        if answer is None and fork.routing.settled is not None:
            group, margin = fork.routing.settled
            answer = Answer(group, fork.tables.task[group], margin)
        call = self.context.call
        if call is not None and answer is not None:
            if query.novelty and fork.features is not None:
                answer = replace(answer, novelty=self.root.index.novelty(fork.features, answer.group))
            call.answer = answer
        cache = cache_of(output)
        if cache is not None:
            # The rows' factors are kept, so they are not gathered for each token. With many rows they would fill the
            # memory.
            factors: Factors | None = {} if fork.rows <= MOST_KEPT_ROWS else None
            # Seats belong to this pass only.
            self.under_way[cache] = UnderWay(replace(fork.plan, seats=None), self._knowledge, factors)
        return output

    @property
    def _knowledge(self) -> KnowledgeBase:
        return self.root.knowledge[self.root.active_adapters[0]]

    def __getstate__(self) -> dict[str, Any]:
        # A weak dictionary cannot be pickled, and no answer is under way in a copy.
        return self.__dict__ | {"under_way": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.under_way = WeakKeyDictionary()

    def follow(self, cache: Any, row: Tensor) -> None:
        """Lets a pass add several tokens to a cache whose rows were reordered.

        Args:
            row (`Tensor`): `[N]`, the row of the prefill for each row of the cache.
        """
        plan = self.under_way[cache].plan
        if plan.index is not None:
            plan = replace(plan, index=plan.index[row])
        self.under_way[cache] = UnderWay(plan, self._knowledge, several=True)

    def _going_on(self, current: Pass, cache: Any, kwargs: Mapping[str, Any]) -> Pass:
        """The pass that adds tokens to an answer."""
        answer, (rows, tokens) = self.under_way.get(cache), _size(kwargs)
        index = answer.plan.index if answer is not None else None
        if answer is None or answer.knowledge is not self._knowledge or (index is not None and len(index) != rows):
            raise ValueError(
                "The cache was not filled by this model with this batch and this adapter as it is now, so the "
                "groups of its rows are not known. Give the whole prompt in one pass, without a cache."
            )
        if tokens > 1 and not answer.several:
            raise ValueError(
                f"{tokens} tokens follow a cache at once. Groups are chosen once, on the whole prompt, so chunked "
                "prefill (`prefill_chunk_size`), assisted decoding (`assistant_model`, `prompt_lookup_num_tokens`) "
                "and a further turn on an old cache are not supported: give the whole prompt to `generate` instead."
            )
        plan = answer.plan
        if self.root.residence is not None:  # other answers may hold these seats
            plan = replace(plan, seats=self.root.residence.seats_of(plan.members, plan.key))
        return replace(current, plan=plan, factors=answer.factors)

    def merged_of(self, tables: Tables, row: Tensor, group: Tensor) -> Plan:
        if not torch.compiler.is_compiling():
            return merged_by_group(tables, row, group)
        # A number of groups that depends on values would break the graph.
        return replace(merged(tables, row, group, expand=False), index=row if len(row) > 1 else None)

    def _vote_first(self, base: nn.Module, kwargs: dict[str, Any], mask: Tensor | None, query: Query) -> Answer:
        """Asks all members for the least uncertain group, in separate passes without a cache, because the rows of all
        members would fill it."""
        names = ("input_ids", "inputs_embeds", "position_ids")
        inputs = {name: kwargs[name] for name in names if kwargs.get(name) is not None} | {"attention_mask": mask}
        rows, tokens = _size(kwargs)
        members = self._knowledge.member_offsets[-1]
        vocabulary = int(base.config.vocab_size)  # type: ignore[union-attr, arg-type]
        step = rows if query.per_batch else max(1, MOST_LOGITS // (members * tokens * vocabulary))
        with self.context.asking(replace(query, only_vote=True)):
            votes = [
                base(**{k: v.expand(rows, *v.shape[1:])[i : i + step] for k, v in inputs.items()}, use_cache=False)
                for i in range(0, rows, step)
            ]
        return Answer(
            **{k: torch.cat([vote[k] for vote in votes]) for k in ("group", "task", "margin", "uncertainty")}
        )

    def _vote(self, logits: Tensor, mask: Tensor | None, query: Query, fork: Fork) -> LifelongOutput:
        spread = token_distributions(logits, mask_for(mask, logits, fork.plan.row))
        answer = settle(query, fork, spread)
        return LifelongOutput(
            group=answer.group, task=answer.task, uncertainty=answer.uncertainty, margin=answer.margin
        )


def token_distributions(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Next-token distributions of texts in the form that `settle` takes. All tokens have the same weight.

    Args:
        logits (`Tensor`): `[N, T, V]`.
        mask (`Tensor`): `[N, T]`.

    Returns:
        `probabilities [N, T, V]`, `weights [N, T]`, `log_classes [N, T]`, float32.
    """
    weights = mask.float() / mask.sum(1, keepdim=True).clamp_min(1)
    log_classes = torch.full_like(weights, max(torch.tensor(float(logits.shape[-1])).log().item(), LOG_2))
    return logits.float().softmax(-1), weights, log_classes


def prompt_tokens(labels: Tensor, mask: Tensor | None) -> Tensor:
    """The tokens of the prompts, `[B, T]`: those before the first that has a label; all of a text without such."""
    mask = torch.ones_like(labels) if mask is None else mask
    prompt = mask * ((labels != IGNORED).cumsum(1) == 0)
    return torch.where(prompt.any(1, keepdim=True), prompt, mask)


def positions(mask: Tensor) -> Tensor:
    """Position of each token, not counting padding, `[B, T]` → `[B, T]`; 0 for padding on the left."""
    return (mask.cumsum(1) - 1).clamp_min(0)


def refuse_unsure_routing(kwargs: Mapping[str, Any]) -> None:
    """Refuses ways of generating in which groups would be chosen on anything but one whole prompt.

    Raises:
        ValueError: says what to leave out.
    """
    if is_packed(kwargs):
        raise ValueError(
            "Continuous batching packs the tokens of several requests into one row, so a group cannot be chosen for "
            "each prompt; use `generate`, whose batches may mix tasks."
        )
    if kwargs.get("use_cache") is False and isinstance(kwargs.get("logits_to_keep"), int) and kwargs["logits_to_keep"]:
        raise ValueError(
            "`use_cache=False`: without a cache each new token would choose a group again, from prompt and answer. "
            'Leave it on, or fix the group: `hf_lifelong.generate(model, batch, policy="oracle", group=...)`. (For a '
            "single pass, leave out `logits_to_keep`.)"
        )


def _size(kwargs: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and tokens of the base's input."""
    tokens = kwargs.get("input_ids")
    tokens = kwargs["inputs_embeds"] if tokens is None else tokens
    return tokens.shape[0], tokens.shape[1]
