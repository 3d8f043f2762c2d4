"""The page of an adapter on the Hub, as a Space.

A Space runs the code of this package that pushed it, in a folder of its own, so that it shows what `hf-lifelong serve`
shows here, whether or not this version is published anywhere.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    SpaceCardData,
    hf_hub_download,
)
from huggingface_hub.errors import RepositoryNotFoundError
from packaging.requirements import Requirement

from .errors import PushConflictError
from .saved import CARD
from .transfer import check_repo_id, explained

PACKAGE = "hf_lifelong"
EXTRAS = {"text": ("serve", "plots"), "image": ("serve", "plots", "vision")}
APP, REQUIREMENTS = "app.py", "requirements.txt"
FIRST_LINE = '"""The page of a lifelong adapter, which `hf-lifelong push --space` wrote."""'
CODE = """\
{first}

import os

from hf_lifelong.serving import serve

serve({adapter}, host="0.0.0.0", port=int(os.environ.get("GRADIO_SERVER_PORT", 7860)))
"""
TEXT = """
# {title}

The page of [{repo_id}](https://huggingface.co/{repo_id}), a lifelong adapter: it finds the task of an input itself, \
and says which one answered and how sure it is. Restart the Space to load what the adapter has learned since. For a \
private adapter, add a secret `HF_TOKEN` that may read it to the settings of the Space.
"""


def push_space(
    repo_id: str,
    *,
    revision: str | None = None,
    modality: str = "text",
    token: str | None = None,
) -> CommitInfo:
    """Pushes a Space with the page of an adapter that is on the Hub. It has the adapter's name and visibility.

    Args:
        repo_id (`str`): Repository of the adapter, with its user name.
        revision (`str`, *optional*): Branch of the adapter; `main` by default.
        modality (`str`): What the adapter's base takes: `"text"` or `"image"`.
        token (`str`, *optional*): Token with write permission; by default the token of `hf auth login` or `HF_TOKEN`.

    Returns:
        `CommitInfo`: the commit of the Space.

    Raises:
        ValueError: when `repo_id` cannot be a repository's name.
        PushConflictError: when a Space of this name was not made by this function. Nothing was changed.
        PushError: when the Hub cannot be reached or refuses the push.
    """
    check_repo_id("repo_id", repo_id)
    api = HfApi(token=token)
    with explained(repo_id), tempfile.TemporaryDirectory() as folder:
        private = api.model_info(repo_id).private
        before = _files_before(api, repo_id)
        write_space(Path(folder), repo_id, revision, modality)
        api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        files = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*") if path.is_file()}
        outdated = sorted(name for name in before - files.keys() if name.startswith(f"{PACKAGE}/"))
        return api.create_commit(
            repo_id,
            [
                *(CommitOperationAdd(name, str(files[name])) for name in sorted(files)),
                *(CommitOperationDelete(name) for name in outdated),
            ],
            repo_type="space",
            commit_message=f"The page of {repo_id}",
        )


def write_space(folder: Path, repo_id: str, revision: str | None = None, modality: str = "text") -> None:
    """Writes the files of a Space into an empty folder: `app.py`, what it needs, this package, and the card."""
    adapter = json.dumps(repo_id) + (f", revision={json.dumps(revision)}" if revision is not None else "")
    code = CODE.format(first=FIRST_LINE, adapter=adapter)
    (folder / APP).write_text(code, encoding="utf-8")
    (folder / REQUIREMENTS).write_text("\n".join(requirements(EXTRAS[modality])) + "\n", encoding="utf-8")
    source = Path(__file__).parents[1]
    shutil.copytree(source, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    title = repo_id.rpartition("/")[2]
    data = SpaceCardData(
        title=title,
        sdk="gradio",
        sdk_version=_installed("gradio"),
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file=APP,
        models=[repo_id],
        tags=[PACKAGE],
    )
    text = f"---\n{data.to_yaml()}\n---\n{TEXT.format(title=title, repo_id=repo_id)}"
    (folder / CARD).write_text(text, encoding="utf-8")


def requirements(extras: tuple[str, ...]) -> list[str]:
    """What this package and some of its extras need, as lines of a `requirements.txt`."""
    found = map(Requirement, requires(PACKAGE) or [])
    needed = (r for r in found if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in extras))
    return [f"{r.name}{r.specifier}" for r in needed]


def _installed(package: str) -> str | None:
    """The version with which the page was tried here; without one, the Hub takes its newest."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _files_before(api: HfApi, repo_id: str) -> set[str]:
    """The files of a Space, none if there is no Space; refuses one that was made otherwise (`PushConflictError`)."""
    try:
        files = {file.rfilename for file in api.space_info(repo_id).siblings or []}
    except RepositoryNotFoundError:
        return set()
    with tempfile.TemporaryDirectory() as folder:
        code = ""
        if APP in files:
            path = hf_hub_download(repo_id, APP, repo_type="space", token=api.token, local_dir=folder)
            code = Path(path).read_text(encoding="utf-8", errors="replace")
    if files - {CARD, ".gitattributes"} and not code.startswith(FIRST_LINE):
        raise PushConflictError(
            f"The Space `{repo_id}` was not pushed to: it holds something else. Nothing of it was changed. Delete or "
            "rename it, or push the adapter under another name."
        )
    return files
