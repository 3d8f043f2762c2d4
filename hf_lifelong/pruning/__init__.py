"""Pruning that measures how far it can go: SAP and its rivals, for any `Trainer` and any model."""

from .calibration import LayerChange, input_sizes, output_change
from .callback import SAPCallback
from .compact import load_compact, save_compact
from .iterative import PruningRun, prune_iteratively
from .masks import Masks
from .measures import lq_sparsity_index, pq_index, sap_prune_count
from .once import prune
from .progress import Step, kept_step, model_index, plot_steps, stop_reason
from .report import SparsityReport, sparsity_report
from .rules import SAP, Magnitude, OneShot, Tail, choose
from .shrinking import shrink
from .targets import prunable

__all__ = [
    "SAP",
    "LayerChange",
    "Magnitude",
    "Masks",
    "OneShot",
    "PruningRun",
    "SAPCallback",
    "SparsityReport",
    "Step",
    "Tail",
    "choose",
    "input_sizes",
    "kept_step",
    "load_compact",
    "lq_sparsity_index",
    "model_index",
    "output_change",
    "plot_steps",
    "pq_index",
    "prunable",
    "prune",
    "prune_iteratively",
    "sap_prune_count",
    "save_compact",
    "shrink",
    "sparsity_report",
    "stop_reason",
]
