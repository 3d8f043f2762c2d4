"""Lines and cells of Markdown tables, and the records that their figures come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from hf_lifelong.utils.files import read_json

Record = dict[str, Any]


def read(folder: Path, name: str) -> Record:
    """The record `<name>.json` in a folder of records."""
    return read_json(folder / f"{name}.json")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table: its head and its rows."""
    return [line(*head), "|---" * len(head) + "|", *(line(*cells) for cells in rows)]


def line(*cells: str) -> str:
    # An empty cell has one space.
    return "|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|"


def fixed(value: float, digits: int) -> str:
    """A number with so many decimals, halves rounded up as they stand in a record."""
    return str(Decimal(str(float(value))).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP))


def short(value: float, digits: int = 3) -> str:
    """A share: without the 0 before the point."""
    text = fixed(value + 0.0, digits)
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def exact(value: float) -> str:
    """A share; all and nothing as 1 and 0."""
    return f"{value:g}" if value in (0, 1) else short(value)


def percent(value: float, digits: int = 0) -> str:
    return f"{fixed(100 * value, digits)} %"


def mean(values: Iterable[float]) -> float:
    """To nine decimals: .0175 may be a little less in binary."""
    found = list(values)
    return round(sum(found) / len(found), 9)


def best(texts: Sequence[str], lowest: bool = False) -> list[str]:
    """The cells of a column with the best in bold; an empty one has no figure."""
    figures = [float(text) for text in texts if text]
    leading = (min if lowest else max)(figures, default=None)
    return [f"**{text}**" if text and float(text) == leading else text for text in texts]
