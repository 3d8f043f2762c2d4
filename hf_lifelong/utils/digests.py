"""Digests by which damage is noticed, and files of different saves that were mixed: of tensors, and of folders.

XXH3 is as quick as memory is read. It protects against accidents, not against somebody who writes a digest that fits.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from xxhash import xxh3_128

from .files import DamagedFileError, read_json, sync, write_json

# Bytes of a tensor that are read at a time: few enough to be in the processor's cache for who looks at them next.
AT_ONCE = 2**20
RECORD = "files.json"  # of a folder: the size and the digest of each of its files


class TensorDigest:
    """The digest of tensors with their names, dtypes and shapes, taken in one by one, in the order of their names."""

    def __init__(self) -> None:
        self._state = xxh3_128()

    def parts(self, name: str, tensor: torch.Tensor) -> Iterator[torch.Tensor]:
        """Takes in a tensor; gives it in flat parts on the CPU, each just read, so that checking its values costs no
        second reading."""
        self._state.update(f"{name} {tensor.dtype} {list(tensor.shape)};".encode())
        flat = tensor.detach().cpu().contiguous().view(-1)
        for part in flat.split(max(AT_ONCE // flat.element_size(), 1)):
            self._state.update(part.view(torch.uint8).numpy())
            yield part

    def hexdigest(self) -> str:
        return self._state.hexdigest()


def digest_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """The digest of tensors by their names, whatever their order, device and layout."""
    digest = TensorDigest()
    for name in sorted(tensors):
        for _ in digest.parts(name, tensors[name]):
            pass
    return digest.hexdigest()


def record_files(folder: Path) -> None:
    """Puts all files below a folder on the disk, then writes their sizes and digests beside them, as `RECORD`."""
    record = {}
    for path in sorted(folder.rglob("*")):
        sync(path)
        if path.is_file() and path != folder / RECORD:  # of what was there before
            record[path.relative_to(folder).as_posix()] = [path.stat().st_size, _digest_of_file(path)]
    write_json(folder / RECORD, record)
    sync(folder)


def check_files(folder: Path) -> None:
    """Refuses a folder that lacks a file of its record, or holds another one by that name; further files do not count.

    Raises:
        DamagedFileError: names the first such file.
    """
    for name, (size, digest) in read_json(folder / RECORD).items():
        path = folder / name
        try:
            found = os.stat(path).st_size
            if found != size:
                raise DamagedFileError(path, f"it has {found:,} bytes, not {size:,}")
            if _digest_of_file(path) != digest:
                raise DamagedFileError(path, "it is not what was written there")
        except OSError as error:
            raise DamagedFileError(path, f"it cannot be read ({error.strerror})") from error


def _digest_of_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, xxh3_128).hexdigest()
