"""Pushes a lifelong adapter to the Hub in one atomic commit, which never overwrites an adapter that it does not
continue.

Pushed adapters load with `AutoPeftModelForFeatureExtraction.from_pretrained(repo_id, revision=...)` and in every other
way that PEFT and transformers offer. (`AutoModel.from_pretrained` takes `revision` as the base model's; give the
adapter's as `adapter_kwargs={"revision": ...}`.)
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo
from huggingface_hub.errors import HTTPError as TransportError
from huggingface_hub.errors import OfflineModeIsEnabled

from ..evaluation import AccuracyMatrix, plot_confusion, plot_matrix
from ..knowledge import KnowledgeBase
from ..utils.files import read_json, write_json
from .continuing import check_continues, head_of, loaded_commit
from .errors import PushConflictError, PushError, reason_of
from .saved import CARD, CONFIG, CONFUSION, MATRIX, PICTURE, PROCESSOR, TENSORS, check_digest, hub_id, manifest_of
from .sections import MOST

logger = logging.getLogger(__name__)

# Model → repository and branch → commit of its last push; `None` while that is unknown.
_last_push: WeakKeyDictionary[Any, dict[tuple[str, str], str | None]] = WeakKeyDictionary()


def push_to_hub(
    model: Any,
    repo_id: str,
    *,
    card: str | None = None,
    tokenizer: Any = None,
    base_model: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    token: str | None = None,
    create_pr: bool = False,
    parent_commit: str | None = None,
) -> CommitInfo:
    """Pushes a lifelong adapter to the Hub, in one commit: adapter with its manifest, accuracy matrix (JSON and
    pictures), tokenizer and card.

    A push replaces what is on the Hub only if it continues it. It does if the branch still points to the commit of
    this model's last push, or to the commit from which the model was loaded. If neither is known (because
    transformers' own loader does not record it, or for a folder or another branch), it does if the tasks on the Hub
    are the first tasks of this adapter, record for record. Everything else is a `PushConflictError`. To replace a
    commit anyway, name it as `parent_commit`.

    Args:
        model (`PreTrainedModel`, `PeftModel`, `str` or `Path`):
            A model with a lifelong adapter that has learned a task (with several adapters, the active one is pushed),
            or the folder of a saved one.
        repo_id (`str`):
            Repository, such as `"me/minilm-sentiment"`; created if it does not exist. Without a user name, yours is
            used.
        card (`str`, *optional*):
            Text of the model card. Without it, the card on the Hub stays as it is.
        tokenizer (`PreTrainedTokenizerBase` or `ImageProcessingMixin`, *optional*):
            Its files are pushed too. Without it, those in the folder are pushed, if there are any.
        base_model (`str`, *optional*):
            Name of the base model on the Hub, for a base that was loaded from a local path. Only the pushed files get
            this name, not the model in memory.
        private (`bool`, *optional*):
            Whether a new repository is private. `True` also refuses to push to a public one.
        revision (`str`, *optional*):
            Branch to push to, `main` by default; a new one starts at `main`.
        commit_message (`str`, *optional*):
            Defaults to the name of the task learned last.
        token (`str`, *optional*):
            Token with write permission; by default the token of `hf auth login` or `HF_TOKEN`.
        create_pr (`bool`, *optional*, defaults to `False`):
            Whether to open a pull request, which never conflicts, instead of changing the branch.
        parent_commit (`str`, *optional*):
            The commit that this push follows or replaces. The push is refused if the branch points to another commit.

    Returns:
        `CommitInfo`: the commit; its `oid` can be used as `revision` at any later time.

    Raises:
        ValueError: when `repo_id`, `base_model` or `card` cannot be used, the model has learned no task, its base is a
            local path, or the tensors of a folder are damaged. Then nothing was sent.
        PushConflictError: when the push would overwrite something that it does not continue. Nothing was changed.
        PushError: when the Hub cannot be reached or refuses the push. The branch is unchanged, or has the complete
            commit if the connection was lost at the very end. Either way the same call can be repeated.
    """
    check_repo_id("repo_id", repo_id)
    if card is not None and not isinstance(card, str):
        raise ValueError(f"`card` must be the text of a model card, not `{type(card).__name__}`.")
    api, branch = HfApi(token=token), revision or "main"
    with tempfile.TemporaryDirectory() as folder:
        knowledge = _write(model, Path(folder), card, tokenizer, base_model)
        with explained(repo_id):
            repo_id = repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"
            memory = _last_push.setdefault(model, {}) if not isinstance(model, str | os.PathLike) else {}
            key = (repo_id, branch)
            parent = parent_commit or (memory[key] if key in memory else _loaded_as(model, repo_id, branch))

            def check(existing: ModelInfo | None) -> None:
                if existing is not None:
                    _check_private(existing, private)
                    if not create_pr:
                        check_continues(api, existing, branch, parent, knowledge)
                elif parent_commit is not None:
                    raise PushConflictError(f"`{repo_id}` was not pushed to: it has no commit {parent_commit}.")

            info = head_of(api, repo_id, branch, parent, private, check)
            if not create_pr:
                # What the branch points to is unknown until the Hub answers.
                memory[key] = None
            commit = api.create_commit(
                repo_id,
                _operations(Path(folder), info),
                commit_message=commit_message or f"Learned `{knowledge.names[-1]}`",
                revision=revision,
                create_pr=create_pr,
                parent_commit=parent if create_pr else info.sha,
            )
    if not create_pr:
        memory[key] = commit.oid
    return commit


def _loaded_as(model: Any, repo_id: str, branch: str) -> str | None:
    if isinstance(model, str | os.PathLike):
        return None
    names = model.active_adapters() if callable(model.active_adapters) else model.active_adapters
    return loaded_commit(model.peft_config[names[0]], repo_id, branch)


def keep_active(model: Any, folder: Path) -> None:
    """Moves the active adapter to the top of a folder in which PEFT saved adapters, and deletes the others there. PEFT
    saves adapters with other names than `default` in subfolders, but loads from the top."""
    active = getattr(model, "active_adapters", None)
    if callable(active) or not active:
        return  # transformers' own models save the active adapter alone, at the top
    for name in model.peft_config.keys() - {"default"}:
        for file in (CONFIG, TENSORS):
            if name == active[0]:
                os.replace(folder / name / file, folder / file)
            else:
                (folder / name / file).unlink()
        if not any((folder / name).iterdir()):
            (folder / name).rmdir()


def _check_private(info: ModelInfo, private: bool | None) -> None:
    if private and not info.private:
        raise PushError(
            f"`private` is True, but `{info.id}` exists and is public. Nothing was pushed. Make it private in its "
            "settings, or give another `repo_id`."
        )


def check_repo_id(argument: str, name: Any) -> None:
    """Refuses a name that cannot be a repository's (`ValueError`)."""
    if hub_id(name) is None:
        raise ValueError(f"`{argument}` is {name!r}; it must be a name on the Hub, such as `me/model`.")


