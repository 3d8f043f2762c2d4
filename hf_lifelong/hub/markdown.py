"""Markdown whose structure no inserted text can break: task names and labels come from users and from loaded files.

Text in tables and sentences is escaped with numeric HTML entities. No Markdown reader takes them for structure, and
unlike backslashes they mean the same in a table, a code element and a heading.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

from ..utils.texts import one_line

# An underscore inside a word is not emphasis and stays as it is, because many names have underscores.
_STRUCTURE = re.compile(r"[&<>|\\`*\[\]~$#@]|(?<![^\W_])_|_(?![^\W_])|(?<=[a-z]):(?=//)")
_FOLDERS = re.compile(r"(?<![\w./\\])(?:~?/(?!/)|[A-Za-z]:[\\/]|\\\\)(?:[^\s\"':/\\]*[/\\])*(?=[^\s\"'])")
_SECRET = "(?:token|password|secret|key)"
_SECRETS = re.compile(rf"(--?[\w-]*{_SECRET}\s+|{_SECRET}=)\S+|\bhf_\w{{16,}}", re.IGNORECASE)


def clean(text: str, limit: int) -> str:
    """One line of printable characters; the middle of a text longer than `limit` is cut out."""
    line = one_line(text) or "(no name)"
    tail = limit // 3
    return line if len(line) <= limit else f"{line[: limit - tail - 1]}…{line[-tail:]}"


def escape(text: str, limit: int = 60) -> str:
    """Text escaped for a sentence, a table or a fold, where it is shown literally."""
    return _STRUCTURE.sub(lambda match: f"&#{ord(match[0])};", clean(text, limit))


def code(text: str, limit: int = 200) -> str:
    """Inline code; in backticks only if nothing needs escaping, because nothing can be escaped inside backticks."""
    if re.fullmatch(r"[\w.\-]+", text) and len(text) <= limit:
        return f"`{text}`"
    return f"<code>{escape(text, limit)}</code>"


def public(text: str) -> str:
    """Text without what a card must not reveal: folders of the machine (file names stay) and access tokens."""
    return _FOLDERS.sub("", _SECRETS.sub(lambda match: f"{match[1] or ''}…", text))


def fence(text: str, language: str) -> str:
    """A code block that its own text cannot end."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language}\n{text.rstrip()}\n{marks}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: int = 0) -> str:
    """A table of escaped cells. Empty columns are left out; a table without rows is an empty text.

    Args:
        numbers (`int`): How many of the last columns are aligned to the right.
    """
    columns = [column for column in range(len(head)) if any(row[column] for row in rows)]
    if not columns:
        return ""
    marks = ["--:" if column >= len(head) - numbers else ":--" for column in columns]
    lines = [[head[column] for column in columns], marks, *([row[column] for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def fold(summary: str, body: str, when: bool = True) -> str:
    """`body` in a section that opens on a click, if `when` is true; else `body` itself."""
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>" if when and body else body


def listing(names: Sequence[str], shown: int = 10, most: int = 200) -> str:
    """Escaped names in one table cell: folded if there are more than `shown`, and cut after `most`."""
    line = ", ".join(escape(name, 40) for name in names[:most])
    line += f" and {len(names) - most:,} more" if len(names) > most else ""
    return line if len(names) <= shown else f"<details><summary>{len(names):,}</summary>{line}</details>"


def distinct(names: Iterable[str], limit: int = 60) -> list[str]:
    """Names shortened to one line each, made different from each other where shortening made them equal."""
    unique: dict[str, None] = {}
    times: Counter[str] = Counter()
    for name in names:
        first = short = clean(name, limit)
        while short in unique:
            times[first] += 1
            short = f"{first} ({times[first] + 1})"
        unique[short] = None
    return list(unique)


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
    """A finding of a statistic as text."""
    return f"{found:.4g}" if isinstance(found, float) else str(found)


def value(setting: Any) -> str:
    """A setting as escaped text; empty for `None` and for a setting that has no plain form."""
    setting = setting.value if isinstance(setting, Enum) else setting
    if isinstance(setting, bool):
        return "on" if setting else "off"
    if isinstance(setting, int | float):
        return (f"{setting:,}" if isinstance(setting, int) else f"{setting:g}") if math.isfinite(setting) else ""
    if isinstance(setting, str):
        return escape(public(setting)) if setting else ""
    if isinstance(setting, set | frozenset):
        setting = sorted(setting, key=str)
    if isinstance(setting, list | tuple):
        return ", ".join(filter(None, map(value, setting)))
    return ""


def settings(values: Iterable[tuple[str, Any]]) -> str:
    """Settings in one line, with names as code; settings without a value are left out."""
    return ", ".join(f"{code(name, 60)} {text}" for name, setting in values if (text := value(setting)))
