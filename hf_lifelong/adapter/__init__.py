"""The PEFT method: configuration, injected layers, heads, hooks on the base model, and answers."""

from .architectures import InputLimits, depths_of, input_limits, modality_of, pooling_of, settle_trunk, target_names
from .bank import (
    Snapshot,
    add_task,
    close_task,
    drift_modules,
    forget,
    open_task,
    set_closed_form,
    set_knowledge,
    set_tasks_after,
    take_snapshot,
    tensors_after,
)
from .checks import check_tensors, check_usable, describe_base
from .config import DriftAdapterConfig, LoadedFrom
from .export_report import ExportReport
from .exporting import export
from .forward.answer import LifelongOutput
from .forward.decoding import decode_answers
from .forward.generate import Generated, answer_prompts, ends_of, generate, likeliest_labels, score_labels
from .forward.predict import Routed, predict, route, trunk_features
from .heads import Lifelong, active_adapter, active_config, knowledge_of, lifelong_of
from .index import Index, Tables
from .joining import SHARED_SETTINGS, union
from .registration import register
from .sharding import local, make_whole
from .statistics import set_statistics, statistics_of
from .tuner import DriftModel

register()

__all__ = [
    "SHARED_SETTINGS",
    "DriftAdapterConfig",
    "DriftModel",
    "ExportReport",
    "Generated",
    "Index",
    "InputLimits",
    "Lifelong",
    "LifelongOutput",
    "LoadedFrom",
    "Routed",
    "Snapshot",
    "Tables",
    "active_adapter",
    "active_config",
    "add_task",
    "answer_prompts",
    "check_tensors",
    "check_usable",
    "close_task",
    "decode_answers",
    "depths_of",
    "describe_base",
    "drift_modules",
    "ends_of",
    "export",
    "forget",
    "generate",
    "input_limits",
    "knowledge_of",
    "lifelong_of",
    "likeliest_labels",
    "local",
    "make_whole",
    "modality_of",
    "open_task",
    "pooling_of",
    "predict",
    "register",
    "route",
    "score_labels",
    "set_closed_form",
    "set_knowledge",
    "set_statistics",
    "set_tasks_after",
    "settle_trunk",
    "statistics_of",
    "take_snapshot",
    "target_names",
    "tensors_after",
    "trunk_features",
    "union",
]
