"""What a saved adapter must be: all that can be checked of it before a base is loaded or a tensor is read.

Files of an adapter may come from anybody. They are read as safetensors and JSON only, none larger than stated here;
nothing in them names a file that is then opened, and no code comes along.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..evaluation import AccuracyMatrix
from ..knowledge import KnowledgeBase, ManifestError
from ..storage import (
    PREFIX,
    LayoutError,
    check_layout,
    check_settings,
    check_tasks,
    dtype_in_header,
    sizes_of,
    spec_of,
    task_bytes,
)
from ..utils.digests import digest_of
from ..utils.files import LARGEST_HEADER, LARGEST_JSON, DamagedFileError, Header, read_header, read_json, read_tensors
from .markdown import clean

CONFIG = "adapter_config.json"
TENSORS = "adapter_model.safetensors"
CARD = "README.md"
PICTURE = "accuracy_matrix.png"
CONFUSION = "confusion.png"
MATRIX = ("accuracy_matrix.json", PICTURE, CONFUSION)
# Named, not excluded: a folder that was trained in also holds `training_args.bin`, checkpoints, logs and more.
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.*.model",
)
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
TOKENIZER_CONFIG = "tokenizer_config.json"
# A vocabulary of 260,000 tokens takes 34 MB.
LARGEST_TOKENIZER = 100_000_000
LARGEST_CARD = 10_000_000
# No base is known whose layers are wider than 9 times its hidden states.
WIDEST = 64
# Characters of a message about a file: what it quotes may be long, and may hold anything.
LONGEST_ERROR = 600
LONGEST_NAME = 100  # characters of what a manifest calls its base
DTYPES = ("float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True)
class SavedAdapter:
    """A lifelong adapter on this disk, checked as far as it can be without its base.

    Args:
        folder (`Path`): Where it lies; of the Hub, in the cache.
        config (`dict`): What its `adapter_config.json` holds.
        knowledge (`KnowledgeBase`): Its manifest; empty before the first task.
        sizes (`Mapping[str, int]`): Bytes of each of its files, by name.
        repo_id (`str`, *optional*): Its repository; `None` for a folder.
        revision (`str`, *optional*): The branch, tag or commit that was asked for; `None` for a folder.
        commit (`str`, *optional*): The commit that this is; `None` for a folder.
    """

    folder: Path
    config: dict[str, Any]
    knowledge: KnowledgeBase
    sizes: Mapping[str, int]
    repo_id: str | None = None
    revision: str | None = None
    commit: str | None = None

    @property
    def base(self) -> str:
        """Name of the base model on the Hub, or its folder."""
        return str(self.config["base_model_name_or_path"])


def manifest_of(config: Any) -> KnowledgeBase | None:
    """The manifest in an adapter's configuration, empty before the first task; `None` for another kind of adapter."""
    if not isinstance(config, dict) or "knowledge" not in config:
        return None
    return KnowledgeBase.from_dict(config["knowledge"]) if config["knowledge"] is not None else KnowledgeBase()


def is_ours(name: str) -> bool:
    """Whether a file in a repository or folder belongs to an adapter."""
    return "/" not in name and any(fnmatch(name, ours) for ours in (CONFIG, TENSORS, CARD, *MATRIX, *TOKENIZER))


def _most(name: str) -> float:
    """Bytes that a file may have."""
    if name == TENSORS:
        return math.inf  # as many as its header accounts for, which is checked beside the manifest
    if name in (CONFIG, MATRIX[0]):
        return LARGEST_JSON
    return LARGEST_CARD if name in (CARD, PICTURE, CONFUSION) else LARGEST_TOKENIZER


def check_files(where: str | Path, sizes: Mapping[str, int], there: Mapping[str, Any]) -> None:
    """Refuses an adapter that lacks a file, and files that are too large (`DamagedFileError`)."""
    for name in (CONFIG, TENSORS):
        if sizes.get(name):
            continue
        pickles = sorted(other for other in there if any(fnmatch(other, pattern) for pattern in PICKLES))
        instead = f"; `{pickles[0]}` is not read, because a pickle can run code" if pickles and name == TENSORS else ""
        raise DamagedFileError(f"{where}/{name}", f"it is missing or empty{instead}")
    check_sizes(where, sizes)


def check_sizes(where: str | Path, sizes: Mapping[str, int]) -> None:
    """Refuses files that are too large (`DamagedFileError`)."""
    for name, size in sizes.items():
        if size > _most(name):
            raise DamagedFileError(f"{where}/{name}", f"it has {size:,} bytes, more than the {_most(name):,} allowed")


