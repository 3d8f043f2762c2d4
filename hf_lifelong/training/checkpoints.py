"""What a stream leaves on disk, and where a killed one goes on.

Under `output_dir/_stream`: `commit-<n>`, the adapter as the n-th commit left it, which appears whole or not at all;
and for the task in training a folder of Trainer's checkpoints, each complete once it holds `STATE`, written last. The
leading underscore keeps all of it off the Hub.
"""

from __future__ import annotations

import os
import re
import shutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..files import DamagedFileError, read_json, read_tensors, write_json, write_tensors
from ..folders import atomic_folder

STATE = "drift_task.json"
SNAPSHOTS = "snapshots.safetensors"
COMMIT = "commit-"
CHECKPOINT = f"{PREFIX_CHECKPOINT_DIR}-"
Snapshot = dict[str, torch.Tensor]


@dataclass
class Checkpoint:
    """Where the training of a task goes on.

    Args:
        folder (`Path`): What Trainer saved.
        snapshots (`list`): Members so far.
        ended (`bool`): Whether training had ended there.
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
    """Adds what Trainer does not save: the members so far, then the mark that the checkpoint is whole."""
    tensors = {f"{i}/{name}": tensor for i, snapshot in enumerate(snapshots) for name, tensor in snapshot.items()}
    write_tensors(checkpoint / SNAPSHOTS, tensors)
    write_json(checkpoint / STATE, {"task": task, "learned": learned, "members": len(snapshots), "ended": ended})


def newest_checkpoint(folder: Path, task: str, learned: list[str]) -> Checkpoint | None:
    """The newest complete checkpoint of a task; unfinished or damaged ones are passed over, and those of an adapter
    that knew other tasks, because a checkpoint holds all members."""
    for checkpoint in reversed(_numbered(folder, CHECKPOINT)):
        try:
            state = read_json(checkpoint / STATE)
            tensors = read_tensors(checkpoint / SNAPSHOTS)
        except DamagedFileError:
            continue
        if (state["task"], state["learned"]) != (task, learned):
            continue
        snapshots: list[Snapshot] = [{} for _ in range(state["members"])]
        for key, tensor in tensors.items():
            i, name = key.split("/", 1)
            snapshots[int(i)][name] = tensor.clone()
        return Checkpoint(checkpoint, snapshots, state["ended"])
    return None


def newest_commit(output_dir: str | os.PathLike[str]) -> Path | None:
    """The folder of the last commit of a stream."""
    found = _numbered(stream_folder(output_dir), COMMIT)
    return found[-1] if found else None


def write_commit(output_dir: str | os.PathLike[str], save: Callable[[Path], None]) -> Path:
    """Writes a commit (`save(folder)` fills it), copies it to `output_dir`, then drops older commits."""
    older = _numbered(stream_folder(output_dir), COMMIT)
    number = int(older[-1].name.removeprefix(COMMIT)) + 1 if older else 1
    target = stream_folder(output_dir) / f"{COMMIT}{number}"
    with atomic_folder(target) as folder:
        save(folder)
    publish(target, output_dir)
    for old in older:
        shutil.rmtree(old, ignore_errors=True)
    return target


def publish(commit: Path, output_dir: str | os.PathLike[str]) -> None:
    """Copies a commit's files to `output_dir`, each one whole."""
    for file in sorted(commit.iterdir()):
        fresh = Path(output_dir) / f".{file.name}.unfinished"
        shutil.copyfile(file, fresh)
        os.replace(fresh, Path(output_dir) / file.name)


def _numbered(folder: Path, prefix: str) -> list[Path]:
    """Folders named `prefix` and a number, in the order of the numbers."""
    found = [path for path in folder.glob(f"{prefix}*") if path.name.removeprefix(prefix).isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(prefix)))
