"""Pushes a trainer's commits one after another without overwriting what others pushed in the meantime."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo

from ..hub import CARD, PushConflictError, push_to_hub


class Pusher:
    """Pushes a folder repeatedly, and remembers the commit of each branch after its last push."""

    def __init__(self) -> None:
        self._heads: dict[str | None, str | None] = {}

    def ready(
        self, folder: str, repo_id: str, revision: str | None, loaded: str | None, **options: Any
    ) -> Callable[[], CommitInfo]:
        """Copies a folder and returns a function that pushes the copy. The folder itself may change after this call.

        Args:
            folder (`str`): A complete adapter folder.
            repo_id (`str`): The repository, with its user name.
            revision (`str`, *optional*): The branch, `main` by default.
            loaded (`str`, *optional*): The commit of that branch from which the adapter was loaded.
            options: Passed on to [`~hub.push_to_hub`].

        Returns:
            `Callable`: Function without arguments that pushes and returns `CommitInfo`. Raises `PushError`.
        """
        copy = Path(tempfile.mkdtemp())
        shutil.copytree(folder, copy, dirs_exist_ok=True, ignore=lambda _, names: _not_pushed(names))
        return functools.partial(self._push, copy, repo_id, revision, loaded, **options)

    def _push(
        self, folder: Path, repo_id: str, revision: str | None, loaded: str | None, **options: Any
    ) -> CommitInfo:
        head = self._heads.get(revision, loaded)
        self._heads[revision] = None  # what the branch points to is unknown until the Hub answers
        try:
            card = (folder / CARD).read_text(encoding="utf-8")
            commit = push_to_hub(folder, repo_id, card=card, revision=revision, parent_commit=head, **options)
        except PushConflictError:
            self._heads[revision] = head
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._heads[revision] = commit.oid
        return commit


def _not_pushed(names: list[str]) -> set[str]:
    """Folders of a run that may be large and stay local: checkpoints, commits, logs."""
    return {name for name in names if name.startswith(("_", ".", "checkpoint-", "runs"))}