def read_saved(folder: Path, repo_id: str | None = None, revision: str | None = None) -> SavedAdapter:
    """Checks an adapter that lies in a folder."""
    there = {file.name: file for file in sorted(folder.iterdir())}
    # In the cache of the Hub a snapshot links to the blobs of its repository.
    home = folder.resolve().parents[1] if folder.resolve().parent.name == "snapshots" else folder.resolve()
    sizes = {}
    for name, file in there.items():
        if not is_ours(name):
            continue
        try:
            leads_to = file.resolve()
        except (OSError, RuntimeError) as error:  # the latter is how Python 3.11 and 3.12 call it
            raise DamagedFileError(file, "it is a link that leads to itself") from error
        if not leads_to.is_relative_to(home):
            raise DamagedFileError(file, "it is a link that leads out of the adapter's folder")
        if not file.is_file():
            raise DamagedFileError(file, "it is no file")
        sizes[name] = file.stat().st_size
    check_files(folder, sizes, there)
    config, knowledge = read_config(folder / CONFIG, from_hub=repo_id is not None)
    check_header(folder / TENSORS, read_header(folder / TENSORS), knowledge, config, sizes[TENSORS])
    check_tokenizer(folder / TOKENIZER_CONFIG)
    commit = folder.name if repo_id is not None else None
    return SavedAdapter(folder, config, knowledge, sizes, repo_id, revision, commit)


def read_config(path: Path, from_hub: bool) -> tuple[dict[str, Any], KnowledgeBase]:
    """Configuration and manifest of an adapter."""
    config = read_json(path, LARGEST_JSON)
    try:
        return config, check_config(config, from_hub)
    except ValueError as error:
        raise quoting(path, error) from error


def check_config(config: Any, from_hub: bool) -> KnowledgeBase:
    """The manifest in a configuration, both checked as far as they can be without tensors and base.

    Raises:
        ValueError: names the field.
    """
    _check_settings(config, from_hub)
    knowledge = KnowledgeBase() if config["knowledge"] is None else KnowledgeBase.from_dict(config["knowledge"])
    check_tasks(knowledge, config.get("task_type"))
    if knowledge.base or knowledge.tasks:
        _check_base(knowledge.base)
    if knowledge.scores is not None:
        AccuracyMatrix.from_dict(knowledge.scores)
    return knowledge


def quoting(path: Path, error: ValueError) -> ManifestError:
    """What is wrong with a file, in one short line of printable characters: an error may quote what the file holds."""
    return ManifestError(clean(f"`{path}`: {error}"[:10_000], LONGEST_ERROR))


def _check_settings(config: Any, from_hub: bool) -> None:
    """Refuses what is no configuration of a lifelong adapter, and what it must not hold (`ValueError`)."""
    if not isinstance(config, dict) or config.get("peft_type") != "DRIFT" or "knowledge" not in config:
        raise ManifestError("it is the configuration of no lifelong adapter (`peft_type` must be `DRIFT`)")
    for key in ("auto_mapping", "auto_map"):
        if config.get(key) is not None:
            raise ManifestError(f"`{key}` asks for code of elsewhere, which is never run; it must be null")
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base or not base.isprintable():
        raise ManifestError(
            f"`base_model_name_or_path` must name the base in printable characters, not {base!r}; save the base in a "
            "folder with such a name (`save_pretrained`) and load it from there"
        )
    if from_hub:
        _check_hub_name(base)
    revision = config.get("revision")
    if revision is not None and (not isinstance(revision, str) or not re.fullmatch(r"\w+([./-]\w+)*", revision)):
        raise ManifestError(f"`revision` must be a branch, tag or commit of the base, not {revision!r}")
    missing = [key for key in ("r", "signature_rank", "signature_size") if key not in config]
    if missing:
        raise ManifestError(f"it lacks `{missing[0]}`")
    targets = config.get("target_modules")
    # PEFT takes a string for a pattern, and there are patterns that never end.
    if not isinstance(targets, list) or not targets or not all(isinstance(name, str) for name in targets):
        raise ManifestError(f"`target_modules` must be a list of the layers' names, as it is saved, not {targets!r}")
    check_settings(config)


