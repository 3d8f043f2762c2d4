"""The PEFT method: configuration, injected layers, heads, hooks on the base model, answers."""

from .architectures import InputLimits, input_limits
from .bank import (
    Snapshot,
    add_task,
    close_task,
    forget,
    open_task,
    set_closed_form,
    set_knowledge,
    take_snapshot,
)
from .checks import check_tensors, check_usable
from .config import DriftAdapterConfig
from .export import ExportReport, export
from .forward.answer import LifelongOutput
from .forward.decoding import decode_answers
from .forward.generate import Generated, answer_prompts, generate, likeliest_labels, score_labels
from .forward.predict import predict, trunk_features
from .heads import Lifelong, active_adapter, active_config, knowledge_of, lifelong_of
from .registration import register
from .sharding import local, make_whole
from .statistics import set_statistics
from .tuner import DriftModel

register()

__all__ = [
    "DriftAdapterConfig",
    "DriftModel",
    "ExportReport",
    "Generated",
    "InputLimits",
    "Lifelong",
    "LifelongOutput",
    "Snapshot",
    "active_adapter",
    "active_config",
    "add_task",
    "answer_prompts",
    "check_tensors",
    "check_usable",
    "close_task",
    "decode_answers",
    "export",
    "forget",
    "generate",
    "input_limits",
    "knowledge_of",
    "lifelong_of",
    "likeliest_labels",
    "local",
    "make_whole",
    "open_task",
    "predict",
    "register",
    "score_labels",
    "set_closed_form",
    "set_knowledge",
    "set_statistics",
    "take_snapshot",
    "trunk_features",
]
