"""The records of streams: a file for each stream of a comparison, a row for each cell.

`results/streams/<comparison>/<stream>.json` states how the stream was measured, and has a row for each (method, order,
seed); `chosen.json` beside it has a row for each method whose hyperparameters were chosen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from record import RESULTS

from hf_lifelong.utils.files import DamagedFileError, atomic_file, read_json

RECORDS = RESULTS / "streams"


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """What there is one row of: method, order and seed."""
    return tuple(row.get(name) for name in ("method", "order", "seed"))


def read_record(path: Path) -> dict[str, Any]:
    """A record; without any rows where there is no file.

    Raises:
        SystemExit: when the file is damaged.
    """
    if not path.exists():
        return {"rows": []}
    try:
        return read_json(path)
    except DamagedFileError as error:
        raise SystemExit(
            f"A record is damaged: restore it with git, or delete it, and its cells are run again. ({error})"
        ) from error


def row_of(record: dict[str, Any], *key: Any) -> dict[str, Any] | None:
    """The row with this key, if there is one."""
    return next((row for row in record["rows"] if key_of(row) == key), None)


def add_row(path: Path, head: dict[str, Any], row: dict[str, Any]) -> None:
    """Adds a row to a record, in place of one with the same key, below the entries of `head`.

    The file is read at this moment, so that rows which other processes have added meanwhile stay.
    """
    others = [other for other in read_record(path)["rows"] if key_of(other) != key_of(row)]
    write_record(path, {**head, "rows": sorted([*others, row], key=key_of)})


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Writes a record at once, with each row on a line of its own: a new cell is one new line in a diff."""
    entries = {key: json.dumps(value, allow_nan=False) for key, value in record.items()}
    rows = [json.dumps(row, allow_nan=False) for row in record["rows"]]
    entries["rows"] = "[\n" + ",\n".join(rows) + "\n]"
    with atomic_file(path) as fresh:
        fresh.write_text("{\n" + ",\n".join(f'"{key}": {value}' for key, value in entries.items()) + "\n}\n")