def _write(model: Any, folder: Path, card: str | None, tokenizer: Any, base_model: str | None) -> KnowledgeBase:
    """Writes exactly the files that are pushed into an empty folder, and returns the manifest."""
    if isinstance(model, str | os.PathLike):
        _copy_saved(Path(model), folder, (CONFIG, TENSORS, *(() if tokenizer is not None else PROCESSOR)))
        check_digest(Path(model, TENSORS), folder / TENSORS, read_json(folder / CONFIG))
    else:
        with tempfile.TemporaryDirectory() as saved:
            model.save_pretrained(saved)
            keep_active(model, Path(saved))
            _copy_saved(Path(saved), folder, (CONFIG, TENSORS))
    config = read_json(folder / CONFIG)
    knowledge = manifest_of(config)
    if knowledge is None or not knowledge.tasks:
        what = "is no lifelong adapter" if knowledge is None else "has learned no task yet"
        raise ValueError(f"`model` {what}, so there is nothing to push. Give one that `DriftTrainer` has trained.")
    base = base_name(config.get("base_model_name_or_path"), base_model)
    if base != config.get("base_model_name_or_path"):
        write_json(folder / CONFIG, {**config, "base_model_name_or_path": base})
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))
    if knowledge.scores is not None:
        write_matrix(AccuracyMatrix.from_dict(knowledge.scores), folder)
    if card is not None:
        (folder / CARD).write_text(card, encoding="utf-8")
    return knowledge


