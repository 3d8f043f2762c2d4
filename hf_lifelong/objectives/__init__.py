"""What each kind of task needs: model inputs from columns, head width, loss, distributions, decoding, metric, and how
it is shown and exported.

The modules here are pure: they know tokenizers, data sets and tensors, and nothing of adapters or training. Nothing
outside of this package names a kind.
"""

from .base import TaskKind
from .head import HeadKind
from .register import find_kind, get_objective, head_objective, kind_names, kinds_alike, kinds_on, register_kind

__all__ = [
    "HeadKind",
    "TaskKind",
    "find_kind",
    "get_objective",
    "head_objective",
    "kind_names",
    "kinds_alike",
    "kinds_on",
    "register_kind",
]
