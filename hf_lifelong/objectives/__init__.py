"""What each kind of task needs: model inputs from columns, head width, loss, distributions, decoding, metric, and how
it is shown and exported.

The modules here are pure: they know tokenizers, data sets and tensors, and nothing of adapters or training. Nothing
outside of this package names a kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..utils.lazy import lazily
from .base import TaskKind
from .head import HeadKind
from .labels import IGNORED, check_enough, named_values
from .modality import MODEL_INPUTS, TEXT, Modality
from .register import (
    find_kind,
    get_kind,
    head_kind,
    kind_names,
    kinds_alike,
    kinds_on,
    modality_named,
    register_kind,
)
from .rows import DataError, MissingColumnError, as_seen, column_values

if TYPE_CHECKING:
    from .forms import InputForm
    from .numeric import LOG_2
    from .prompts import encode_answers, encode_prompts, ensure_padding, fields_of, prompt_of
    from .reading import read_image
    from .uncertainty import MemberAnswers, entropy_of_mean, mean_by_pair, variance_between
    from .untold import answer_columns, encode_inputs

__all__ = [
    "IGNORED",
    "LOG_2",
    "MODEL_INPUTS",
    "TEXT",
    "DataError",
    "HeadKind",
    "InputForm",
    "MemberAnswers",
    "MissingColumnError",
    "Modality",
    "TaskKind",
    "answer_columns",
    "as_seen",
    "check_enough",
    "column_values",
    "encode_answers",
    "encode_inputs",
    "encode_prompts",
    "ensure_padding",
    "entropy_of_mean",
    "fields_of",
    "find_kind",
    "get_kind",
    "head_kind",
    "kind_names",
    "kinds_alike",
    "kinds_on",
    "mean_by_pair",
    "modality_named",
    "named_values",
    "prompt_of",
    "read_image",
    "register_kind",
    "variance_between",
]

__getattr__ = lazily(
    __name__,
    {
        "InputForm": ".forms",
        "answer_columns": ".untold",
        "encode_inputs": ".untold",
        "read_image": ".reading",
        "LOG_2": ".numeric",
        "encode_answers": ".prompts",
        "encode_prompts": ".prompts",
        "ensure_padding": ".prompts",
        "fields_of": ".prompts",
        "prompt_of": ".prompts",
        "MemberAnswers": ".uncertainty",
        "entropy_of_mean": ".uncertainty",
        "mean_by_pair": ".uncertainty",
        "variance_between": ".uncertainty",
    },
)
