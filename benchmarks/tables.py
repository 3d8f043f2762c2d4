"""Writes the tables of measured figures into the pages, from the records in `results`.

python benchmarks/tables.py            # fills README.md, benchmarks/README.md and every page of docs
python benchmarks/tables.py --check    # changes nothing; names the first table that is not that of the records

In a page a table stands between two lines, `<!-- table: NAME -->` and `<!-- end of table -->`. A new one is a line of
`TABLES` and these two lines in a page.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path

import language_tables
import pruning_tables
import result_tables
import speed_tables
import stream_tables
from record import RESULTS

ROOT = RESULTS.parents[1]
PAGES = (ROOT / "README.md", RESULTS.parent / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

Table = Callable[[Path], list[str]]
"""From a folder of records to the lines of a Markdown table."""

TABLES: dict[str, Table] = {
    "main_job": result_tables.main_job,
    "domains": result_tables.domains,
    "out_of_scope": result_tables.out_of_scope,
    "scratch": result_tables.scratch,
    "boundaries": result_tables.boundaries,
    "right_group": result_tables.right_group,
    "closed_form_heads": result_tables.closed_form_heads,
    "federated_fairness": result_tables.federated_fairness,
    "fairness_of_texts": result_tables.fairness_of_texts,
    "causal_lm": language_tables.kept,
    "causal_lm_plain_texts": language_tables.plain_texts,
    "prompt_signatures": language_tables.prompt_signatures,
    "answering": speed_tables.answering,
    "training": speed_tables.training,
    "many_tasks": speed_tables.many_tasks,
    "gpu": speed_tables.gpu,
    "pruning_remaining": pruning_tables.remaining,
    "pruning_index": pruning_tables.index_course,
    "streams_full": stream_tables.full_budget,
    "streams_full_told": stream_tables.full_budget_told,
    "streams_small": stream_tables.small_budget,
    "streams_one_change": stream_tables.one_thing_changed,
    "streams_orders": stream_tables.other_orders,
    "streams_images": stream_tables.of_images,
}
END = "<!-- end of table -->"
MARK = re.compile(rf"^(?:<!-- table: .+ -->|{END})$", re.MULTILINE)
PART = re.compile(rf"^<!-- table: ([^\n]+) -->\n(.*?)^{END}$", re.MULTILINE | re.DOTALL)


def fill(
    pages: Sequence[Path] = PAGES, tables: dict[str, Table] = TABLES, records: Path = RESULTS, check: bool = False
) -> None:
    """Writes every table into its pages.

    Args:
        pages (`Sequence[Path]`): Markdown files.
        tables (`dict[str, Callable]`): Name → table.
        records (`Path`): Folder of the records.
        check (`bool`): Change nothing.

    Raises:
        SystemExit: when a mark is wrong, a table stands on no page, or, with `check`, a table is another.
    """
    placed: set[str] = set()
    texts = {page: filled(page, tables, records, check, placed) for page in pages}
    if unused := tables.keys() - placed:
        raise SystemExit(
            f"On no page: {', '.join(sorted(unused))}. Write `<!-- table: NAME -->` and `{END}` into one, or take the "
            "table out of TABLES."
        )
    for page, text in () if check else texts.items():
        page.write_text(text, "utf-8")


def filled(page: Path, tables: dict[str, Table], records: Path, check: bool, placed: set[str]) -> str:
    """The text of a page with its tables; their names are added to `placed`."""

    def part(found: re.Match[str]) -> str:
        name = found[1]
        if name not in tables:
            raise SystemExit(
                f"{named(page)}: there is no table `{name}`. Add it to TABLES in benchmarks/tables.py, or take one of "
                f"{', '.join(tables)}."
            )
        placed.add(name)
        body = "\n".join([*tables[name](records), ""])
        if check and body != found[2]:
            raise SystemExit(
                f"{named(page)}: table `{name}` is not that of the records. Run `python benchmarks/tables.py`."
            )
        return f"<!-- table: {name} -->\n{body}{END}"

    text = page.read_text("utf-8")
    check_marks(page, text)
    return PART.sub(part, text)


def check_marks(page: Path, text: str) -> None:
    """Every mark has its other half."""
    marks = MARK.findall(text)
    for begin, end in zip_longest(marks[::2], marks[1::2]):
        if begin == END:
            raise SystemExit(f"{named(page)}: `{END}` ends no table. Write `<!-- table: NAME -->` above its table.")
        if end != END:
            raise SystemExit(f"{named(page)}: `{begin}` has no end. Write `{END}` below its table.")


def named(page: Path) -> str:
    return str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a table is another")
    fill(check=parser.parse_args().check)


if __name__ == "__main__":
    main()
