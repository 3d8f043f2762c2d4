"""Lazy module attributes: a module's names are imported only when they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a module that re-exports names of other modules.

    Args:
        module (`str`): Name of the module itself.
        names (`dict[str, str]`): Name → the module that defines it; relative to `module` if it begins with a dot.
    """

    def look_up(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module `{module}` has no attribute `{name}`")
        return getattr(import_module(names[name], module), name)

    return look_up
