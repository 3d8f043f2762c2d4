"""Folders that appear whole or not at all, written by one process at a time."""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .files import sync

logger = logging.getLogger(__name__)

# Seconds that a writer waits for another one. Workers that load data for a run that was killed hold its lock for five.
PATIENCE = 10.0
# What file systems say that have no locks, or cannot let two folders change places.
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux


class BusyFolderError(OSError):
    """A folder that another process is writing."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__(
            f"`{folder}` is being written by another process, so nothing was changed. Wait until that has ended, or "
            "stop it, and try again."
        )


@contextmanager
def sole_writer(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keeps other processes from writing a folder, which need not exist, while the block runs.

    The lock is a file beside the folder. The system drops it with the process that holds it, however that ends.

    Raises:
        BusyFolderError: when another process holds it for longer than `PATIENCE`.
    """
    folder = Path(folder)
    path = folder.parent / f".{folder.name}.lock"
    folder.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + PATIENCE
    while (held := _lock(path)) is None:
        if time.monotonic() > until:
            raise BusyFolderError(folder)
        time.sleep(0.05)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(held)):
                os.unlink(path)  # before it is free: who gets it then finds it gone, and makes a new one
        os.close(held)


def _lock(path: Path) -> int | None:
    """Takes a lock: an open file to be closed; `None` while another process has it."""
    import fcntl  # which Windows lacks, where an adapter can be loaded all the same

    held = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken = os.fstat(held).st_nlink > 0
    except BlockingIOError:
        taken = False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            os.close(held)
            raise
        logger.warning(f"The file system of `{path.parent}` has no locks; let only one process write there.")
        taken = True
    if taken:
        return held
    os.close(held)
    return None


@contextmanager
def atomic_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a fresh folder beside `target` that takes its place when the block ends without an error.

    A process that is killed leaves `target` as it was or as it was to be. Where the file system cannot let two folders
    change places in one step (Linux can, on its own file systems), there is a moment in which it has only another
    name, which the next call gives back. What else is left begins with a dot, and is removed by the next call too.

    Raises:
        BusyFolderError: when another process is writing `target`.
    """
    target = Path(target)
    with sole_writer(target):
        _clear(target)
        fresh = _beside(target, "unfinished")
        fresh.mkdir()
        try:
            yield fresh
            for path in (*fresh.rglob("*"), fresh):
                sync(path)
            if not target.exists():
                os.rename(fresh, target)
            elif not _exchange(fresh, target):
                os.rename(target, _beside(target, "old"))
                os.rename(fresh, target)
            sync(target.parent)
        finally:
            _clear(target)


def clear_leftovers(target: str | os.PathLike[str]) -> None:
    """Ends what a process was killed in the middle of that wrote `target` as an `atomic_folder`.

    Raises:
        BusyFolderError: when another process is writing `target`.
    """
    if _leftovers(Path(target)):
        with sole_writer(target):
            _clear(Path(target))


def _beside(target: Path, what: str) -> Path:
    return target.parent / f".{target.name}.{secrets.token_hex(4)}.{what}"


def _leftovers(target: Path) -> list[Path]:
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.(unfinished|old)")
    return [path for path in target.parent.glob(".*") if pattern.fullmatch(path.name)]


def _clear(target: Path) -> None:
    left = _leftovers(target)
    for path in left:
        if path.suffix == ".old" and not target.exists():
            os.rename(path, target)
        else:
            shutil.rmtree(path)


def _exchange(one: Path, other: Path) -> bool:
    """Lets two folders change places in one step; `False` where the system or the file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    if rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code not in NO_EXCHANGE:
        raise OSError(code, os.strerror(code), str(one), None, str(other))
    return False
