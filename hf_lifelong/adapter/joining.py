"""Adds what one adapter has learned to another on the same base."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from ..evaluation import is_name
from ..knowledge import UNKNOWN, KnowledgeBase, joined, renamed
from ..storage import sizes_of
from .bank import drift_modules, put, set_knowledge
from .checks import check_usable
from .heads import active_adapter, active_config, knowledge_of, lifelong_of

# Settings by which members are built and asked. If one differed, the tasks of one adapter would be answered otherwise
# than before.
SHARED_SETTINGS = (
    "task_type",
    "target_modules",
    "r",
    "lora_alpha",
    "retrieval",
    "uncertainty",
    "answer",
    "per_batch",
    "unknown",
    "signature_rank",
    "signature_size",
    "signature_shrinkage",
    "max_length",
    "stride",
)


def union(model: Any, other: Any, rename: Mapping[str, str] | None = None) -> Any:
    """Adds everything that `other` has learned to `model`, which then knows the tasks of both, its own first. `other`
    stays as it is.

    Members, heads and signatures are copied bit by bit, so each group answers as before. What tasks share is computed
    from all of them, as if one model had learned them in this order, each from a fresh start (`start_from="fresh"`).
    Groups are not joined: a task that both have learned under two names stays in two groups. Scores are dropped; run
    `trainer.evaluate()` for new ones.

    Args:
        model, other (`PeftModel`): Models with a lifelong adapter, on the same base and with the same settings.
        rename (`dict[str, str]`, *optional*): Task of `other` → its name in `model`, for names that both have.

    Returns:
        `model`.

    Raises:
        ValueError: when a task is being learned, bases, settings or constants differ, or a name is clashing. `model`
            is then as before.
    """
    for one in (model, other):
        if lifelong_of(one).task is not None:
            raise ValueError("A task is being learned, and members of half a task cannot be joined. Wait for its end.")
        if knowledge_of(one).tasks:
            check_usable(one, active_adapter(one))
    for name in (rename or {}).values():
        if not is_name(name) or name == UNKNOWN:
            raise ValueError(
                f"`rename` gives a task the name {name!r:.100}; give printable characters, at least one, and not "
                f"{UNKNOWN!r}."
            )
    before, more = knowledge_of(model), renamed(knowledge_of(other), rename or {})
    _check_bases(before, more)
    _check_settings(active_config(model).to_dict(), active_config(other).to_dict())
    knowledge = joined(before, more)
    if not more.tasks:
        return model
    end, others = sizes_of(before), dict(drift_modules(other))
    for name, module in drift_modules(model):
        held = others[name].held(active_adapter(other))
        for spec in module.specs:
            if spec.per is not None and spec.name in held:
                at_end = slice(end[spec.per], end[spec.per])
                put(module, spec, active_adapter(model), at_end, held[spec.name].detach())
    set_knowledge(model, knowledge)
    return model


def _check_settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    for name in SHARED_SETTINGS:
        if first[name] != second[name]:
            raise ValueError(
                f"The adapters differ in `{name}`: {first[name]!r:.100} in the first, {second[name]!r:.100} in the "
                "second. One adapter has one setting for all of its tasks, so only adapters with the same settings "
                "can be joined."
            )


def _check_bases(first: KnowledgeBase, second: KnowledgeBase) -> None:
    for name in ("model_type", "hidden_size", "layers", "fingerprint"):
        if first.base.get(name) != second.base.get(name):
            raise ValueError(
                f"The adapters were trained on different bases: `{name}` is {first.base.get(name)!r} for the first "
                f"and {second.base.get(name)!r} for the second. Only adapters on one base can be joined."
            )
    if first.trunk != second.trunk:
        raise ValueError(
            f"The adapters have different trunks ({first.trunk} and {second.trunk} layers), so their signatures lie "
            "in different hidden states. Only adapters with the same `trunk_depth` can be joined."
        )
    if (first.depths, first.pooling) != (second.depths, second.pooling):
        raise ValueError(
            "The signatures of the adapters are made of different hidden states, as those of different versions of "
            "this package can be. Learn the tasks of the older one again."
        )
    if first.base.get("dtype") != second.base.get("dtype"):
        warnings.warn(
            f"The adapters were trained on a base in {first.base.get('dtype')} and in {second.base.get('dtype')}: "
            "answers of the second one's tasks may differ slightly.",
            stacklevel=3,
        )
