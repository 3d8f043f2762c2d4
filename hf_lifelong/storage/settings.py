"""Checks of an adapter's settings and of the tasks they allow: the same for a new adapter and for a saved one.

They need neither PEFT nor a model, so a saved adapter can be inspected without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..knowledge import KnowledgeBase, LearnedTask
from ..objectives import fields_of, get_kind, kinds_on
from ..retrieval import check_policy
from ..utils.texts import is_unicode

UNCERTAINTIES = ("entropy", "variance")
ANSWERS = ("merged", "ensemble")
UNKNOWNS = ("nearest", "base")
TASK_TYPES = ("FEATURE_EXTRACTION", "CAUSAL_LM")

MOST_ALPHA = 1e6
# Returns what a value must be if it is wrong, and `None` if it is right.
Check = Callable[[Any], str | None]


def _choice(choices: Sequence[str]) -> Check:
    return lambda value: None if value in choices else f"choose one of {list(choices)}."


def _count(least: int, most: int) -> Check:
    def check(value: Any) -> str | None:
        right = isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
        return None if right else f"it must be an integer from {least} to {most}."

    return check


def _rank(value: Any) -> str | None:
    is_right = value == "full" or _count(1, 2**16)(value) is None
    return None if is_right else f'it must be an integer from 1 to {2**16}, or "full".'


def _number(is_right: Callable[[float], bool], words: str) -> Check:
    def check(value: Any) -> str | None:
        right = isinstance(value, int | float) and not isinstance(value, bool) and is_right(value)
        return None if right else f"it must be {words}."

    return check


def _optional(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _switch(value: Any) -> str | None:
    return None if isinstance(value, bool) else "it must be true or false."


def _modules(value: Any) -> str | None:
    return None if isinstance(value, str) or are_names(value) else "it must be a string or a set of strings."


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) else "it must be a string, as it is saved, or None."


def _task_type(value: Any) -> str | None:
    if value in TASK_TYPES:
        return None
    return (
        "heads belong to the adapter, so load the base with `AutoModel` and leave `task_type` out, or load a language "
        'model with `AutoModelForCausalLM` and give "CAUSAL_LM".'
    )


# Counts have an upper limit because a configuration may come from anyone, and memory is allocated by it before any
# tensor is read.
CHECKS: dict[str, Check] = {
    "task_type": _optional(_task_type),
    "retrieval": check_policy,
    "uncertainty": _choice(UNCERTAINTIES),
    "answer": _choice(ANSWERS),
    "unknown": _choice(UNKNOWNS),
    "r": _rank,
    "members": _count(1, 10_000),
    "signature_rank": _count(1, 2**16),
    "signature_size": _count(1, 2**20),
    "max_length": _count(1, 2**20),
    "max_new_tokens": _count(1, 2**20),
    "stride": _count(0, 2**20),
    "resident_groups": _optional(_count(1, 2**31)),
    "per_batch": _switch,
    "inference_mode": _switch,
    "target_modules": _optional(_modules),
    "exclude_modules": _optional(_modules),
    "lora_alpha": _number(lambda value: 0 < value <= MOST_ALPHA, f"a number above 0, at most {MOST_ALPHA:,.0f}"),
    "trunk_depth": _optional(_number(lambda value: 0 <= value < 1, "a share of the layers in [0, 1)")),
    "lora_dropout": _number(lambda value: 0 <= value < 1, "a probability in [0, 1)"),
    "signature_shrinkage": _number(lambda value: 0 < value <= 1, "in (0, 1]"),
    "digest": _optional(_text),
}


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuses settings that no adapter can have. A missing setting has its default, which is valid.

    Args:
        settings (`dict`): Fields of `DriftAdapterConfig` by name; other entries are ignored.

    Raises:
        ValueError: names the first setting that is wrong.
    """
    for name, check in CHECKS.items():
        problem = check(settings[name]) if name in settings else None
        if problem is not None:
            raise ValueError(f"`{name}` is {settings[name]!r:.200}; {problem}")
    if settings.get("task_type") == "CAUSAL_LM":
        if settings.get("answer") == "ensemble":
            raise ValueError(
                '`answer` is "ensemble", but a language model answers with merged members: an ensemble would need a '
                'cache for each member. Give `answer="merged"`.'
            )
        return
    if settings.get("unknown") == "base":
        raise ValueError(
            '`unknown` is "base", but a base without a head has no answer of its own. Leave it out, and ask with '
            "`abstain=True`."
        )
    if {"stride", "max_length"} <= settings.keys() and settings["stride"] >= settings["max_length"] // 2:
        raise ValueError(
            f"`stride` is {settings['stride']}; it must be less than half of `max_length` ({settings['max_length']}), "
            "or windows would not move forward."
        )


def check_tasks(knowledge: KnowledgeBase, task_type: str) -> None:
    """Refuses a manifest with a task that an adapter of this `task_type` cannot answer on the manifest's base.

    Raises:
        ValueError: names the task.
    """
    for task in knowledge.tasks:
        try:
            check_task(task, task_type, knowledge.modality)
        except ValueError as error:
            raise ValueError(f"`knowledge`, task `{task.name}`: {error}") from error


def check_task(task: LearnedTask, task_type: str, modality: str = "text") -> None:
    """Refuses a task that an adapter of this `task_type` cannot answer on a base of this modality (`ValueError`)."""
    check_kind(task.kind, task_type, modality)
    kind = get_kind(task.kind)
    if task.width != kind.head_width(task.labels):
        raise ValueError(f"a head of {task.width} rows does not fit its kind, {task.kind}.")
    kind.check_constants(task.constants)
    if len(set(task.labels)) < len(task.labels) or "" in task.labels:
        raise ValueError(
            f"`labels` are {list(task.labels)}, empty or twice; give each label a unique name of at least one "
            "character."
        )
    for text in (*task.labels, task.template or ""):
        if not is_unicode(text):
            raise ValueError(f"{text!r:.100} holds half a character (a lone surrogate), which no file can hold.")
    if task.template is not None:
        fields_of(task.template)


def check_kind(kind: str, task_type: str, modality: str = "text") -> None:
    """Refuses a kind of task that a base cannot answer; `modality` is the name of what it takes.

    Raises:
        ValueError: names the kinds that the base can answer; for an unknown kind, says what to do.
    """
    of_language_models = task_type == "CAUSAL_LM"
    if (get_kind(kind).task_type == "CAUSAL_LM") != of_language_models:
        base = "a causal language model" if of_language_models else "a base without a head (`AutoModel`)"
        raise ValueError(f"`kind` is {kind!r}, but on {base} a task is one of {kinds_on(task_type, modality)}.")
    wanted = get_kind(kind).modality.name
    if wanted != modality:
        raise ValueError(
            f"`kind` is {kind!r}, whose inputs are {wanted}, but the base takes {modality}, so a task on it is one of "
            f"{kinds_on(task_type, modality)}. One base has one sort of input: learn it on a base for {wanted}."
        )


def are_names(value: Any) -> bool:
    """Whether a value is a list, tuple or set of strings."""
    return isinstance(value, list | tuple | set) and all(isinstance(name, str) for name in value)
