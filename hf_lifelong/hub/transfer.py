"""Pushing a lifelong adapter to the Hub: one commit, whole or not at all, that never overwrites what it does not know.

Loading needs nothing of its own: `AutoPeftModelForFeatureExtraction.from_pretrained(repo_id, revision=...)` and every
other way of PEFT and transformers read what is pushed here. (`AutoModel.from_pretrained` takes `revision` for that of
the base model; there it is `adapter_kwargs={"revision": ...}`.)
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
from .saved import CARD, CONFIG, CONFUSION, MATRIX, PICTURE, TENSORS, TOKENIZER, check_digest, hub_id, manifest_of
from .sections import MOST

logger = logging.getLogger(__name__)

# The commit that a model was last pushed as, by model and then by repository and branch; `None` while nobody knows.
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

    What is on the Hub is only replaced by a push that continues it. That is so when the branch still points to the
    commit that this model was last pushed as, or that it was loaded from; or, where neither is known (transformers'
    own loader does not say; a folder; another branch), when the tasks on the Hub are the first tasks of this adapter,
    record for record. Everything else is a `PushConflictError`; whoever wants to replace a commit all the same names
    it as `parent_commit`.

    Args:
        model (`PreTrainedModel`, `PeftModel`, `str` or `Path`):
            A model with a lifelong adapter that has learned a task (of several adapters, the active one), or the
            folder that one was saved in.
        repo_id (`str`):
            Repository, such as `"me/minilm-sentiment"`; made when there is none and nothing is refused. Without a user
            name it is yours.
        card (`str`, *optional*):
            Text of the model card. Without it, the card on the Hub stays as it is.
        tokenizer (`PreTrainedTokenizerBase`, *optional*):
            Its files go along. Without it, those of a folder do, if it holds any.
        base_model (`str`, *optional*):
            Name of the base model on the Hub, for a base that was loaded from a local path. Only what is pushed gets
            this name, not the model in memory.
        private (`bool`, *optional*):
            Whether a new repository is private. `True` also refuses to push to a public one.
        revision (`str`, *optional*):
            Branch to push to, `main` by default; a new one starts at `main`.
        commit_message (`str`, *optional*):
            Defaults to the name of the task learned last.
        token (`str`, *optional*):
            Token with the right to write; by default that of `hf auth login` or `HF_TOKEN`.
        create_pr (`bool`, *optional*, defaults to `False`):
            Open a pull request instead of changing the branch; that never conflicts.
        parent_commit (`str`, *optional*):
            The commit that this push follows or replaces. It is refused when the branch points to another one.

    Returns:
        `CommitInfo`: what was committed; its `oid` can be loaded as `revision` for ever.

    Raises:
        ValueError: when `repo_id`, `base_model` or `card` cannot be used, the model knows no task, its base is a
            local path, or the tensors of a folder are damaged. Nothing was sent then.
        PushConflictError: when the Hub holds what this push would overwrite. Nothing was changed.
        PushError: when the Hub cannot be reached or refuses. The branch is as it was, or, if the connection was lost
            at the very end, has the whole commit; either way the same call can be made again.
    """
    _check_repo_id("repo_id", repo_id)
    if card is not None and not isinstance(card, str):
        raise ValueError(f"`card` must be the text of a model card, not `{type(card).__name__}`.")
    api, branch = HfApi(token=token), revision or "main"
    with tempfile.TemporaryDirectory() as place:
        knowledge = _write(model, Path(place), card, tokenizer, base_model)
        with _explained(repo_id):
            repo_id = repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"
            memory = _last_push.setdefault(model, {}) if not isinstance(model, str | os.PathLike) else {}
            key = (repo_id, branch)
            parent = parent_commit or (memory[key] if key in memory else _loaded_as(model, repo_id, branch))

            def check(there: ModelInfo | None) -> None:
                if there is not None:
                    _check_private(there, private)
                    if not create_pr:
                        check_continues(api, there, branch, parent, knowledge)
                elif parent_commit is not None:
                    raise PushConflictError(f"`{repo_id}` was not pushed to: it has no commit {parent_commit}.")

            info = head_of(api, repo_id, branch, parent, private, check)
            if not create_pr:
                # Until the answer is here, nobody knows what the branch points to.
                memory[key] = None
            commit = api.create_commit(
                repo_id,
                _operations(Path(place), info),
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
    """Leaves, of the adapters that PEFT saved in a folder, the active one, at the top, where it is looked for: PEFT
    puts those that are not named `default` into folders of their own."""
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


def _check_repo_id(argument: str, name: Any) -> None:
    """Refuses what is no name of a repository (`ValueError`)."""
    if hub_id(name) is None:
        raise ValueError(f"`{argument}` is {name!r}; it must be a name on the Hub, such as `me/model`.")


def _write(model: Any, folder: Path, card: str | None, tokenizer: Any, base_model: str | None) -> KnowledgeBase:
    """Puts exactly the files that are pushed into an empty folder; returns the manifest among them."""
    if isinstance(model, str | os.PathLike):
        _copy_saved(Path(model), folder, (CONFIG, TENSORS, *(() if tokenizer is not None else TOKENIZER)))
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
    """Copies files whose names match, from a saved adapter.

    Raises:
        ValueError: when there is no adapter in `source`.
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
    """The name under which others find the base model of an adapter.

    Args:
        saved (`str`, *optional*): What the adapter's configuration says (`base_model_name_or_path`).
        given (`str`, *optional*): What the user says instead.

    Raises:
        ValueError: when it is a path on this machine.
    """
    name, argument = (given, "base_model") if given is not None else (saved, "model")
    if not name or os.path.exists(name) or "\\" in name:
        raise ValueError(
            f"The base of the adapter (argument `{argument}`) is {name!r}, a place on this machine, which nobody else "
            'could load. Give `base_model="<its name on the Hub>"` (of a trainer: `hub_base_model` in its arguments; '
            "on the command line `--base-model`)."
        )
    _check_repo_id("base_model", name)
    return name


def public_base(saved: str | None) -> str | None:
    """The name under which others find a base model; `None` where it is a place on this machine."""
    try:
        return base_name(saved, None)
    except ValueError:
        return None


def write_matrix(matrix: AccuracyMatrix, folder: Path) -> None:
    """Writes the accuracy matrix beside an adapter, for people: as JSON and, with matplotlib, as pictures."""
    write_json(folder / MATRIX[0], matrix.to_dict())
    try:
        draw_matrix(matrix, folder)
    except ImportError as error:
        logger.warning(f"The picture of the accuracy matrix was not drawn. {error}")


def draw_matrix(matrix: AccuracyMatrix, folder: Path) -> None:
    """Draws the accuracy matrix, and which groups answered where the card tells it: where there are several, but not
    so many that nobody could read them.

    Raises:
        ImportError: when matplotlib is not installed.
    """
    plot_matrix(matrix, folder / PICTURE)
    if 1 < len(matrix.answering_groups()) <= MOST:
        plot_confusion(matrix, folder / CONFUSION)
    else:
        (folder / CONFUSION).unlink(missing_ok=True)


def _operations(folder: Path, info: ModelInfo) -> list[CommitOperationAdd | CommitOperationDelete]:
    """All files of a folder; scores on the Hub that this adapter has no longer are deleted, because it would seem to
    have them."""
    files = sorted(file for file in folder.iterdir())
    there = {file.rfilename for file in info.siblings or []}
    gone = sorted((set(MATRIX) & there) - {file.name for file in files})
    return [
        *(CommitOperationAdd(file.name, str(file)) for file in files),
        *(CommitOperationDelete(name) for name in gone),
    ]


ADVICE = {
    401: "Log in with `hf auth login`, or give a `token`; and check the name, because the Hub says the same of what "
    "does not exist.",
    403: "Your token may not write there: check the name, and that the token has write permission.",
    404: "Check `repo_id` and `revision`, and that your token may see a private repository.",
    429: "Too many requests were made; wait and push again.",
}


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Turns what the client raises into one error that says what to do (`PushError`)."""
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
