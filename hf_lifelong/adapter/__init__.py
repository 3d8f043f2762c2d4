"""The PEFT method: configuration, injected layers, heads, hooks on the base model, answers."""

from .bank import forget
from .config import DriftAdapterConfig
from .export import ExportReport, export
from .forward.answer import LifelongOutput
from .forward.generate import Generated, generate, score_labels
from .forward.predict import predict, trunk_features
from .heads import Lifelong, knowledge_of, lifelong_of
from .registration import register
from .tuner import DriftModel

register()

__all__ = [
    "DriftAdapterConfig",
    "DriftModel",
    "ExportReport",
    "Generated",
    "Lifelong",
    "LifelongOutput",
    "export",
    "forget",
    "generate",
    "knowledge_of",
    "lifelong_of",
    "predict",
    "register",
    "score_labels",
    "trunk_features",
]
