"""Fetches an adapter from the Hub. As much as possible is checked before its tensors are downloaded."""

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

    Only the files of an adapter are fetched, into the cache: configuration, tensors, tokenizer, accuracy matrix and
    card. File sizes, the configuration and the header of the tensors are checked before the tensors are downloaded.
    Without a connection the cache is used, if it holds all of these files.

    Args:
        name (`str` or `Path`): A folder, or a repository such as `"me/minilm-sentiment"`. If both exist, the folder is
            used.
        revision (`str`, *optional*): Branch, tag or commit of the repository, `main` by default.
        token (`str`, *optional*): For private repositories; by default the token of `hf auth login` or `HF_TOKEN`.

    Returns:
        [`SavedAdapter`]: the checked adapter.

    Raises:
        ValueError: when `name` can be neither, or `revision` is given for a folder.
        PullError: when the repository does not exist, access is denied, or the Hub cannot be reached.
        ManifestError: when the configuration is not that of a lifelong adapter, belongs to a newer version, or has an
            invalid value; names file and field.
        DamagedFileError: when a file is missing, too large, truncated, or does not fit the configuration.
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
    """Downloads an adapter into the cache, and returns its folder there."""
    api = HfApi(token=token)
    try:
        return _download(api, api.model_info(repo_id, revision=revision, files_metadata=True), revision)
    except PullError:
        raise
    # The client wraps errors that stop the download of a large file into a RuntimeError.
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
    "There is no folder of this name, and of the Hub it is not in the cache, or not all of it; check the name, or try "
    "again when the Hub can be reached."
)


def _download(api: HfApi, info: ModelInfo, revision: str) -> Path:
    """Downloads the files of an adapter, each only after its size and whatever else is known of it are checked."""
    all_sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    sizes = {name: size for name, size in all_sizes.items() if is_ours(name)}
    check_files(info.id, sizes, all_sizes)
    folder = Path(hf_hub_download(info.id, CONFIG, revision=info.sha, token=api.token)).parent
    with suppress(OSError):  # a read-only cache does without the list
        write_json(_file_list(folder), sorted(sizes))
    config, knowledge = read_config(folder / CONFIG, from_hub=True)
    where = f"{info.id}/{TENSORS}"
    if not (folder / TENSORS).exists():
        check_header(where, _remote_header(api, info), knowledge, config, sizes[TENSORS])
    for name in sizes:
        hf_hub_download(info.id, name, revision=info.sha, token=api.token)
    # Last, and by the revision that was asked for: only then does the cache resolve it to this complete commit.
    hf_hub_download(info.id, CONFIG, revision=revision, token=api.token)
    return folder


def _file_list(folder: Path) -> Path:
    """Path of the list of an adapter's files on the Hub, beside its snapshot in the cache."""
    return folder.parents[1] / "hf_lifelong" / f"{folder.name}.json"


def _cached(repo_id: str, revision: str) -> Path | None:
    """The folder of an adapter in the cache if all of its files are there. `None` also if there is no list of its
    files, because PEFT and transformers fetch single files, and a download may have been interrupted."""
    config = try_to_load_from_cache(repo_id, CONFIG, revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    try:
        names = read_json(_file_list(folder))
    except DamagedFileError:
        try:  # the list that `hf download` wrote
            names = [file.path for file in get_cached_repo_tree(repo_id, revision=folder.name) if is_ours(file.path)]
        except CachedRepoTreeNotFoundError:
            return None
    return folder if all((folder / name).is_file() for name in names) else None


def _remote_header(api: HfApi, info: ModelInfo) -> Header:
    try:
        metadata = api.parse_safetensors_file_metadata(info.id, TENSORS, revision=info.sha)
        header: Header = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in metadata.tensors.items()}
        if not all(type(n) is int and n >= 0 for _, shape in header.values() for n in shape):
            raise ValueError("a shape has an entry that is not a count")
    # The client accepts any JSON as a header, so reading it may fail in many ways.
    except (SafetensorsParsingError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DamagedFileError(f"{info.id}/{TENSORS}", f"its header cannot be read ({reason_of(error)[1]})") from error
    return header
