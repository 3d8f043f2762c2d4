"""Folders that appear whole or not at all, and reads of JSON and safetensors that say what is wrong with a file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


class DamagedFileError(ValueError):
    """A file that cannot be used: names the file, the reason, and what to do."""

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(
            f"`{path}` cannot be used: {reason}. Restore the file from a copy, or save the adapter again."
        )


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def atomic_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a fresh folder beside `target` that takes its place when the block ends without an error.

    A process that is killed inside the block leaves `target` as it was (the unfinished folder starts with a dot and is
    removed by the next write to the same place).
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.parent / f".{target.name}.unfinished"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    try:
        yield fresh
        for file in fresh.rglob("*"):
            _sync(file)
        old = target.parent / f".{target.name}.old"
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            os.rename(target, old)
        os.rename(fresh, target)
        _sync(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def _atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.parent / f".{path.name}.unfinished"
    try:
        yield fresh
        _sync(fresh)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Writes JSON atomically; refuses NaN and infinity, which are not JSON (`ValueError`)."""
    text = json.dumps(data, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False)
    with _atomic_file(path) as fresh:
        fresh.write_text(text + "\n", encoding="utf-8")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Reads JSON.

    Raises:
        DamagedFileError: when the file is missing, is not UTF-8 JSON, or nests too deeply to be read.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise DamagedFileError(path, f"it cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise DamagedFileError(path, f"it is not valid JSON ({type(error).__name__})") from error


def write_tensors(
    path: str | os.PathLike[str], tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Writes a safetensors file atomically, with `metadata` in its header."""
    with _atomic_file(path) as fresh:
        held = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(held, fresh, metadata={"format": "pt", **(metadata or {})})


def check_tensors_file(path: str | os.PathLike[str]) -> None:
    """Refuses a safetensors file that is truncated or none at all (`DamagedFileError`); reads its header only."""
    try:
        with safe_open(path, framework="pt"):
            pass
    except (OSError, SafetensorError, ValueError) as error:
        raise DamagedFileError(path, f"it is not a whole safetensors file ({error})") from error


def read_tensors(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Reads a safetensors file; tensors are mapped, not copied, where the platform allows.

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
