"""Fetching an adapter from the Hub, checked before it is used and as far as possible before it comes."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from huggingface_hub import HfApi, ModelInfo, get_cached_repo_tree, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    OfflineModeIsEnabled,
    SafetensorsParsingError,
)
from huggingface_hub.errors import HTTPError as TransportError

from ..utils.files import DamagedFileError, Header, read_json, write_json
from .errors import PullError, reason_of
from .saved import CONFIG, TENSORS, SavedAdapter, check_files, check_header, hub_id, is_ours, read_config, read_saved

logger = logging.getLogger(__name__)


def pull(name: str | os.PathLike[str], *, revision: str | None = None, token: str | None = None) -> SavedAdapter:
    """Fetches a lifelong adapter from the Hub, or takes it from a folder, and checks it.

    Only what belongs to an adapter is fetched, into the cache: configuration, tensors, tokenizer, accuracy matrix and
    card. What the Hub says of their sizes, the configuration, and the header of the tensors are checked before the
    tensors come. Without a connection the cache answers, where it holds all of these files.

    Args:
        name (`str` or `Path`): A folder, or a repository such as `"me/minilm-sentiment"`. A folder of that name goes
            before a repository.
        revision (`str`, *optional*): Branch, tag or commit of the repository, `main` by default.
        token (`str`, *optional*): For private repositories; by default that of `hf auth login` or `HF_TOKEN`.

    Raises:
        ValueError: when `name` can be neither, or `revision` is given for a folder.
        PullError: when the Hub does not have it, does not give it, or cannot be reached.
        ManifestError: when its configuration is that of no lifelong adapter, of a newer one, or holds what cannot be
            right; names file and field.
        DamagedFileError: when a file is missing, too large, cut off, or does not fit the configuration.
    """
    if not isinstance(name, str | os.PathLike):
        raise ValueError(f"`name` is {name!r:.200}; give a folder, or a name on the Hub such as `me/model`.")
    if os.path.isdir(name):
        if revision is not None:
            raise ValueError(f"`revision` is {revision!r}, but `{name}` is a folder, which has none. Leave it out.")
        return read_saved(Path(name))
    if hub_id(name) is None:
        raise ValueError(f"`name` is {str(name)!r:.200}: no folder here, and no name on the Hub such as `me/model`.")
    folder = _fetch(str(name), revision or "main", token)
    return read_saved(folder, str(name), revision or "main")


def _fetch(repo_id: str, revision: str, token: str | None) -> Path:
    """Puts an adapter into the cache; returns its folder there."""
    api = HfApi(token=token)
    try:
        return _download(api, api.model_info(repo_id, revision=revision, files_metadata=True), revision)
    except PullError:
        raise
    # The client wraps what stops the download of a large file into a RuntimeError.
    except (OSError, TransportError, RuntimeError) as error:
        status, reason = reason_of(error)
        cached = _cached(repo_id, revision) if status is None or status >= 500 else None
        if cached is not None:
            if not isinstance(error, OfflineModeIsEnabled):
                logger.warning(f"`{repo_id}` is taken from the cache, because the Hub did not answer ({reason}).")
            return cached
        raise PullError(f"`{repo_id}` was not loaded. {ADVICE.get(status or 0, OTHERWISE)} ({reason})") from error


ADVICE = {
    401: "Check the name and `revision`; for a private repository log in with `hf auth login`, or give a `token`.",
    403: "Its owner lets only some read it: ask for access on its page, and give a `token`.",
    404: "Check the name and `revision`, and that your token may see a private repository.",
    429: "Too many requests were made; wait and try again.",
}
OTHERWISE = (
    "It is not in the cache either, or not all of it, and no folder here; check the name, or try again when the Hub "
    "can be reached."
)


def _download(api: HfApi, info: ModelInfo, revision: str) -> Path:
    """Fetches the files of an adapter, each after what is known of it was checked."""
    there = {file.rfilename: file.size or 0 for file in info.siblings or []}
    sizes = {name: size for name, size in there.items() if is_ours(name)}
    check_files(info.id, sizes, there)
    folder = Path(hf_hub_download(info.id, CONFIG, revision=info.sha, token=api.token)).parent
    with suppress(OSError):  # a cache that nobody may write to is as whole as it is
        write_json(_noted(folder), sorted(sizes))
    config, knowledge = read_config(folder / CONFIG, from_hub=True)
    where = f"{info.id}/{TENSORS}"
    if not (folder / TENSORS).exists():
        check_header(where, _remote_header(api, info), knowledge, config, sizes[TENSORS])
    for name in sizes:
        hf_hub_download(info.id, name, revision=info.sha, token=api.token)
    # By the name that was asked for, and last: from now on the cache answers to it with this commit, which is whole.
    hf_hub_download(info.id, CONFIG, revision=revision, token=api.token)
    return folder


def _noted(folder: Path) -> Path:
    """Beside a snapshot in the cache: which files of an adapter the Hub has of it."""
    return folder.parents[1] / "hf_lifelong" / f"{folder.name}.json"


def _cached(repo_id: str, revision: str) -> Path | None:
    """The folder of an adapter in the cache, if all of its files are there; `None` also where nobody noted which these
    are: PEFT and transformers fetch single files, and a download may have broken off."""
    config = try_to_load_from_cache(repo_id, CONFIG, revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    try:
        names = read_json(_noted(folder))
    except DamagedFileError:
        try:  # what `hf download` noted
            names = [file.path for file in get_cached_repo_tree(repo_id, revision=folder.name) if is_ours(file.path)]
        except CachedRepoTreeNotFoundError:
            return None
    return folder if all((folder / name).is_file() for name in names) else None


def _remote_header(api: HfApi, info: ModelInfo) -> Header:
    try:
        found = api.parse_safetensors_file_metadata(info.id, TENSORS, revision=info.sha)
        header: Header = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in found.tensors.items()}
        if not all(type(n) is int and n >= 0 for _, shape in header.values() for n in shape):
            raise ValueError("a shape holds what is no count")
    # The client takes any JSON for a header, as it is.
    except (SafetensorsParsingError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DamagedFileError(f"{info.id}/{TENSORS}", f"its header cannot be read ({reason_of(error)[1]})") from error
    return header
