"""Digests of tensors and folders, which reveal damage and files mixed from different saves.

XXH3 is as fast as reading memory. It protects against accidents, not against somebody who forges a matching digest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from xxhash import xxh3_128

from .files import DamagedFileError, read_json, sync, write_json

# Bytes of a tensor that are read at a time, few enough that the next reader finds them in the processor's cache.
AT_ONCE = 2**20
RECORD = "files.json"  # holds the size and digest of each file in a folder


class TensorDigest:
    """The digest of tensors with their names, dtypes and shapes. Tensors are added one by one, in the order of their
    names."""

    def __init__(self) -> None:
        self._state = xxh3_128()

    def parts(self, name: str, tensor: torch.Tensor) -> Iterator[torch.Tensor]:
        """Adds a tensor, and yields it in flat chunks on the CPU as they are read, so that a caller can check its
        values without reading it twice."""
        self._state.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        flat = tensor.detach().cpu().contiguous().view(-1)
        for chunk in flat.split(max(AT_ONCE // flat.element_size(), 1)):
            self._state.update(chunk.view(torch.uint8).numpy())
            yield chunk

    def hexdigest(self) -> str:
        return self._state.hexdigest()


def digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """The digest of named tensors; it does not depend on their order, device or memory layout."""
    digest = TensorDigest()
    for name in sorted(tensors):
        for _ in digest.parts(name, tensors[name]):
            pass
    return digest.hexdigest()


def record_files(folder: Path) -> None:
    """Flushes all files below a folder to disk, then writes their sizes and digests into its `RECORD`."""
    record = {}
    for path in sorted(folder.rglob("*")):
        sync(path)
        if path.is_file() and path != folder / RECORD:  # an earlier record does not count
            record[path.relative_to(folder).as_posix()] = [path.stat().st_size, _digest_of_file(path)]
    write_json(folder / RECORD, record)
    sync(folder)


def check_files(folder: Path) -> None:
    """Refuses a folder if a file in its record is missing or changed. Files that are not in the record do not count.

    Raises:
        DamagedFileError: names the first such file.
    """
    for name, (size, digest) in read_json(folder / RECORD).items():
        path = folder / name
        try:
            current_size = os.stat(path).st_size
            if current_size != size:
                raise DamagedFileError(path, f"it has {current_size:,} bytes, not {size:,}")
            if _digest_of_file(path) != digest:
                raise DamagedFileError(path, "it is not what was written there")
        except OSError as error:
            raise DamagedFileError(path, f"it cannot be read ({error.strerror})") from error


def _digest_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, xxh3_128).hexdigest()
