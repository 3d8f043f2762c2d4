"""Atomic writing of folders, by one process at a time."""

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

# Seconds that a writer waits for another one. After a kill, data loading workers may hold the lock for five seconds.
PATIENCE = 10.0
# Errors of file systems that have no locks, or cannot exchange two folders.
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux


class BusyFolderError(OSError):
    """Another process is writing a folder."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__(
            f"`{folder}` is being written by another process, so nothing was changed. Wait for that process to end, "
            "or stop it, and try again."
        )


@contextmanager
def sole_writer(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keeps other processes from writing a folder while the block runs. The folder need not exist.

    The lock is on a file beside the folder. The operating system releases it when the process ends, however it ends.

    Raises:
        BusyFolderError: when another process holds it for longer than `PATIENCE`.
    """
    folder = Path(folder)
    path = folder.parent / f".{folder.name}.lock"
    folder.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + PATIENCE
    while (lock := _lock(path)) is None:
        if time.monotonic() > until:
            raise BusyFolderError(folder)
        time.sleep(0.05)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            if os.path.samestat(os.stat(path), os.fstat(lock)):
                os.unlink(path)  # before it is released: the next holder notices this, and makes a new file
        os.close(lock)


def _lock(path: Path) -> int | None:
    """Takes a lock and returns its open file, which the caller closes; `None` while another process has it."""
    import fcntl  # imported here because Windows lacks it, where adapters can still be loaded

    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_locked = os.fstat(file).st_nlink > 0
    except BlockingIOError:
        is_locked = False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            os.close(file)
            raise
        logger.warning(f"The file system of `{path.parent}` has no locks; let only one process write there.")
        is_locked = True
    if is_locked:
        return file
    os.close(file)
    return None


@contextmanager
def atomic_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a fresh folder beside `target` that replaces it when the block ends without an error.

    If the process is killed, `target` is either the old or the new folder. Some file systems cannot exchange two
    folders in one step (Linux can, on its own file systems). There, a kill at the wrong moment leaves the old folder
    under another name, and the next call renames it back. Other leftovers begin with a dot; the next call removes
    them.

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
    """Cleans up after a process that was killed while it wrote `target` as an `atomic_folder`.

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
    for path in _leftovers(target):
        if path.suffix == ".old" and not target.exists():
            os.rename(path, target)
        else:
            shutil.rmtree(path)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two folders in one step; `False` if the operating system or the file system cannot do that."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    if rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code not in NO_EXCHANGE:
        raise OSError(code, os.strerror(code), str(one), None, str(other))
    return False
