"""Forgets a task of a saved adapter."""

from __future__ import annotations

import os
import shutil
from contextlib import nullcontext
from fnmatch import fnmatch
from pathlib import Path

from ..adapter import forget, knowledge_of
from ..hub import SavedAdapter, is_ours, read_saved
from ..knowledge import KnowledgeBase
from ..loading import load
from ..utils.folders import atomic_folder, sole_writer
from .writing import check_new, write_adapter

# Files of training beside the adapter: commits, checkpoints, unfinished files of a killed run, and the lock.
STREAM = "_stream"
TRAINING_FILES = (STREAM, "checkpoint-*", ".*.unfinished", f".{STREAM}.lock")


def forget_saved(
    saved: SavedAdapter, task: str, target: str | os.PathLike[str], *, load_in_4bit: bool = False
) -> KnowledgeBase:
    """Writes a saved adapter without one of its tasks, whole or not at all: adapter, tokenizer or image processor, and
    a new card. Scores are dropped, because they were measured with the task present.

    If `target` is the adapter's own folder, its other files and folders stay, except for the checkpoints and commits
    of training, which hold the task.

    Args:
        saved ([`SavedAdapter`]): As `hub.pull` returns it.
        task (`str`): The task to forget.
        target (`str` or `os.PathLike`): The adapter's own folder, or one that does not exist or is empty.
        load_in_4bit (`bool`): Whether the base is quantised to 4 bits as it is loaded.

    Returns:
        [`KnowledgeBase`]: What remains.

    Raises:
        KeyError: when no task has that name.
        ValueError: when `target` is another folder that is not empty, or the adapter does not fit its base.
        BusyFolderError: when another process writes `target`, or learns there.
    """
    source, folder = saved.folder.resolve(), Path(target).resolve()
    # Nobody may learn there in the meantime, because checkpoints and commits hold the task too.
    no_training = sole_writer(source / STREAM) if folder == source else nullcontext()
    with no_training, atomic_folder(folder) as fresh:
        if folder == source:
            saved = read_saved(source, saved.repo_id, saved.revision)  # again, because nobody else can write it here
            _copy_others(source, fresh)
        else:
            check_new(folder)
        model, processor = load(saved, load_in_4bit=load_in_4bit)
        forget(model, task)
        write_adapter(model, processor, fresh)
    return knowledge_of(model)


def _copy_others(source: Path, fresh: Path) -> None:
    """Copies everything except the adapter's files and those of training. Only names in the folder itself are
    excluded, because a subfolder may be anything, such as an exported adapter or `.git`."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        if Path(folder) != source:
            return set()
        return {name for name in names if is_ours(name) or any(fnmatch(name, file) for file in TRAINING_FILES)}

    shutil.copytree(source, fresh, symlinks=True, dirs_exist_ok=True, ignore=left_out)
