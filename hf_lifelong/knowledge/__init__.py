"""What has been learned: tasks, members and groups (manifest), signatures and grouping. No model code."""

from .closed_form import best_weight, fit_closed_form
from .constants import Constants
from .grouping import candidate_groups, joins, told_apart
from .manifest import CHANCE, FORMAT, LONGEST_NOTE, UNKNOWN, KnowledgeBase, LearnedTask, TaskData
from .reading import ManifestError
from .records import StatisticRecord, StoredTensor
from .signatures import (
    Familiarity,
    Router,
    Signature,
    familiarity,
    fit_signature,
    group_posterior,
    novelty,
    shared_router,
)

__all__ = [
    "CHANCE",
    "FORMAT",
    "LONGEST_NOTE",
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
    "familiarity",
    "fit_closed_form",
    "fit_signature",
    "group_posterior",
    "joins",
    "novelty",
    "shared_router",
    "told_apart",
]
