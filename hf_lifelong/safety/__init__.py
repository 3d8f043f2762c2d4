"""Is this data poisoned, is this model backdoored? Defensive only: nothing here looks for a trigger that works."""

from .directions import WeakDirections, smallest_magnitude, weak_directions
from .plots import plot_risk_curve
from .risk import BackdoorRisk, Biases, RiskCurve, backdoor_risk, biases_of_ratio, risk_curve

__all__ = [
    "BackdoorRisk",
    "Biases",
    "RiskCurve",
    "WeakDirections",
    "backdoor_risk",
    "biases_of_ratio",
    "plot_risk_curve",
    "risk_curve",
    "smallest_magnitude",
    "weak_directions",
]
