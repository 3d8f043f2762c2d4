"""Registers the `DRIFT` method with PEFT, which has no entry point for methods."""

from __future__ import annotations

from peft.utils import register_peft_method

from ..compat import PEFT_TYPE_TO_CONFIG_MAPPING, peft_type
from .config import METHOD, DriftAdapterConfig
from .tuner import DriftModel


def register() -> None:
    """Registers `DriftAdapterConfig` and `DriftModel` with PEFT; a second call does nothing."""
    if peft_type(METHOD) not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(
            name=METHOD.lower(), config_cls=DriftAdapterConfig, model_cls=DriftModel, prefix=DriftModel.prefix
        )
