"""Atomic writing of files, and reading of JSON and safetensors with errors that say what is wrong with a file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

# Limits of JSON from elsewhere: its size in bytes, its nesting depth, and the numbers of containers, keys and values,
# each of which takes far more memory than the two bytes it may have in a file. A manifest of 1,000 tasks takes 0.6 MB;
# with all scores it takes 75 MB and has 3,000,000 values, and up to as many keys as tasks times groups.
LARGEST_JSON, DEEPEST_JSON = 128_000_000, 64
MOST_JSON = {"lists and objects": ("[{", 200_000), "keys": (":", 1_500_000), "values": (",", 5_000_000)}
# Bytes of the header of a safetensors file: 1,000 tensors take 0.15 MB.
LARGEST_HEADER = 2_000_000
Header = dict[str, tuple[str, tuple[int, ...]]]  # name → dtype as safetensors spells it, shape


class DamagedFileError(ValueError):
    """A file cannot be used; names the file, the reason, and what to do."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(
            f"`{path}` cannot be used: {reason}. Restore the file from a copy, or save the adapter again."
        )


def sync(path: Path) -> None:
    """Flushes a file, or the list of names in a folder, to disk. Links are skipped, because their target may not
    exist."""
    if path.is_symlink():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a path to write to; what was written replaces the file at once, or not at all where an error is raised.
    Missing folders are created."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.parent / f".{path.name}.unfinished"
    try:
        yield fresh
        sync(fresh)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Writes JSON atomically; refuses NaN and infinity, which are not JSON (`ValueError`)."""
    text = json.dumps(data, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with atomic_file(path) as fresh:
        fresh.write_text(text + "\n", encoding="utf-8")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) < len(pairs):
        raise ValueError("a key stands twice")
    return unique


def _check_depth(data: Any, levels: int) -> None:
    if not levels:
        raise ValueError(f"it nests deeper than {DEEPEST_JSON} levels")
    for inner in data.values() if isinstance(data, dict) else data:
        if isinstance(inner, dict | list):
            _check_depth(inner, levels - 1)


def _parse_json(path: str | os.PathLike[str], content: bytes) -> Any:
    try:
        for what, (marks, most) in MOST_JSON.items():
            if sum(content.count(mark.encode()) for mark in marks) > most:
                raise ValueError(f"it holds more than {most:,} {what}")
        data = json.loads(
            content.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicate_keys
        )
        _check_depth([data], DEEPEST_JSON + 1)
    except (ValueError, RecursionError) as error:
        reason = str(error) if type(error) is ValueError else type(error).__name__
        raise DamagedFileError(path, f"it is not valid JSON ({reason})") from error
    return data


def read_json(path: str | os.PathLike[str], largest: float = math.inf) -> Any:
    """Reads JSON of at most `largest` bytes.

    Raises:
        DamagedFileError: when the file is missing, too large, is not UTF-8 JSON, has a key twice, or nests too deeply.
    """
    try:
        size = os.stat(path).st_size
        if size > largest:
            raise DamagedFileError(path, f"it has {size:,} bytes, more than the {largest:,} allowed")
        content = Path(path).read_bytes()
    except OSError as error:
        raise DamagedFileError(path, f"it cannot be read ({error.strerror})") from error
    return _parse_json(path, content)


def write_tensors(
    path: str | os.PathLike[str], tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Writes a safetensors file atomically, with `metadata` in its header."""
    with atomic_file(path) as fresh:
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, fresh, metadata={"format": "pt", **(metadata or {})})


def read_header(path: str | os.PathLike[str]) -> Header:
    """Names, dtypes and shapes of the tensors in a safetensors file; only its header is read.

    Raises:
        DamagedFileError: when the file is missing, truncated, not a safetensors file, or names a tensor twice.
    """
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > LARGEST_HEADER:
                raise DamagedFileError(path, f"its header states {length:,} bytes, more than any adapter's")
            content = file.read(length)
        # The library checks lengths, offsets and types, but not whether a name occurs twice.
        with safe_open(path, framework="np"):
            header = _parse_json(path, content)
    except OSError as error:
        raise DamagedFileError(path, f"it cannot be read ({error.strerror or error})") from error
    except SafetensorError as error:
        raise DamagedFileError(path, f"it is not a whole safetensors file ({error})") from error
    return {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in header.items() if name != "__metadata__"}


def read_tensors(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Reads a safetensors file; tensors are memory-mapped, not copied, if the platform allows it.

    Raises:
        DamagedFileError: when the file is missing, truncated, or not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise DamagedFileError(path, "it is missing or cannot be read") from error
    except (SafetensorError, ValueError) as error:
        raise DamagedFileError(path, f"it is not a whole safetensors file ({error})") from error
