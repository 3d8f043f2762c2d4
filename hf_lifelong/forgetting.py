"""Forgetting a task of a saved adapter: what is written knows nothing of it any more."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .adapter import forget, knowledge_of
from .adapter.heads import active_config
from .files import atomic_folder
from .hub import CardFacts, SavedAdapter, model_card
from .hub.card import hub_id
from .hub.saved import is_ours
from .hub.transfer import CARD, TENSORS
from .knowledge import KnowledgeBase
from .loading import load
from .training.cards import task_sizes


def forget_saved(saved: SavedAdapter, task: str, target: str | os.PathLike[str]) -> KnowledgeBase:
    """Writes a saved adapter without one of its tasks, whole or not at all: adapter, tokenizer and a new card. There
    are no scores any more, because they were measured with the task present.

    Where `target` is the adapter's own folder, its other files stay, but not what training left of the task:
    checkpoints and commits.

    Args:
        saved ([`SavedAdapter`]): As `hub.pull` returns it.
        task (`str`): The task to forget.
        target (`str` or `os.PathLike`): The adapter's own folder, or one that does not exist or is empty.

    Returns:
        [`KnowledgeBase`]: What remains.

    Raises:
        KeyError: when no task has that name.
        ValueError: when `target` is another folder that holds something, or the adapter does not fit its base.
    """
    own, folder = saved.folder.resolve(), Path(target).resolve()
    if folder != own and folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"`target` is {str(target)!r}, which exists and is not an empty folder; give a new one.")
    model, tokenizer = load(saved)
    forget(model, task)
    with atomic_folder(folder) as fresh:
        if folder == own:
            shutil.copytree(own, fresh, symlinks=True, dirs_exist_ok=True, ignore=_of_the_task)
        model.save_pretrained(str(fresh))
        tokenizer.save_pretrained(str(fresh))
        config = active_config(model)
        facts = CardFacts(
            base_model=_public(config.base_model_name_or_path), adapter_size=_size(fresh), task_sizes=task_sizes(model)
        )
        card = model_card(knowledge_of(model), config.to_dict(), facts)
        (fresh / CARD).write_text(str(card), encoding="utf-8")
    return knowledge_of(model)


def _of_the_task(folder: str, names: list[str]) -> set[str]:
    return {name for name in names if is_ours(name) or name.startswith(("_", ".", "checkpoint-"))}


def _public(base: str | None) -> str | None:
    return None if base is None or Path(base).exists() else hub_id(base)


def _size(folder: Path) -> int:
    return (folder / TENSORS).stat().st_size
