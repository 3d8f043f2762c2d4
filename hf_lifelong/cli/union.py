"""Joins two saved adapters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..adapter import knowledge_of, union
from ..hub import SavedAdapter
from ..knowledge import KnowledgeBase
from ..loading import load
from ..utils.folders import atomic_folder
from .writing import check_new, write_adapter


def union_saved(
    saved: SavedAdapter,
    other: SavedAdapter,
    target: str | os.PathLike[str],
    rename: Mapping[str, str],
    *,
    load_in_4bit: bool = False,
) -> KnowledgeBase:
    """Writes an adapter that knows the tasks of two, whole or not at all: adapter, tokenizer of the first, and a new
    card.

    Args:
        saved, other ([`SavedAdapter`]): As `hub.pull` returns them.
        target (`str` or `os.PathLike`): A folder that does not exist or is empty.
        rename (`dict[str, str]`): As in [`union`].
        load_in_4bit (`bool`): Whether the bases are quantised to 4 bits as they are loaded.

    Returns:
        [`KnowledgeBase`]: What it knows.

    Raises:
        ValueError: when `target` is not empty, or the adapters cannot be joined.
        BusyFolderError: when another process writes `target`.
    """
    folder = Path(target).resolve()
    with atomic_folder(folder) as fresh:
        check_new(folder)
        model, tokenizer = load(saved, load_in_4bit=load_in_4bit)
        union(model, load(other, load_in_4bit=load_in_4bit)[0], rename)
        write_adapter(model, tokenizer, fresh)
    return knowledge_of(model)
