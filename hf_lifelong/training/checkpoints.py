"""Commits and checkpoints of a stream on disk, and finding the ones to resume from.

`output_dir/_stream` holds `commit-<n>`, the adapter after the n-th commit, which appears whole or not at all. For the
task in training it also holds a folder of Trainer's checkpoints. A checkpoint is complete once it has its record,
which is written last. The leading underscore keeps all of this off the Hub.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..adapter import Snapshot
from ..utils.digests import RECORD, check_files, record_files
from ..utils.files import DamagedFileError, read_json, read_tensors, write_json, write_tensors
from ..utils.folders import atomic_folder

logger = logging.getLogger(__name__)

STATE = "drift_task.json"
SNAPSHOTS = "snapshots.safetensors"
COMMIT = "commit-"
CHECKPOINT = f"{PREFIX_CHECKPOINT_DIR}-"


@dataclass
class Checkpoint:
    """A point from which the training of a task resumes.

    Args:
        folder (`Path`): Trainer's checkpoint.
        snapshots (`list`): Members taken so far.
        ended (`bool`): Whether training had ended at this point.
    """

    folder: Path
    snapshots: list[Snapshot]
    ended: bool


def stream_folder(output_dir: str | os.PathLike[str]) -> Path:
    return Path(output_dir) / "_stream"


def task_folder(output_dir: str | os.PathLike[str], name: str) -> Path:
    """Folder of a task's checkpoints; safe for any task name."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", name)[:40].strip("-")
    return stream_folder(output_dir) / f"task-{readable}-{zlib.crc32(name.encode()):08x}"


def mark_complete(checkpoint: Path, task: str, learned: list[str], snapshots: list[Snapshot], ended: bool) -> None:
    """Adds what Trainer does not save: the members taken so far, and then the record of all files, which marks the
    checkpoint as complete."""
    tensors = {f"{i}/{name}": tensor for i, snapshot in enumerate(snapshots) for name, tensor in snapshot.items()}
    write_tensors(checkpoint / SNAPSHOTS, tensors)
    write_json(checkpoint / STATE, {"task": task, "learned": learned, "ended": ended})
    record_files(checkpoint)


def newest_checkpoint(folder: Path, task: str, learned: list[str]) -> Checkpoint | None:
    """The newest complete checkpoint of a task. Unfinished checkpoints are skipped, damaged ones with a warning. So
    are checkpoints of an adapter that knew other tasks, because a checkpoint holds the members of all tasks."""
    for checkpoint in reversed(_numbered(folder, CHECKPOINT)):
        if not (checkpoint / STATE).exists():
            continue
        try:
            check_files(checkpoint)
            state, tensors = read_json(checkpoint / STATE), read_tensors(checkpoint / SNAPSHOTS)
        except DamagedFileError as error:
            logger.warning(f"A damaged checkpoint is skipped. {error}")
            continue
        if (state["task"], state["learned"]) != (task, learned):
            continue
        snapshots: list[Snapshot] = [{} for _ in {key.split("/", 1)[0] for key in tensors}]
        for key, tensor in tensors.items():
            i, name = key.split("/", 1)
            snapshots[int(i)][name] = tensor.clone()
        return Checkpoint(checkpoint, snapshots, state["ended"])
    return None


def newest_commit(output_dir: str | os.PathLike[str]) -> Path | None:
    """The folder of a stream's newest undamaged commit. If all are damaged it is `output_dir`, which holds a copy of
    the newest one. `None` before the first commit."""
    commits = _numbered(stream_folder(output_dir), COMMIT)
    for commit in reversed(commits):
        try:
            if (commit / RECORD).exists():  # commits of an earlier version have none
                check_files(commit)
            return commit
        except DamagedFileError as error:
            logger.warning(f"A damaged commit is skipped. {error}")
    return Path(output_dir) if commits else None


def write_commit(output_dir: str | os.PathLike[str], save: Callable[[Path], None]) -> Path:
    """Writes a commit, which `save(folder)` fills, copies it to `output_dir`, and deletes older commits."""
    older = _numbered(stream_folder(output_dir), COMMIT)
    number = int(older[-1].name.removeprefix(COMMIT)) + 1 if older else 1
    target = stream_folder(output_dir) / f"{COMMIT}{number}"
    with atomic_folder(target) as folder:
        save(folder)
        record_files(folder)
    publish(target, output_dir)
    for old in older:
        shutil.rmtree(old, ignore_errors=True)
    return target


def publish(commit: Path, output_dir: str | os.PathLike[str]) -> None:
    """Copies a commit's files to `output_dir`, each of them atomically."""
    for file in sorted(path for path in commit.iterdir() if path.name != RECORD):
        fresh = Path(output_dir) / f".{file.name}.unfinished"
        shutil.copyfile(file, fresh)
        os.replace(fresh, Path(output_dir) / file.name)


def _numbered(folder: Path, prefix: str) -> list[Path]:
    """Folders whose name is `prefix` and a number, in the order of the numbers."""
    folders = [path for path in folder.glob(f"{prefix}*") if path.name.removeprefix(prefix).isdigit()]
    return sorted(folders, key=lambda path: int(path.name.removeprefix(prefix)))
