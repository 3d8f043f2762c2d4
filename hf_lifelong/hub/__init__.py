"""The Hub: the model card, pushing, and fetching."""

from .card import addressed, model_card
from .continuing import loaded_commit
from .describing import describe, to_report
from .errors import PullError, PushConflictError, PushError, reason_of
from .facts import CardFacts
from .markdown import clean, duration, plain, public, size
from .pulling import pull
from .saved import (
    CARD,
    CONFIG,
    CONFUSION,
    PICTURE,
    TENSORS,
    SavedAdapter,
    check_config,
    check_processor,
    check_sizes,
    is_ours,
    quoting,
    read_saved,
    saved_statistics,
    task_sizes,
)
from .space import push_space
from .transfer import base_name, draw_matrix, keep_active, public_base, push_to_hub, write_matrix

__all__ = [
    "CARD",
    "CONFIG",
    "CONFUSION",
    "PICTURE",
    "TENSORS",
    "CardFacts",
    "PullError",
    "PushConflictError",
    "PushError",
    "SavedAdapter",
    "addressed",
    "base_name",
    "check_config",
    "check_processor",
    "check_sizes",
    "clean",
    "describe",
    "draw_matrix",
    "duration",
    "is_ours",
    "keep_active",
    "loaded_commit",
    "model_card",
    "plain",
    "public",
    "public_base",
    "pull",
    "push_space",
    "push_to_hub",
    "quoting",
    "read_saved",
    "reason_of",
    "saved_statistics",
    "size",
    "task_sizes",
    "to_report",
    "write_matrix",
]
