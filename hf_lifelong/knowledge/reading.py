"""Checks of values in a manifest. Each error names the field."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any


class ManifestError(ValueError):
    """A manifest that cannot be used. The message names the field and the reason."""


def same_keys(where: str, data: Mapping[str, Any], expected: Collection[str]) -> None:
    """Refuses an object whose fields are not those expected (`ManifestError`)."""
    missing, surplus = sorted(set(expected) - set(data)), sorted(set(data) - set(expected))
    if missing or surplus:
        raise ManifestError(f"`{where}` lacks {missing} and has unknown fields {surplus}")


def check_type(where: str, value: Any, kind: type) -> None:
    """Refuses a value of another type (`ManifestError`)."""
    if not isinstance(value, kind):
        raise ManifestError(f"`{where}` must be a {kind.__name__}, not {type(value).__name__}")


def check_count(where: str, value: Any, least: int = 0, most: int = 2**31) -> None:
    """Refuses a value that is not an integer in this range (`ManifestError`)."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ManifestError(f"`{where}` must be an integer from {least} to {most}, not {value!r}")


def check_number(where: str, value: Any, least: float, most: float) -> None:
    """Refuses a value that is not a number in this range (`ManifestError`)."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= most:
        raise ManifestError(f"`{where}` must be a number from {least:g} to {most:g}, not {value!r:.60}")


def check_list(where: str, value: Any, most: int) -> None:
    """Refuses a value that is not a list of at most `most` entries (`ManifestError`)."""
    check_type(where, value, list)
    if len(value) > most:
        raise ManifestError(f"`{where}` has {len(value)} entries, more than {most}")
