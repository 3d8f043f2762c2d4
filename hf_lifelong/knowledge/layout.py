"""The layout of an adapter's file: which tensors a module has, and of which sizes each of them is."""

from __future__ import annotations

from collections.abc import Mapping

from .manifest import KnowledgeBase
from .signatures import LARGEST

PREFIX = "base_model.model."  # what PEFT puts before the name of a module
ROOT = "lifelong"  # the module of heads and signatures; all others are injected layers

_LAYER = {
    "drift_A": ("r", "in"),
    "drift_B": ("out", "r"),
    "drift_bank_A": ("members", "r", "in"),
    "drift_bank_B": ("members", "r", "out"),
}
_ROOT = {
    "drift_head_weight": ("open", "hidden"),
    "drift_head_bias": ("open",),
    "drift_bank_head_weight": ("rows", "hidden"),
    "drift_bank_head_bias": ("rows",),
    "drift_signature_mean": ("tasks", "features"),
    "drift_signature_factor": ("tasks", "rank", "features"),
    "drift_signature_diagonal": ("tasks", "features"),
    "drift_signature_classes": ("classes", "features"),
    "drift_closed_weight": ("classes", "features"),
    "drift_closed_bias": ("classes",),
}
SIZES = _LAYER | _ROOT
# Least and largest values of what has bounds. A factor and a diagonal are parts of a variance, which is at most twice
# the largest feature, squared; ten times as much is let pass, for rounding.
_MOST = 10 * LARGEST
BOUNDS = {
    "drift_signature_mean": (-_MOST, _MOST),
    "drift_signature_factor": (-_MOST, _MOST),
    "drift_signature_diagonal": (0.0, _MOST**2),
    "drift_signature_classes": (-_MOST, _MOST),
}


def parts_of(module: str) -> Mapping[str, tuple[str, ...]]:
    """The part of `SIZES` that a module has, named as in the file without `PREFIX`."""
    return _ROOT if module == ROOT else _LAYER


def sizes_of(knowledge: KnowledgeBase) -> dict[str, int]:
    """The sizes that follow from what was learned."""
    return {
        "members": knowledge.member_offsets[-1],
        "rows": knowledge.head_rows,
        "tasks": len(knowledge.tasks),
        "classes": knowledge.class_offsets[-1],
    }
