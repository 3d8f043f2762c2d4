"""What an adapter has learned: tasks, members and groups (manifest), signatures and grouping. No model code."""

from .closed_form import best_weight, fit_closed_form
from .constants import Constants
from .grouping import candidate_groups, joins, told_apart
from .manifest import CHANCE, FORMAT, LONGEST_NOTE, UNKNOWN, KnowledgeBase, LearnedTask, TaskData
from .projection import checksum, projection_matrix
from .reading import ManifestError
from .records import StatisticRecord, StoredTensor, read_statistics
from .signatures import (
    LARGEST_FEATURE,
    ROWS_AT_ONCE,
    ROWS_AT_ONCE_GPU,
    Familiarity,
    Router,
    Signature,
    familiarity,
    fit_signature,
    group_posterior,
    novelty,
    shared_router,
)
from .union import joined, renamed

__all__ = [
    "CHANCE",
    "FORMAT",
    "LARGEST_FEATURE",
    "LONGEST_NOTE",
    "ROWS_AT_ONCE",
    "ROWS_AT_ONCE_GPU",
    "UNKNOWN",
    "Constants",
    "Familiarity",
    "KnowledgeBase",
    "LearnedTask",
    "ManifestError",
    "Router",
    "Signature",
    "StatisticRecord",
    "StoredTensor",
    "TaskData",
    "best_weight",
    "candidate_groups",
    "checksum",
    "familiarity",
    "fit_closed_form",
    "fit_signature",
    "group_posterior",
    "joined",
    "joins",
    "novelty",
    "projection_matrix",
    "read_statistics",
    "renamed",
    "shared_router",
    "told_apart",
]
