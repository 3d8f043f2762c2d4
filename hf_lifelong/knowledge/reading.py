"""Checks of what a manifest holds, each of which names the field."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any


class ManifestError(ValueError):
    """A manifest that cannot be used: names the field and the reason."""


def same_keys(where: str, data: Mapping[str, Any], expected: Collection[str]) -> None:
    """Refuses an object with other fields (`ManifestError`)."""
    missing, surplus = sorted(set(expected) - set(data)), sorted(set(data) - set(expected))
    if missing or surplus:
        raise ManifestError(f"`{where}` lacks {missing} and has unknown fields {surplus}")


def check_type(where: str, value: Any, kind: type) -> None:
    """Refuses a value of another type (`ManifestError`)."""
    if not isinstance(value, kind):
        raise ManifestError(f"`{where}` must be a {kind.__name__}, not {type(value).__name__}")


def check_count(where: str, value: Any, least: int = 0, most: int = 2**31) -> None:
    """Refuses what is no integer in a range (`ManifestError`)."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ManifestError(f"`{where}` must be an integer from {least} to {most}, not {value!r}")


def check_number(where: str, value: Any, least: float, most: float) -> None:
    """Refuses what is no number in a range (`ManifestError`)."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise ManifestError(f"`{where}` must be a number from {least:g} to {most:g}, not {value!r:.60}")


def check_list(where: str, value: Any, most: int) -> None:
    """Refuses what is no list of at most so many entries (`ManifestError`)."""
    check_type(where, value, list)
    if len(value) > most:
        raise ManifestError(f"`{where}` has {len(value)} entries, more than {most}")