def _check_count(where: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 2**31:
        raise ManifestError(f"`{where}` must be a positive integer, not {value!r}")


def hub_id(name: Any) -> str | None:
    """A name if it can be an id on the Hub; a path cannot, and must not be shown."""
    try:
        validate_repo_id(name if isinstance(name, str) else "")
    except HFValidationError:
        return None
    return name


def _check_hub_name(base: str) -> None:
    if hub_id(base) is None:
        raise ManifestError(
            f"`base_model_name_or_path` is {base!r}; an adapter of the Hub must name its base by a name on the Hub, "
            "not by a place on this machine"
        )
    if os.path.exists(base):
        raise ManifestError(
            f"`base_model_name_or_path` is {base!r}, which is also a folder here, and would be loaded instead of the "
            "base on the Hub; work in another directory"
        )


def _check_base(base: Mapping[str, Any]) -> None:
    """Refuses a manifest that says nothing useful of its base (`ManifestError`)."""
    for key in ("hidden_size", "layers"):
        _check_count(f"knowledge.base.{key}", base.get(key))
    for key in ("model_type", "fingerprint"):
        found = base.get(key)
        is_name = isinstance(found, str) and found.isprintable() and len(found) <= LONGEST_NAME
        if not is_name and (key, found) != ("fingerprint", None):
            what = f"a string of at most {LONGEST_NAME} printable characters"
            raise ManifestError(f"`knowledge.base.{key}` must be {what}, not {found!r}")
    if base.get("dtype") not in DTYPES:
        raise ManifestError(f"`knowledge.base.dtype` must be one of {list(DTYPES)}, not {base.get('dtype')!r}")


def check_header(
    where: str | Path, header: Header, knowledge: KnowledgeBase, config: Mapping[str, Any], size: int
) -> None:
    """Refuses tensors that are not those of the manifest, by their names, dtypes and shapes (`DamagedFileError`).

    Widths of layers are only known with the base; here they must agree with each other and be no wider than any base.

    Args:
        size (`int`): Bytes of the file.
    """
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    taken = 0
    for full, (code, shape) in header.items():
        name, spec = full.removeprefix(PREFIX), spec_of(full)
        if name in found:
            raise _misfit(where, f"`{full}` stands twice")
        found[name] = dtype_in_header(code), shape
        taken += spec.torch_dtype.itemsize * math.prod(shape) if spec is not None else 0
    hidden = knowledge.base.get("hidden_size")
    known = {"r": config["r"], "rank": config["signature_rank"], **sizes_of(knowledge)}
    if hidden is not None:
        known |= {"hidden": hidden, "features": min(knowledge.pooled_width(hidden), config["signature_size"])}
    try:
        for module, sizes in check_layout(found, known).items():
            if hidden is not None and max(sizes.get("in", 0), sizes.get("out", 0)) > WIDEST * hidden:
                raise LayoutError(f"`{module}` is more than {WIDEST} times as wide as the base")
    except LayoutError as error:
        raise _misfit(where, str(error)) from error
    if not taken <= size <= taken + LARGEST_HEADER + 8:
        raise _misfit(where, f"its tensors take {taken:,} bytes, the file has {size:,}")


def _misfit(where: str | Path, reason: str) -> DamagedFileError:
    return DamagedFileError(where, f"{clean(reason[:10_000], LONGEST_ERROR)}, to fit `{CONFIG}`")


def check_digest(where: str | Path, tensors: Path, config: Any) -> None:
    """Refuses tensors that are not those that an adapter's configuration was saved with (`DamagedFileError`). Unlike
    all other checks here, it reads them."""
    digest = config.get("digest") if isinstance(config, dict) else None
    if digest is None:  # of an older adapter, or of another kind
        return
    if digest != digest_of({name.removeprefix(PREFIX): held for name, held in read_tensors(tensors).items()}):
        raise _misfit(where, "its tensors are not those that were saved with it")


def task_sizes(tensors: Path, knowledge: KnowledgeBase) -> dict[str, int]:
    """Task → bytes that all that is its own takes in an adapter's file, read off the file's header."""
    return task_bytes({name: shape for name, (_, shape) in read_header(tensors).items()}, knowledge)


def check_tokenizer(path: Path) -> None:
    """Refuses a tokenizer that asks for code or names files (`ManifestError`)."""
    if not path.is_file():
        return
    config = read_json(path, LARGEST_JSON)
    if not isinstance(config, dict):
        raise ManifestError(f"`{path}` must hold an object, not {type(config).__name__}")
    for key, value in config.items():
        if key == "auto_map" and value is not None:
            raise ManifestError(f"`{path}`: `auto_map` asks for code of elsewhere, which is never run")
        # Tokenizers take these for the paths of their files.
        if key.endswith(("_file", "_files")) and key != "special_tokens_map_file" and value:
            raise ManifestError(f"`{path}`: `{key}` names a file ({value!r:.60}), and no file is opened that way")
