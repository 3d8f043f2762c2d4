"""Is this data poisoned, is this model backdoored? Defensive only: nothing here looks for a trigger that works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .audit import Audit, audit_answers, audit_dataset
from .blast import BlastRadius, blast_radius, measure_blast_radius
from .callback import IntakeAuditCallback
from .causal import CausalCheck, causal_check
from .directions import WeakDirections, smallest_magnitude, weak_directions
from .image_inputs import ImageInputs
from .inputs import AuditedInputs
from .patches import Patch
from .plots import plot_risk_curve
from .representation import TwoClusters, lies_apart, spectral_scores, two_clusters
from .risk import BackdoorRisk, Biases, RiskCurve, backdoor_risk, biases_of_ratio, risk_curve
from .task_audit import TaskAudit, audit_of
from .task_directions import TaskWeakDirections

__all__ = [
    "Audit",
    "AuditedInputs",
    "BackdoorRisk",
    "Biases",
    "BlastRadius",
    "CausalCheck",
    "ImageInputs",
    "IntakeAuditCallback",
    "Patch",
    "RiskCurve",
    "TaskAudit",
    "TaskWeakDirections",
    "TwoClusters",
    "WeakDirections",
    "audit_answers",
    "audit_dataset",
    "audit_of",
    "backdoor_metric",
    "backdoor_risk",
    "biases_of_ratio",
    "blast_radius",
    "causal_check",
    "lies_apart",
    "measure_blast_radius",
    "plot_risk_curve",
    "risk_curve",
    "smallest_magnitude",
    "spectral_scores",
    "two_clusters",
    "weak_directions",
]


def backdoor_metric(**options: Any) -> Any:
    """Loads `backdoor_report`, the report on a suspected trigger, as a module of the `evaluate` library; no network is
    asked.

    Its inputs are `predictions`, `triggered_predictions`, `references` and `target`;
    `print(backdoor_metric().inputs_description)` says more.

    Args:
        options: For `evaluate.load`, such as `keep_in_memory` and `experiment_id`.

    Returns:
        `evaluate.Metric`
    """
    import evaluate

    return evaluate.load(str(Path(__file__).with_name("backdoor_report.py")), **options)
