"""A forward pass as a sequence of values, each created once: query → routing → plan → answer.

`query` is what is asked, `retrieval` (a package of its own) routes the inputs, `plan` chooses the members that run,
and `answer` combines their outputs. `context` holds the values of running calls; the hooks in `conductor`, `encoder`
and `causal` create them. Callers use `predict` and `generate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...utils.lazy import lazily

if TYPE_CHECKING:
    from .answer import LifelongOutput
    from .causal import CausalConductor
    from .conductor import Conductor
    from .context import Pass, shared_lock
    from .decisions import Decisions, Planner
    from .decoding import decode_answers, stack_padded
    from .finite import NOWHERE
    from .generate import answer_prompts
    from .plan import Plan
    from .pooling import masked_mean
    from .predict import asking
    from .query import Query, query_of

__all__ = [
    "NOWHERE",
    "CausalConductor",
    "Conductor",
    "Decisions",
    "LifelongOutput",
    "Pass",
    "Plan",
    "Planner",
    "Query",
    "answer_prompts",
    "asking",
    "decode_answers",
    "masked_mean",
    "query_of",
    "shared_lock",
    "stack_padded",
]

__getattr__ = lazily(
    __name__,
    {
        "LifelongOutput": ".answer",
        "CausalConductor": ".causal",
        "Conductor": ".conductor",
        "Pass": ".context",
        "shared_lock": ".context",
        "Decisions": ".decisions",
        "Planner": ".decisions",
        "decode_answers": ".decoding",
        "stack_padded": ".decoding",
        "NOWHERE": ".finite",
        "answer_prompts": ".generate",
        "Plan": ".plan",
        "masked_mean": ".pooling",
        "asking": ".predict",
        "Query": ".query",
        "query_of": ".query",
    },
)
