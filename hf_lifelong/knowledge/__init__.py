"""What an adapter has learned: tasks, members and groups (manifest), signatures and grouping. No model code."""

from .closed_form import WEIGHTS, LossSums, best_weight, closed_form_of_sums, fit_closed_form, loss_sums
from .constants import Constants
from .grouping import candidate_groups, joins, nearer_count, nearness, told_apart
from .likelihood_ratio import Tail, measure_tail
from .manifest import CHANCE, FORMAT, LONGEST_NOTE, UNKNOWN, KnowledgeBase, LearnedTask, TaskData
from .novelty import Novelty, novelty_rule
from .projection import checksum, projection_matrix
from .reading import ManifestError
from .records import StatisticRecord, StoredTensor, read_statistics
from .router import ROWS_AT_ONCE, Router, group_posterior, shared_router
from .signatures import LARGEST_FEATURE, Signature, check_features, fit_signature, signature_of_sums
from .sums import ClassSums, class_sums, merge_sums
from .union import joined, renamed

__all__ = [
    "CHANCE",
    "FORMAT",
    "LARGEST_FEATURE",
    "LONGEST_NOTE",
    "ROWS_AT_ONCE",
    "UNKNOWN",
    "WEIGHTS",
    "ClassSums",
    "Constants",
    "KnowledgeBase",
    "LearnedTask",
    "LossSums",
    "ManifestError",
    "Novelty",
    "Router",
    "Signature",
    "StatisticRecord",
    "StoredTensor",
    "Tail",
    "TaskData",
    "best_weight",
    "candidate_groups",
    "check_features",
    "checksum",
    "class_sums",
    "closed_form_of_sums",
    "fit_closed_form",
    "fit_signature",
    "group_posterior",
    "joined",
    "joins",
    "loss_sums",
    "measure_tail",
    "merge_sums",
    "nearer_count",
    "nearness",
    "novelty_rule",
    "projection_matrix",
    "read_statistics",
    "renamed",
    "shared_router",
    "signature_of_sums",
    "told_apart",
]
