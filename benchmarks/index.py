"""The index of all records: which script made each, when, on what, and with which command.

python benchmarks/index.py            # writes results/README.md
python benchmarks/index.py --check    # only says whether it is that of the records
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from record import RESULTS

from hf_lifelong.utils.files import read_json

COLUMNS = ("record", "script", "date", "hf_lifelong", "model", "hardware", "command")
ABOUT = """# Records

A line for each file, written by `python benchmarks/index.py`; [Benchmarks](../README.md) says what was measured. In
`streams` a file has a row for one method on one stream, in one order of its tasks and with one seed; date and hardware
are those of all its rows. DATA is a folder with a data set in each subfolder.
"""


def stated(record: dict[str, Any], key: str) -> list[str]:
    """What a record says of when or on what it was made: its rows, where they say it themselves."""
    rows = [row[key] for row in record.get("rows", []) if isinstance(row, dict) and key in row]
    return sorted(set(rows or [record[key]]))


def versions(record: dict[str, Any]) -> str:
    """The versions of this package that it was made with."""
    found = [one["versions"]["hf_lifelong"] for one in (record, *record.get("rows", [])) if "versions" in one]
    return ", ".join(sorted(set(found)))


def entry(name: str, record: dict[str, Any]) -> list[str]:
    """A line of the index."""
    dates, command = stated(record, "date"), record["command"]
    script = re.search(r"\w+/\w+\.py", command)
    return [
        f"`{name}`",
        f"`{script[0]}`" if script else "",
        dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}",
        versions(record),
        record.get("model", ""),
        "; ".join(stated(record, "hardware")),
        f"`{command}`",
    ]


def index(folder: Path) -> str:
    """The index of the records in a folder and below it."""
    paths = sorted(folder.rglob("*.json"), key=lambda path: (len(path.parts), path))
    lines = [entry(path.relative_to(folder).as_posix(), read_json(path)) for path in paths]
    table = [list(COLUMNS), ["---"] * len(COLUMNS), *lines]
    return ABOUT + "\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in table) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail where the index is another")
    page, text = RESULTS / "README.md", index(RESULTS)
    if not parser.parse_args().check:
        page.write_text(text)
    elif not page.exists() or page.read_text() != text:
        raise SystemExit("results/README.md is not the index of the records; run `python benchmarks/index.py`.")


if __name__ == "__main__":
    main()
