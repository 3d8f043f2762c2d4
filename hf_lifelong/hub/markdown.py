"""Markdown that stays whole whatever text is put into it: task names and labels come from users and from loaded files.

What goes into a table or a sentence is escaped as numeric HTML entities, which no Markdown reader takes for structure
and which, unlike backslashes, mean the same in a table, in a code element and in a heading.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

from ..utils.texts import one_line

# An underscore inside a word is no emphasis, and names are full of them.
_STRUCTURE = re.compile(r"[&<>|\\`*\[\]~$#@]|(?<![^\W_])_|_(?![^\W_])|(?<=[a-z]):(?=//)")
_FOLDERS = re.compile(r"(?<![\w./\\])(?:~?/(?!/)|[A-Za-z]:[\\/]|\\\\)(?:[^\s\"':/\\]*[/\\])*(?=[^\s\"'])")
_SECRET = "(?:token|password|secret|key)"
_SECRETS = re.compile(rf"(--?[\w-]*{_SECRET}\s+|{_SECRET}=)\S+|\bhf_\w{{16,}}", re.IGNORECASE)


def clean(text: str, limit: int) -> str:
    """One line of printable characters; a text longer than `limit` loses its middle."""
    line = one_line(text) or "(no name)"
    tail = limit // 3
    return line if len(line) <= limit else f"{line[: limit - tail - 1]}…{line[-tail:]}"


def escape(text: str, limit: int = 60) -> str:
    """Text that reads as it is inside a sentence, a table or a fold."""
    return _STRUCTURE.sub(lambda found: f"&#{ord(found[0])};", clean(text, limit))


def code(text: str, limit: int = 200) -> str:
    """Inline code; in backticks only where nothing needs escaping, because inside them nothing can be escaped."""
    if re.fullmatch(r"[\w.\-]+", text) and len(text) <= limit:
        return f"`{text}`"
    return f"<code>{escape(text, limit)}</code>"


def public(text: str) -> str:
    """Text without what a card must not tell: folders of the machine (file names stay) and access tokens."""
    return _FOLDERS.sub("", _SECRETS.sub(lambda found: f"{found[1] or ''}…", text))


def fence(text: str, language: str) -> str:
    """A code block that its own text cannot end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language}\n{text.rstrip()}\n{marks}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> str:
    """A table of escaped cells. Columns without any text are left out, as is a table without rows.

    Args:
        numbers (`int`): How many of the last columns are set to the right.
    """
    kept = [column for column in range(len(head)) if any(row[column] for row in rows)]
    if not kept:
        return ""
    marks = ["--:" if column >= len(head) - numbers else ":--" for column in kept]
    lines = [[head[column] for column in kept], marks, *([row[column] for column in kept] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def fold(summary: str, body: str, when: bool = True) -> str:
    """A part that opens on a click, where `when` holds."""
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>" if when and body else body


def listing(names: Sequence[str], shown: int = 10, most: int = 200) -> str:
    """Escaped names in one table cell: folded when there are more than `shown`, and cut after `most`."""
    line = ", ".join(escape(name, 40) for name in names[:most])
    line += f" and {len(names) - most:,} more" if len(names) > most else ""
    return line if len(names) <= shown else f"<details><summary>{len(names):,}</summary>{line}</details>"


def distinct(names: Iterable[str], limit: int = 60) -> list[str]:
    """Names of one line each, shortened, that still differ from each other."""
    found: dict[str, None] = {}
    times: Counter[str] = Counter()
    for name in names:
        first = short = clean(name, limit)
        while short in found:
            times[first] += 1
            short = f"{first} ({times[first] + 1})"
        found[short] = None
    return list(found)


def size(count: float) -> str:
    """Bytes for people, in powers of ten as disks and the Hub count them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:,.{0 if count >= 100 * scale else 1}f} {unit}"
    return f"{count:.0f} bytes"


def duration(seconds: float) -> str:
    """Seconds for people."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{seconds:.1f} seconds" if seconds < 10 else f"{rest} seconds"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def plain(found: str | int | float | bool) -> str:
    """A finding as text."""
    return f"{found:.4g}" if isinstance(found, float) else str(found)


def value(given: Any) -> str:
    """A setting as escaped text; empty for one that was not given or has no plain form."""
    given = given.value if isinstance(given, Enum) else given
    if isinstance(given, bool):
        return "on" if given else "off"
    if isinstance(given, int | float):
        return (f"{given:,}" if isinstance(given, int) else f"{given:g}") if math.isfinite(given) else ""
    if isinstance(given, str):
        return escape(public(given)) if given else ""
    if isinstance(given, set | frozenset):
        given = sorted(given, key=str)
    if isinstance(given, list | tuple):
        return ", ".join(filter(None, map(value, given)))
    return ""


def settings(values: Iterable[tuple[str, Any]]) -> str:
    """Settings in one line, each name as code; those without a value are left out."""
    return ", ".join(f"{code(name, 60)} {text}" for name, given in values if (text := value(given)))
