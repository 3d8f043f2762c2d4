"""What a stream leaves on disk, and where a killed one goes on.

Under `output_dir/_stream`: `commit-<n>`, the adapter after n tasks, which appears whole or not at all; and for the task
in training a folder of Trainer's checkpoints, each complete once it holds `STATE`, written last. The leading underscore
keeps all of it off the Hub.
"""

from __future__ import annotations

import os
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import torch

from ..files import DamagedFileError, atomic_folder, read_json, read_tensors, write_json, write_tensors

STATE = "drift_task.json"
SNAPSHOTS = "snapshots.safetensors"
Snapshot = dict[str, torch.Tensor]


def stream_folder(output_dir: str | os.PathLike[str]) -> Path:
    return Path(output_dir) / "_stream"


def task_folder(output_dir: str | os.PathLike[str], name: str) -> Path:
    """Folder of a task's checkpoints; safe for any task name."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", name)[:40].strip("-")
    return stream_folder(output_dir) / f"{readable}-{zlib.crc32(name.encode()):08x}"


def mark_complete(checkpoint: Path, task: str, step: int, snapshots: list[Snapshot]) -> None:
    """Adds what Trainer does not save: the members so far, then the mark that the checkpoint is whole."""
    tensors = {f"{i}/{name}": tensor for i, snapshot in enumerate(snapshots) for name, tensor in snapshot.items()}
    write_tensors(checkpoint / SNAPSHOTS, tensors)
    write_json(checkpoint / STATE, {"task": task, "step": step, "members": len(snapshots)})


def newest_checkpoint(folder: Path, task: str) -> tuple[Path, list[Snapshot]] | None:
    """The newest complete checkpoint of a task and the members in it; unfinished or damaged ones are passed over."""
    found = [p for p in folder.glob("checkpoint-*") if p.name.removeprefix("checkpoint-").isdigit()]
    for checkpoint in sorted(found, key=lambda p: int(p.name.removeprefix("checkpoint-")), reverse=True):
        try:
            state = read_json(checkpoint / STATE)
            tensors = read_tensors(checkpoint / SNAPSHOTS)
        except DamagedFileError:
            continue
        if state.get("task") != task:
            continue
        snapshots: list[Snapshot] = [{} for _ in range(state["members"])]
        for key, tensor in tensors.items():
            i, name = key.split("/", 1)
            snapshots[int(i)][name] = tensor.clone()
        return checkpoint, snapshots
    return None


def newest_commit(output_dir: str | os.PathLike[str]) -> Path | None:
    """The folder of the last commit of a stream."""
    found = [p for p in stream_folder(output_dir).glob("commit-*") if p.name.removeprefix("commit-").isdigit()]
    return max(found, key=lambda p: int(p.name.removeprefix("commit-")), default=None)


def write_commit(output_dir: str | os.PathLike[str], number: int, save: Any) -> Path:
    """Writes a commit (`save(folder)` fills it), copies it to `output_dir`, then drops older commits."""
    target = stream_folder(output_dir) / f"commit-{number}"
    with atomic_folder(target) as folder:
        save(folder)
    publish(target, output_dir)
    for old in stream_folder(output_dir).glob("commit-*"):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)
    return target


def publish(commit: Path, output_dir: str | os.PathLike[str]) -> None:
    """Copies a commit's files to `output_dir`, each one whole."""
    for file in sorted(commit.iterdir()):
        fresh = Path(output_dir) / f".{file.name}.unfinished"
        shutil.copyfile(file, fresh)
        os.replace(fresh, Path(output_dir) / file.name)
