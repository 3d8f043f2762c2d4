"""Modules whose names are looked up when they are asked for, so that importing them brings nothing along."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a module that has names of others.

    Args:
        module (`str`): Its own name.
        names (`dict[str, str]`): Name → the module that has it; relative to `module` where it begins with a dot.
    """

    def look_up(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module `{module}` has no attribute `{name}`")
        return getattr(import_module(names[name], module), name)

    return look_up
