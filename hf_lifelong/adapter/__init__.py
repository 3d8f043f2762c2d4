"""The PEFT method: configuration, injected layers, heads, hooks on the base model, answers."""

from .bank import forget
from .config import DriftAdapterConfig
from .heads import Lifelong, knowledge_of, lifelong_of
from .hooks import LifelongOutput
from .passes import predict, trunk_features
from .registration import register
from .tuner import DriftModel

register()

__all__ = [
    "DriftAdapterConfig",
    "DriftModel",
    "Lifelong",
    "LifelongOutput",
    "forget",
    "knowledge_of",
    "lifelong_of",
    "predict",
    "register",
    "trunk_features",
]
