"""Makes PEFT know the `DRIFT` method, which it has no entry point for."""

from __future__ import annotations

from typing import Any

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.utils import register_peft_method
from peft.utils.peft_types import PeftType

NAME = "DRIFT"


def drift_type() -> Any:
    """The `PeftType` member of this method, made on first use.

    `PeftType` is a closed enum, and `register_peft_method` takes its members only; the enum's own tables are extended
    the way `EnumType` fills them, because a member of any other type breaks transformers' own adapter loading.
    """
    if NAME not in PeftType.__members__:
        member: Any = str.__new__(PeftType, NAME)
        member._name_ = member._value_ = NAME
        member.__objclass__ = PeftType
        member._sort_order_ = len(PeftType._member_names_)
        PeftType._member_names_.append(NAME)
        PeftType._member_map_[NAME] = member
        PeftType._value2member_map_[NAME] = member
        type.__setattr__(PeftType, NAME, member)
    return PeftType.__members__[NAME]


def register() -> None:
    """Registers `DriftAdapterConfig` and `DriftModel` with PEFT; a second call does nothing."""
    if drift_type() in PEFT_TYPE_TO_CONFIG_MAPPING:
        return
    from .config import DriftAdapterConfig
    from .tuner import DriftModel

    register_peft_method(name=NAME.lower(), config_cls=DriftAdapterConfig, model_cls=DriftModel, prefix="drift_")
