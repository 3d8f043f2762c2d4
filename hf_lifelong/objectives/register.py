"""The kinds of tasks that there are: those of this package, one line each, and those that a user registers."""

from __future__ import annotations

from importlib import import_module

from .base import TaskKind
from .head import HeadKind
from .modality import Modality

KINDS: dict[str, TaskKind | None] = {
    "text-classification": None,
    "question-answering": None,
    "token-classification": None,
    "text-regression": None,
    "text-generation": None,
    "image-classification": None,
}
"""Name → kind. `None` stands for the `KIND` of the module of that name, which is imported at its first use: a kind
imports torch, and its name alone should not."""


def register_kind(kind: TaskKind) -> None:
    """Makes a kind of task known by its name: to `Task`, `DriftTrainer`, the pipeline, and whatever reads an adapter.

    An adapter holds the kind's name, not its code. Register it before such an adapter is loaded. A kind of the same
    name that was registered before is replaced.

    Args:
        kind ([`TaskKind`]): An instance of a subclass of [`~objectives.HeadKind`], or of `TaskKind` for language
            models.

    Raises:
        ValueError: If it is no `TaskKind`, or its name cannot be used.
    """
    if not isinstance(kind, TaskKind):
        raise ValueError(f"`kind` is {kind!r:.60}; give an instance of a subclass of `TaskKind`.")
    name = getattr(kind, "kind", None)
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        raise ValueError(f"`kind` of `{type(kind).__name__}` is {name!r:.60}; give it a name of printable characters.")
    if name in KINDS and _is_built_in(get_kind(name)):
        raise ValueError(f"`{type(kind).__name__}` is called {name!r}, as a kind of this package is; rename it.")
    KINDS[name] = kind


def kind_names() -> list[str]:
    """The names of all kinds, those of this package first."""
    return list(KINDS)


def find_kind(name: str) -> TaskKind | None:
    """The kind of that name, always the same instance; `None` where there is none."""
    if name not in KINDS:
        return None
    kind = KINDS[name]
    if kind is None:
        kind = KINDS[name] = import_module(f".{name.replace('-', '_')}", __package__).KIND
    return kind


def get_kind(name: str) -> TaskKind:
    """The kind of that name.

    Raises:
        ValueError: If there is none; the message says what to do.
    """
    kind = find_kind(name)
    if kind is None:
        raise ValueError(
            f"`kind` is {name!r:.100}, which is not known; choose one of {', '.join(KINDS)}, or, where it is a kind "
            "of your own, register it first with `hf_lifelong.register_kind`."
        )
    return kind


def head_kind(name: str) -> HeadKind:
    """The kind of that name, which a head must answer; raises as `get_kind` does."""
    kind = get_kind(name)
    if not isinstance(kind, HeadKind):
        choices = ", ".join(kinds_on("FEATURE_EXTRACTION", kind.modality.name))
        raise ValueError(f"`kind` is {name!r}, which no head answers; choose one of {choices}.")
    return kind


def kinds_on(task_type: str | None, modality: str = "text") -> list[str]:
    """The kinds that a base answers; `task_type` is that of the adapter's configuration, and `modality` the name of
    what the base takes."""
    causal = task_type == "CAUSAL_LM"
    kinds = {name: get_kind(name) for name in KINDS}
    return [n for n, k in kinds.items() if (k.task_type == "CAUSAL_LM") == causal and k.modality.name == modality]


def modality_named(name: str) -> Modality:
    """The modality of that name, or the one whose main model input is called so.

    Raises:
        ValueError: If no kind of task has such inputs.
    """
    known = dict.fromkeys(get_kind(kind).modality for kind in KINDS)
    for modality in known:
        if name in (modality.name, modality.inputs[0]):
            return modality
    raise ValueError(f"no kind of task takes `{name}`; known are {[m.inputs[0] for m in known]}.")


def kinds_alike(name: str) -> tuple[str, ...]:
    """The kinds that share a form of input with this one, itself included: form does not tell their inputs apart."""
    one = get_kind(name)
    if not isinstance(one, HeadKind):
        return (name,)
    others = {other: get_kind(other) for other in KINDS}
    return tuple(n for n, kind in others.items() if isinstance(kind, HeadKind) and set(kind.forms) & set(one.forms))


def _is_built_in(kind: TaskKind) -> bool:
    return type(kind).__module__.startswith(f"{__package__}.")
