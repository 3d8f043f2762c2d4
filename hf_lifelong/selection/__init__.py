"""Which inputs does it use? LASSO in two-layer ReLU networks, for any table, any model's states, any first layer."""

from .callback import FirstLayerPenalty
from .cuts import Mixture, fit_mixture, mixture_cut
from .networks import Networks
from .plots import plot_importances, plot_overlap, plot_path
from .proximal import group_soft_threshold, soft_threshold
from .selector import InputSelector, SelectionPath
from .stability import Overlap, stability_of, support_overlap
from .task_importance import InputImportance, depth_shares, kept_features, small_head, task_overlap
from .training import Problem, draw_rows, train_path

__all__ = [
    "FirstLayerPenalty",
    "InputImportance",
    "InputSelector",
    "Mixture",
    "Networks",
    "Overlap",
    "Problem",
    "SelectionPath",
    "depth_shares",
    "draw_rows",
    "fit_mixture",
    "group_soft_threshold",
    "kept_features",
    "mixture_cut",
    "plot_importances",
    "plot_overlap",
    "plot_path",
    "small_head",
    "soft_threshold",
    "stability_of",
    "support_overlap",
    "task_overlap",
    "train_path",
]
