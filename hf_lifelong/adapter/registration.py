"""Makes PEFT know the `DRIFT` method, which it has no entry point for."""

from __future__ import annotations

from typing import Any

from peft.utils import register_peft_method

from ..compat import PEFT_TYPE_TO_CONFIG_MAPPING, peft_type

NAME = "DRIFT"


def drift_type() -> Any:
    """The `PeftType` member of this method."""
    return peft_type(NAME)


def register() -> None:
    """Registers `DriftAdapterConfig` and `DriftModel` with PEFT; a second call does nothing."""
    if drift_type() in PEFT_TYPE_TO_CONFIG_MAPPING:
        return
    from .config import DriftAdapterConfig
    from .tuner import DriftModel

    register_peft_method(name=NAME.lower(), config_cls=DriftAdapterConfig, model_cls=DriftModel, prefix="drift_")
