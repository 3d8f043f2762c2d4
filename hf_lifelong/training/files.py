"""Reads files of rows: detects text encodings and CSV separators, and unpacks SQuAD's JSON."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, Value, load_dataset

FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
# Its table beside pictures, `datasets` reads by itself.
METADATA = "metadata"
SEPARATORS = (",", ";", "\t")
# The numbers of a CSV file: those that are written as Python writes them, up to zeros at the end of decimals.
NUMBERS = {
    "int64": r"^-?(0|[1-9]\d{0,17})$",
    "float64": r"^-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?$",
}


def load_files(path: Path) -> DatasetDict:
    """Loads a file, or a folder of files: of rows, or of pictures in a folder for each label or with a `metadata.csv`,
    as `datasets` reads them.

    CSV cells such as `None` and `N/A` are read as texts; only an empty cell is missing. JSON may be in SQuAD's own
    layout, or have its rows under `data`.

    Raises:
        ValueError: when the file has another format, or its text is not UTF-8 (for CSV: UTF-8 or UTF-16).
        OSError: when there is no such file.
        DatasetsError: when `datasets` cannot read it.
    """
    formats = ", ".join(FORMATS)
    if not path.exists():
        raise FileNotFoundError("there is no such file")
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in FORMATS and file.stem != METADATA)
        source: dict[str, Any] = {"path": str(path)}
    elif path.suffix.lower() not in FORMATS:
        raise ValueError(f"files that end in {path.suffix!r} are not read; convert it to one of {formats}")
    else:
        files = [path]
        check_filled(path)
        source = {"path": FORMATS[path.suffix.lower()], "data_files": str(path)}
    options = _options(files)
    data = load_dataset(**source, **options)
    return _with_numbers(data) if options else DatasetDict({name: _rows(split) for name, split in data.items()})


def check_filled(path: Path) -> None:
    """Refuses a file without rows (`ValueError`)."""
    with path.open("rb") as file:
        filled = list(islice(filter(bytes.strip, file), 2))
    if not filled:
        raise ValueError("the file is empty")
    if FORMATS[path.suffix.lower()] == "csv" and len(filled) < 2:
        raise ValueError("it has a header but no rows")


def _options(files: list[Path]) -> dict[str, Any]:
    """Options that `load_dataset` needs to read the files; none unless all of them are CSV."""
    formats = {FORMATS[file.suffix.lower()] for file in files}
    encodings = {file: encoding_of(file) for file in files if FORMATS[file.suffix.lower()] != "parquet"}
    if formats != {"csv"}:
        odd = [file.name for file, encoding in encodings.items() if encoding != "utf-8"]
        if odd:
            raise ValueError(f"`{odd[0]}` is UTF-16; save it as UTF-8")
        return {}
    encoding = encodings[files[0]]
    separator = separator_of(files[0], encoding)
    return {
        "sep": separator,
        "encoding": encoding,
        "keep_default_na": False,
        "na_values": [""],
        # Types would be guessed from the first 10,000 rows.
        "features": Features(dict.fromkeys(_header(files[0], encoding, separator), Value("string"))),
    }


def _header(path: Path, encoding: str, separator: str) -> list[str]:
    with path.open(encoding=encoding.replace("utf-8", "utf-8-sig"), newline="") as file:
        names = next(csv.reader(file, delimiter=separator), [])
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"`{path.name}` has two columns {twice!r}; rename one")
    return names


def encoding_of(path: Path) -> str:
    """`"utf-8"`, or `"utf-16"` if the file begins with a byte order mark of UTF-16.

    Raises:
        ValueError: when the file is neither; names the line.
    """
    with path.open("rb") as file:
        if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            return "utf-16"
        file.seek(0)
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                raise ValueError(f"`{path.name}`, line {number}, is not UTF-8 (save it as UTF-8)") from error
    return "utf-8"


def separator_of(path: Path, encoding: str = "utf-8") -> str:
    """The separator of a CSV file: the one that splits its first line into the most columns."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    with path.open(encoding=encoding, newline="") as file:
        first = file.readline()
    return max(SEPARATORS, key=lambda separator: len(next(csv.reader([first], delimiter=separator), [])))


def _rows(data: Dataset) -> Dataset:
    nested = data.features.get("data")
    if hasattr(nested, "feature") and set(data.column_names) <= {"data", "version"}:
        entries = [entry for row in data for entry in row["data"]]
        return Dataset.from_list(list(_questions(entries)) if "paragraphs" in nested.feature else entries)
    return data


def _with_numbers(data: DatasetDict) -> DatasetDict:
    """Data of texts, with the columns as numbers that hold nothing but numbers. A number that would be written
    otherwise, such as 007, makes its column one of texts: it is a name."""
    for name in next(iter(data.values())).column_names:
        columns = [split.with_format("arrow")[:].column(name) for split in data.values()]
        column = pa.chunked_array([chunk for one in columns for chunk in one.chunks], pa.string()).drop_null()
        for dtype, form in NUMBERS.items():
            if len(column) and pc.all(pc.match_substring_regex(column, form)).as_py():
                data = data.cast_column(name, Value(dtype))
                break
    return data


def _questions(articles: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The questions of SQuAD's own JSON, in the layout of its data set on the Hub."""
    for article in articles:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = question["answers"] or []
                yield {
                    "id": question["id"],
                    "title": article.get("title"),
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": {key: [answer[key] for answer in answers] for key in ("text", "answer_start")},
                }
