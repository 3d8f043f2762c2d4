"""Pushing what a trainer wrote, commit after commit, without overwriting what others pushed between."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..hub import CARD, PushConflictError, push_to_hub


class Pusher:
    """Pushes a folder again and again, and knows what each branch pointed to after the last time."""

    def __init__(self) -> None:
        self._heads: dict[str | None, str | None] = {}

    def ready(
        self, folder: str, repo_id: str, revision: str | None, loaded: str | None, **options: Any
    ) -> Callable[[], Any]:
        """Copies a folder, which may be written to from then on, and returns what pushes the copy.

        Args:
            folder (`str`): An adapter's, whole.
            repo_id (`str`): The repository, with its user.
            revision (`str`, *optional*): The branch; the main one by default.
            loaded (`str`, *optional*): The commit of that branch that the adapter was loaded from.
            options: For [`~hub.push_to_hub`].

        Returns:
            `Callable`: Takes nothing; pushes, and returns `CommitInfo`. Raises `PushError`.
        """
        copy = Path(tempfile.mkdtemp())
        shutil.copytree(folder, copy, dirs_exist_ok=True, ignore=lambda _, names: _not_pushed(names))
        return functools.partial(self._push, copy, repo_id, revision, loaded, **options)

    def _push(self, folder: Path, repo_id: str, revision: str | None, loaded: str | None, **options: Any) -> Any:
        head = self._heads.get(revision, loaded)
        self._heads[revision] = None  # until the answer is here, nobody knows what the branch points to
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
    """Folders of a run, which may be large: checkpoints, commits, logs."""
    return {name for name in names if name.startswith(("_", ".", "checkpoint-", "runs"))}
