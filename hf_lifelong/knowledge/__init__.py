"""What has been learned: tasks, members and groups (manifest), signatures, grouping and retrieval. No model code."""

from .grouping import candidate_groups, joins
from .manifest import FORMAT, KnowledgeBase, LearnedTask, ManifestError
from .retrieval import (
    group_posterior,
    leading_candidates,
    margin_of,
    mean_by_pair,
    normalised_entropy,
    summed_variance,
)
from .signatures import Router, Signature, fit_signature, novelty, shared_router, stack_signatures

__all__ = [
    "FORMAT",
    "KnowledgeBase",
    "LearnedTask",
    "ManifestError",
    "Router",
    "Signature",
    "candidate_groups",
    "fit_signature",
    "group_posterior",
    "joins",
    "leading_candidates",
    "margin_of",
    "mean_by_pair",
    "normalised_entropy",
    "novelty",
    "shared_router",
    "stack_signatures",
    "summed_variance",
]