def _copy_saved(source: Path, folder: Path, names: tuple[str, ...]) -> None:
    """Copies the files of a saved adapter whose names match.

    Raises:
        ValueError: when `source` has no adapter.
    """
    missing = [name for name in (CONFIG, TENSORS) if not (source / name).is_file()]
    if missing:
        raise ValueError(
            f"`model` has no `{missing[0]}` where its adapter is saved. Give a model with a lifelong adapter, or "
            "the folder of one."
        )
    for file in source.iterdir():
        if file.is_file() and any(fnmatch(file.name, name) for name in names):
            shutil.copyfile(file, folder / file.name)


def base_name(saved: str | None, given: str | None) -> str:
    """The public name of an adapter's base model.

    Args:
        saved (`str`, *optional*): The name in the adapter's configuration (`base_model_name_or_path`).
        given (`str`, *optional*): The name that the user gives instead.

    Raises:
        ValueError: when it is a path on this machine.
    """
    name, argument = (given, "base_model") if given is not None else (saved, "model")
    if not name or os.path.exists(name) or "\\" in name:
        raise ValueError(
            f"The base of the adapter (argument `{argument}`) is {name!r}, a path on this machine, which nobody else "
            'could load. Give `base_model="<its name on the Hub>"` (for a trainer: `hub_base_model` in its arguments; '
            "on the command line: `--base-model`)."
        )
    check_repo_id("base_model", name)
    return name


def public_base(saved: str | None) -> str | None:
    """The public name of a base model; `None` for a path on this machine."""
    try:
        return base_name(saved, None)
    except ValueError:
        return None


def write_matrix(matrix: AccuracyMatrix, folder: Path) -> None:
    """Writes the accuracy matrix for readers into an adapter's folder: as JSON and, if matplotlib is installed, as
    pictures."""
    write_json(folder / MATRIX[0], matrix.to_dict())
    try:
        draw_matrix(matrix, folder)
    except ImportError as error:
        logger.warning(f"The picture of the accuracy matrix was not drawn. {error}")


def draw_matrix(matrix: AccuracyMatrix, folder: Path) -> None:
    """Draws the accuracy matrix and, if the card shows it, which groups answered: that takes at least two groups, and
    at most `MOST`.

    Raises:
        ImportError: when matplotlib is not installed.
    """
    plot_matrix(matrix, folder / PICTURE)
    if 1 < len(matrix.answering_groups()) <= MOST:
        plot_confusion(matrix, folder / CONFUSION)
    else:
        (folder / CONFUSION).unlink(missing_ok=True)


def _operations(folder: Path, info: ModelInfo) -> list[CommitOperationAdd | CommitOperationDelete]:
    """Adds all files of a folder. Deletes score files on the Hub that are not among them, because their scores do not
    belong to this adapter."""
    files = sorted(file for file in folder.iterdir())
    remote_names = {file.rfilename for file in info.siblings or []}
    outdated = sorted((set(MATRIX) & remote_names) - {file.name for file in files})
    return [
        *(CommitOperationAdd(file.name, str(file)) for file in files),
        *(CommitOperationDelete(name) for name in outdated),
    ]


ADVICE = {
    401: "Log in with `hf auth login`, or give a `token`; and check the name, because the Hub answers the same for a "
    "repository that does not exist.",
    403: "Your token may not write there: check the name, and that the token has write permission.",
    404: "Check `repo_id` and `revision`, and that your token may see a private repository.",
    429: "Too many requests were made; wait and push again.",
}


@contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Turns the client's errors into a `PushError` that says what to do."""
    try:
        yield
    except PushError:
        raise
    except OfflineModeIsEnabled as error:
        raise PushError(
            f"`{repo_id}` was not pushed: `HF_HUB_OFFLINE` is set. Set `HF_HUB_OFFLINE=0` before Python starts."
        ) from error
    except (OSError, TransportError, RuntimeError) as error:
        status, reason = reason_of(error)
        if status in (409, 412):
            raise PushConflictError(
                f"`{repo_id}` was not pushed: somebody else committed at the same time. Nothing was changed. Push "
                f"again to see what is there now ({reason})."
            ) from error
        advice = ADVICE.get(status or 0, "Push again when the Hub can be reached; nothing is half-written.")
        raise PushError(f"`{repo_id}` was not pushed. {advice} ({reason})") from error
