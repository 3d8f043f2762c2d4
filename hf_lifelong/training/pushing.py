"""What a trainer pushes to the Hub, and how it pushes one commit after another without overwriting what others pushed
in the meantime."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, HfApi
from transformers import Trainer

from ..adapter import active_config, knowledge_of
from ..evaluation import AccuracyMatrix
from ..hub import CARD, PushConflictError, loaded_commit, push_to_hub, write_matrix
from ..knowledge import KnowledgeBase
from .arguments import DriftTrainingArguments
from .cards import write_card
from .measuring import matrix_of


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


class PushedTrainer(Trainer):
    """What [`DriftTrainer`] says of its adapter: what it knows, its model card, and pushing both to the Hub."""

    args: DriftTrainingArguments
    model: Any
    session: list[str]

    @property
    def output_dir(self) -> str:
        """The folder of the adapter, its commits and checkpoints."""
        return str(self.args.output_dir)

    @property
    def knowledge(self) -> KnowledgeBase:
        """What the model has learned."""
        return knowledge_of(self.model)

    @property
    def matrix(self) -> AccuracyMatrix | None:
        """The accuracy matrix as last measured; `None` before the first task and after forgetting one."""
        return matrix_of(self.knowledge)

    @functools.cached_property
    def _pusher(self) -> Pusher:
        return Pusher()

    def create_model_card(self, language: Any = None, license: str | None = None, **kwargs: Any) -> None:  # type: ignore[override]
        """Writes the model card into `output_dir`. Trainer's other arguments are not needed: the card has those
        facts."""
        if self.is_world_process_zero():
            codes = [language] if isinstance(language, str) else language
            write_card(self, self.output_dir, language=codes, license=license)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Pushes the current adapter in one commit: adapter, manifest, accuracy matrix, tokenizer and card; see
        `hf_lifelong.hub.push_to_hub`.

        Args:
            commit_message (`str`, *optional*): Message of the commit.
            blocking (`bool`): `False` uploads in the background and returns a `Future`.
            token (`str`, *optional*): Token with write permission; by default `hub_token` of the arguments.
            revision (`str`, *optional*): Branch to push to; by default `hub_revision` of the arguments.
            private (`bool`, *optional*): Whether a new repository is private; by default `hub_private_repo` of the
                arguments.
            kwargs: `language` and `license` of the card.

        Returns:
            `CommitInfo`; `None` on all processes except the first.

        Raises:
            PushError: when the Hub cannot be reached, refuses the push, or holds something that it would overwrite.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        if self.matrix is not None:
            write_matrix(self.matrix, Path(self.output_dir))
        self.create_model_card(**{k: v for k, v in kwargs.items() if k in ("language", "license")})
        branch, repo_id = revision or self.args.hub_revision, str(self.hub_model_id)
        push = self._pusher.ready(
            self.output_dir,
            repo_id,
            branch,
            loaded_commit(active_config(self.model), repo_id, branch or "main"),
            base_model=self.args.hub_base_model,
            private=self.args.hub_private_repo if private is None else private,
            commit_message=commit_message,
            token=token or self.args.hub_token,
        )
        return push() if blocking else HfApi().run_as_future(push)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # A checkpoint holds a half-learned task. During a stream, only commits are pushed.
        return
