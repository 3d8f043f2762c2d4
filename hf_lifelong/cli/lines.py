"""Inputs that come line by line from a file or from stdin, and JSON that is safe for a terminal."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any


def numbered(source: str, argument: str) -> Iterator[tuple[int, str]]:
    """The non-empty lines of a file, or of stdin for `-`, with their numbers.

    Args:
        source (`str`): The file.
        argument (`str`): What the user gave it as, for error messages.

    Raises:
        ValueError: when it cannot be read, or is not UTF-8.
    """
    try:
        with contextlib.nullcontext(sys.stdin) if source == "-" else open(source, encoding="utf-8") as file:
            yield from ((number, line.rstrip("\r\n")) for number, line in enumerate(file, 1) if line.strip())
    except UnicodeDecodeError as error:
        raise ValueError(f"`{source}` is not UTF-8 text ({error.reason} at byte {error.start}).") from error
    except OSError as error:
        raise ValueError(
            f"`{argument}` {source} cannot be read ({error.strerror}); give a file with one input per line, or `-`."
        ) from error


def as_input(line: str, number: int, source: str | None) -> Any:
    """The input in a line: a text, or JSON where it begins with a brace.

    Args:
        line (`str`): The line.
        number (`int`): Its number, from 1.
        source (`str`, *optional*): The file; `None` for the command line.

    Raises:
        ValueError: when it is no JSON object, and begins like one or is in a `.jsonl` file; names the line.
    """
    if not line.lstrip().startswith("{"):
        if source is not None and source.endswith(".jsonl"):
            raise ValueError(f"`{source}`, line {number}: {line!r:.60} is no JSON object.")
        return line
    try:
        return json.loads(line)
    except ValueError as error:
        where = f"`{source}`, line {number}" if source is not None else f"input {number}"
        raise ValueError(f'{where}: {error}. A text that begins with a brace is given as {{"text": "…"}}.') from error


def batches(first: Any, rest: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` inputs, the last of which may be shorter."""
    rest = iter(rest)
    batch = [first, *islice(rest, size - 1)]
    while batch:
        yield batch
        batch = list(islice(rest, size))


def dump(value: Any, indent: int | None = None) -> str:
    """JSON."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    # JSON does not escape these control characters, and a terminal would execute them.
    return re.sub("[\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", text)
