"""Inputs and rows that come from a file or from stdin: the rows of a table, or one in each line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..training import encoding_of, separator_of
from ..utils.texts import suggestion
from .lines import as_input, numbered

TABLES = (".csv", ".tsv")
LONGEST_CELL = 2**31 - 1  # characters; by default, the module `csv` refuses long texts
# Columns of a table that make an input; the first of them that a table has are used.
FORMS = (("question", "context"), ("text", "text_pair"), ("text",), ("prompt",), ("image",))


def read_inputs(
    source: str, argument: str, columns: Mapping[str, str] | None = None, forms: Sequence[Sequence[str]] = ()
) -> Iterator[tuple[int, Any]]:
    """The inputs in a file, or in stdin for `-`, each with the number of its row or line, from 0. Rows and lines that
    are blank hold no input, but count.

    Args:
        source (`str`): A table (`.csv` or `.tsv`, with a header), a JSON array (`.json`), or a file with one input a
            line: a text, or JSON where it begins with a brace.
        argument (`str`): What the user gave it as, for error messages.
        columns (`dict[str, str]`, *optional*): Role → column, as of a task.
        forms (`list[tuple[str]]`): Further sets of columns that make an input, such as the fields of a template.

    Raises:
        ValueError: when it cannot be read, or holds no inputs; names the line or the columns.
    """
    columns = columns or {}
    if is_table(source):
        yield from _of_table(source, argument, columns, [*forms, *FORMS])
        return
    rows = _array(source, argument) if Path(source).suffix.lower() == ".json" else None
    if rows is None:
        rows = ((number - 1, as_input(line, number, source)) for number, line in numbered(source, argument))
    for number, row in rows:
        yield number, _renamed(row, columns)


def _array(source: str, argument: str) -> Iterator[tuple[int, Any]] | None:
    """The numbered inputs of a JSON array; `None` if the file holds none."""
    text = "\n".join(line for _, line in numbered(source, argument))
    if not text.lstrip().startswith("["):
        return None
    try:
        return iter(enumerate(json.loads(text)))
    except ValueError as error:
        raise ValueError(f"`{argument}` {source} is no JSON array that can be read ({error}).") from error


def is_table(source: str) -> bool:
    """Whether a file is read as a table."""
    return Path(source).suffix.lower() in TABLES


def table_rows(source: str, argument: str) -> Iterator[dict[str, str | None]]:
    """The rows of a table as texts by column; `None` where a cell is empty.

    Raises:
        ValueError: when it cannot be read, has no rows, or a row has more cells than the header.
    """
    path = Path(source)
    csv.field_size_limit(LONGEST_CELL)
    try:
        encoding = encoding_of(path).replace("utf-8", "utf-8-sig")  # spreadsheets write a mark at the beginning
        with path.open(encoding=encoding, newline="") as file:
            rows = csv.DictReader(file, delimiter=separator_of(path, encoding), strict=True)
            number = -1
            for number, row in enumerate(rows):
                if None in row:
                    names = list(rows.fieldnames or [])
                    raise ValueError(
                        f"`{argument}` {source}: row {number} has more cells than the header, {names}; quote cells "
                        "that hold the separator."
                    )
                yield {name: cell or None for name, cell in row.items()}
            if number < 0:
                what = "a header but no rows" if rows.fieldnames else "nothing in it"
                raise ValueError(f"`{argument}` {source} has {what}; give a table with a header and rows.")
    except OSError as error:
        raise ValueError(f"`{argument}` {source} cannot be read ({error.strerror}); give a file.") from error
    except csv.Error as error:
        raise ValueError(f"`{argument}` {source} is no table that can be read ({error}).") from error


def _of_table(
    source: str, argument: str, columns: Mapping[str, str], forms: Sequence[Sequence[str]]
) -> Iterator[tuple[int, Any]]:
    form: Sequence[str] | None = None
    for number, row in enumerate(table_rows(source, argument)):
        missing = next((column for column in columns.values() if column not in row), None)
        if missing is not None:
            hint = suggestion(missing, row) or "."
            raise ValueError(f"`--columns` names {missing!r}, but {source} has the columns {list(row)}{hint}")
        given = _renamed(row, columns)
        form = form or next((form for form in forms if set(form) <= set(given)), None)
        if form is None:
            known = "; ".join(dict.fromkeys(" and ".join(form) for form in forms))
            raise ValueError(
                f"`{argument}` {source} has the columns {list(row)}, and an input needs one of these: {known}. Say "
                "which column is which, such as `--columns '{text: " + str(next(iter(row))) + "}'`."
            )
        values = {name: given[name] for name in form if given[name] is not None}
        if values:
            yield number, next(iter(values.values())) if len(form) == 1 else {**dict.fromkeys(form, ""), **values}


def _renamed(given: Any, columns: Mapping[str, str]) -> Any:
    """A row with its columns under the names of their roles."""
    if not isinstance(given, Mapping):
        return given
    roles = {column: role for role, column in columns.items()}
    return {roles.get(name, name): value for name, value in given.items()}


class StreamRows:
    """Rows for learning: those of a table, or a JSON object in each line of a file, or of stdin for `-`.

    Args:
        source (`str`): The file.

    Raises:
        ValueError: when the file cannot be read, or a line is no JSON object; names the line.
    """

    def __init__(self, source: str) -> None:
        self.source = source

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if is_table(self.source):
            yield from table_rows(self.source, "--stream")
            return
        for number, line in numbered(self.source, "--stream"):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"`{self.source}`, line {number}: {error}; give a JSON object in each line, or a table (.csv)."
                ) from error
            if not isinstance(row, dict):
                raise ValueError(f"`{self.source}`, line {number}: {line!r:.60} is no JSON object.")
            yield row
