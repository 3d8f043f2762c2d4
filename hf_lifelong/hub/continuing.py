"""Checks whether a push continues the adapter on the Hub, before anything is created there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING

from huggingface_hub import HfApi, ModelInfo
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from ..knowledge import KnowledgeBase, ManifestError
from ..utils.files import LARGEST_JSON, DamagedFileError, read_json
from .errors import PushConflictError
from .saved import CONFIG, manifest_of

if TYPE_CHECKING:
    from peft import PeftConfig


def loaded_commit(config: PeftConfig, repo_id: str, branch: str) -> str | None:
    """The commit of a branch from which an adapter was loaded; `None` if it was loaded from somewhere else. A commit
    that was loaded by its hash counts as one of any branch.

    Args:
        config (`PeftConfig`): Configuration of the adapter.
        repo_id (`str`): The repository that is pushed to, with its user name.
        branch (`str`): The branch that is pushed to.
    """
    loaded = getattr(config, "loaded_from", None)
    if loaded is None or loaded.repo_id != repo_id:
        return None
    by_commit = len(loaded.revision) >= 7 and loaded.commit.startswith(loaded.revision)
    return loaded.commit if by_commit or loaded.revision == branch else None


def _look(api: HfApi, repo_id: str, revision: str) -> ModelInfo | None:
    """Information on a branch or commit from the Hub; `None` if it or the repository does not exist."""
    try:
        return api.model_info(repo_id, revision=revision, files_metadata=True)
    except RepositoryNotFoundError:
        return None
    except RevisionNotFoundError:
        if revision.startswith("refs/"):
            raise
        return None


def head_of(
    api: HfApi,
    repo_id: str,
    branch: str,
    parent: str | None,
    private: bool | None,
    check: Callable[[ModelInfo | None], None],
) -> ModelInfo:
    """The commit that a branch points to. A missing branch or repository is created, but only after `check` accepts
    the commit that the branch has, or will start from (`None` if there is no repository)."""
    info = _look(api, repo_id, branch)
    if info is not None:
        check(info)
        return info
    start = _look(api, repo_id, parent or "main")
    check(start)
    # This fails if somebody else has created the repository in the meantime.
    if start is None:
        api.create_repo(repo_id, private=private)
    if branch != "main":
        api.create_branch(repo_id, branch=branch, revision=parent if start is not None else None)
    return api.model_info(repo_id, revision=branch, files_metadata=True)


def check_continues(api: HfApi, info: ModelInfo, branch: str, parent: str | None, knowledge: KnowledgeBase) -> None:
    """Refuses a push that does not continue the adapter that it would overwrite (`PushConflictError`)."""
    head = str(info.sha)
    if parent is not None:
        problem = None if head.startswith(parent) else f"it points to {head}, not to {parent} that this push follows"
    else:
        problem = _unlike(api, info, knowledge)
    if problem is not None:
        raise PushConflictError(
            f"`{info.id}` was not pushed to, because of what its branch `{branch}` holds: {problem}. Nothing was "
            f'changed. Load it (`revision="{head}"`) and continue learning from there; or push beside it with another '
            f'`revision` or `create_pr=True`; or, to replace it, give `parent_commit="{head}"`.'
        )


def _unlike(api: HfApi, info: ModelInfo, knowledge: KnowledgeBase) -> str | None:
    """Why an adapter does not continue the one on the Hub; `None` if it does, or if there is none."""
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    if CONFIG not in sizes:
        return None
    if sizes[CONFIG] > LARGEST_JSON:
        return f"an adapter whose `{CONFIG}` has {sizes[CONFIG]:,} bytes, more than the {LARGEST_JSON:,} that are read"
    with tempfile.TemporaryDirectory() as folder:
        path = api.hf_hub_download(info.id, CONFIG, revision=info.sha, local_dir=folder)
        try:
            remote = manifest_of(read_json(path, LARGEST_JSON))
        except (DamagedFileError, ManifestError) as error:
            return f"an adapter that cannot be read ({error})"
    if remote is None:
        return "an adapter of another kind"
    local_tasks = knowledge.tasks[: len(remote.tasks)]
    different = [task.name for i, task in enumerate(remote.tasks) if i >= len(local_tasks) or local_tasks[i] != task]
    if different:
        return f"it has learned {different}, which this adapter does not know or learned in another run"
    return None
