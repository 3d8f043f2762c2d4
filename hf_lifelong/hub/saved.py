"""Checks of a saved adapter that need neither its base nor its tensors.

An adapter's files may come from anybody. They are read only as safetensors and JSON, and only up to the sizes stated
here. Nothing in them can make a file be opened or code be run.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..evaluation import AccuracyMatrix
from ..knowledge import KnowledgeBase, ManifestError
from ..objectives import TEXT, modality_named
from ..statistics import Values
from ..storage import (
    PREFIX,
    STATISTICS,
    LayoutError,
    check_layout,
    check_settings,
    check_tasks,
    dtype_in_header,
    layer_of,
    rank_sizes,
    sizes_of,
    spec_of,
    stored_statistics,
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
# A list of what belongs to an adapter, because a training folder also holds `training_args.bin`, checkpoints and logs.
PROCESSOR = (
    "preprocessor_config.json",
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
# What turns inputs into tensors: the configuration of a tokenizer, and of an image processor.
PROCESSOR_CONFIGS = ("tokenizer_config.json", "preprocessor_config.json")
# Most pixels along a side of the images that a processor makes.
LARGEST_SIDE, SIZES = 4096, ("size", "crop_size", "pad_size")
# In bytes; a vocabulary of 260,000 tokens takes 34 MB.
LARGEST_PROCESSOR = 100_000_000
LARGEST_CARD = 10_000_000
# Largest width of a layer, in hidden sizes. No known base has a layer wider than 9 times its hidden size.
WIDEST = 64
# Limit in characters of a message about a file, because it may quote anything from the file.
LONGEST_ERROR = 600
LONGEST_NAME = 100  # limit in characters of the names that a manifest gives its base
DTYPES = ("float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True)
class SavedAdapter:
    """A lifelong adapter on disk, checked as far as possible without its base.

    Args:
        folder (`Path`): Its folder; for an adapter from the Hub, the folder in the cache.
        config (`dict`): Contents of its `adapter_config.json`.
        knowledge (`KnowledgeBase`): Its manifest; empty before the first task.
        sizes (`Mapping[str, int]`): Size in bytes of each of its files, by name.
        repo_id (`str`, *optional*): Its repository; `None` for a folder.
        revision (`str`, *optional*): The requested branch, tag or commit; `None` for a folder.
        commit (`str`, *optional*): The commit that was fetched; `None` for a folder.
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
        """The base model's name on the Hub, or its folder."""
        return str(self.config["base_model_name_or_path"])


def manifest_of(config: Any) -> KnowledgeBase | None:
    """The manifest in an adapter's configuration, empty before the first task; `None` for another kind of adapter."""
    if not isinstance(config, dict) or "knowledge" not in config:
        return None
    return KnowledgeBase.from_dict(config["knowledge"]) if config["knowledge"] is not None else KnowledgeBase()


def is_ours(name: str) -> bool:
    """Whether a file in a repository or folder belongs to an adapter."""
    return "/" not in name and any(fnmatch(name, ours) for ours in (CONFIG, TENSORS, CARD, *MATRIX, *PROCESSOR))


def _most(name: str) -> float:
    """The largest allowed size of a file, in bytes."""
    if name == TENSORS:
        return math.inf  # `check_header` compares the size with the tensors in the header
    if name in (CONFIG, MATRIX[0]):
        return LARGEST_JSON
    return LARGEST_CARD if name in (CARD, PICTURE, CONFUSION) else LARGEST_PROCESSOR


def check_files(where: str | Path, sizes: Mapping[str, int], all_files: Collection[str]) -> None:
    """Refuses what is no adapter (`ManifestError`), lacks a file or has one that is too large (`DamagedFileError`).

    Args:
        where (`str` or `Path`): Folder or repository, for the error message.
        sizes (`Mapping[str, int]`): Size in bytes of each of the adapter's files.
        all_files (`Collection[str]`): Names of all files there.
    """
    if CONFIG not in all_files:
        base = " It is a model, which may be the base of a new one." if "config.json" in all_files else ""
        raise ManifestError(f"`{where}` is no adapter: it has no `{CONFIG}`.{base} Give what `DriftTrainer` saved.")
    for name in (CONFIG, TENSORS):
        if sizes.get(name):
            continue
        pickles = sorted(other for other in all_files if any(fnmatch(other, pattern) for pattern in PICKLES))
        instead = f"; `{pickles[0]}` is not read, because a pickle can run code" if pickles and name == TENSORS else ""
        raise DamagedFileError(f"{where}/{name}", f"it is missing or empty{instead}")
    check_sizes(where, sizes)


def check_sizes(where: str | Path, sizes: Mapping[str, int]) -> None:
    """Refuses files that are too large (`DamagedFileError`)."""
    for name, size in sizes.items():
        if size > _most(name):
            raise DamagedFileError(f"{where}/{name}", f"it has {size:,} bytes, more than the {_most(name):,} allowed")


def read_saved(folder: Path, repo_id: str | None = None, revision: str | None = None) -> SavedAdapter:
    """Checks an adapter in a folder."""
    files = {file.name: file for file in sorted(folder.iterdir())}
    # In the Hub's cache the files of a snapshot are links to the blobs of its repository.
    home = folder.resolve().parents[1] if folder.resolve().parent.name == "snapshots" else folder.resolve()
    sizes = {}
    for name, file in files.items():
        if not is_ours(name):
            continue
        try:
            target = file.resolve()
        except (OSError, RuntimeError) as error:  # Python 3.11 and 3.12 raise RuntimeError
            raise DamagedFileError(file, "it is a link that leads to itself") from error
        if not target.is_relative_to(home):
            raise DamagedFileError(file, "it is a link that leads out of the adapter's folder")
        if not file.is_file():
            raise DamagedFileError(file, "it is no file")
        sizes[name] = file.stat().st_size
    check_files(folder, sizes, files)
    config, knowledge = read_config(folder / CONFIG, from_hub=repo_id is not None)
    check_header(folder / TENSORS, read_header(folder / TENSORS), knowledge, config, sizes[TENSORS])
    check_processor(folder)
    commit = folder.name if repo_id is not None else None
    return SavedAdapter(folder, config, knowledge, sizes, repo_id, revision, commit)


def read_config(path: Path, from_hub: bool) -> tuple[dict[str, Any], KnowledgeBase]:
    """An adapter's configuration and manifest."""
    config = read_json(path, LARGEST_JSON)
    try:
        return config, check_config(config, from_hub)
    except ValueError as error:
        raise quoting(path, error) from error


def check_config(config: Any, from_hub: bool) -> KnowledgeBase:
    """The manifest in a configuration; both are checked as far as possible without tensors and base.

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
    """An error about a file in one short line of printable characters, because it may quote anything from the file."""
    return ManifestError(clean(f"`{path}`: {error}"[:10_000], LONGEST_ERROR))


def _check_settings(config: Any, from_hub: bool) -> None:
    """Refuses a configuration that is not one of a lifelong adapter, or has unsafe or missing fields
    (`ValueError`)."""
    if not isinstance(config, dict) or config.get("peft_type") != "DRIFT" or "knowledge" not in config:
        raise ManifestError("it is the configuration of no lifelong adapter (`peft_type` must be `DRIFT`)")
    for key in ("auto_mapping", "auto_map"):
        if config.get(key) is not None:
            raise ManifestError(f"`{key}` asks for code from elsewhere, which is never run; it must be null")
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
    # PEFT takes a string as a pattern, and matching some patterns never ends.
    if not isinstance(targets, list) or not targets or not all(isinstance(name, str) for name in targets):
        raise ManifestError(f"`target_modules` must be a list of the layers' names, as it is saved, not {targets!r}")
    check_settings(config)


def _check_count(where: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 2**31:
        raise ManifestError(f"`{where}` must be a positive integer, not {value!r}")


def hub_id(name: Any) -> str | None:
    """The name if it is a valid id on the Hub, else `None`. A path is not valid, and must not be published."""
    try:
        validate_repo_id(name if isinstance(name, str) else "")
    except HFValidationError:
        return None
    return name


def _check_hub_name(base: str) -> None:
    if hub_id(base) is None:
        raise ManifestError(
            f"`base_model_name_or_path` is {base!r}; an adapter from the Hub must name its base by a name on the Hub, "
            "not by a path on this machine"
        )
    if os.path.exists(base):
        raise ManifestError(
            f"`base_model_name_or_path` is {base!r}, which is also a folder here, and would be loaded instead of the "
            "base on the Hub; work in another directory"
        )


def _check_base(base: Mapping[str, Any]) -> None:
    """Refuses a manifest whose description of the base is incomplete or invalid (`ManifestError`)."""
    for key in ("hidden_size", "layers"):
        _check_count(f"knowledge.base.{key}", base.get(key))
    for key in ("model_type", "fingerprint"):
        value = base.get(key)
        is_name = isinstance(value, str) and value.isprintable() and len(value) <= LONGEST_NAME
        if not is_name and (key, value) != ("fingerprint", None):
            what = f"a string of at most {LONGEST_NAME} printable characters"
            raise ManifestError(f"`knowledge.base.{key}` must be {what}, not {value!r}")
    try:
        modality_named(base.get("modality", TEXT.name))
    except ValueError as error:
        raise ManifestError(f"`knowledge.base.modality`: {error}") from error
    if base.get("dtype") not in DTYPES:
        raise ManifestError(f"`knowledge.base.dtype` must be one of {list(DTYPES)}, not {base.get('dtype')!r}")


def check_header(
    where: str | Path, header: Header, knowledge: KnowledgeBase, config: Mapping[str, Any], size: int
) -> None:
    """Refuses tensors whose names, dtypes or shapes do not match the manifest (`DamagedFileError`).

    The widths of layers are known only with the base. Here they must agree with each other and be plausible for a
    base.

    Args:
        size (`int`): Size of the file in bytes.
    """
    layout: dict[str, tuple[str, tuple[int, ...]]] = {}
    tensor_bytes = 0
    for full, (code, shape) in header.items():
        name, spec = full.removeprefix(PREFIX), spec_of(full)
        if name in layout:
            raise _misfit(where, f"`{full}` stands twice")
        layout[name] = dtype_in_header(code), shape
        tensor_bytes += spec.torch_dtype.itemsize * math.prod(shape) if spec is not None else 0
    hidden = knowledge.base.get("hidden_size")
    expected = {**rank_sizes(config["r"]), "rank": config["signature_rank"], **sizes_of(knowledge)}
    if hidden is not None:
        expected |= {"hidden": hidden, "features": min(knowledge.pooled_width(hidden), config["signature_size"])}
    try:
        for module, sizes in check_layout(layout, expected, kind=layer_of(config["r"])).items():
            widest = max(sizes.get(symbol, 0) for symbol in ("in", "out", "columns"))
            if hidden is not None and widest > WIDEST * hidden:
                raise LayoutError(f"`{module}` is more than {WIDEST} times as wide as the base")
    except LayoutError as error:
        raise _misfit(where, str(error)) from error
    if not tensor_bytes <= size <= tensor_bytes + LARGEST_HEADER + 8:
        raise _misfit(where, f"its tensors take {tensor_bytes:,} bytes, the file has {size:,}")


def _misfit(where: str | Path, reason: str) -> DamagedFileError:
    return DamagedFileError(where, f"{clean(reason[:10_000], LONGEST_ERROR)}, to fit `{CONFIG}`")


def check_digest(where: str | Path, tensors: Path, config: Any) -> None:
    """Refuses tensors that were not saved together with the configuration (`DamagedFileError`). Unlike all other
    checks here, this one reads the tensors."""
    digest = config.get("digest") if isinstance(config, dict) else None
    if digest is None:  # older adapters and other kinds of adapter have none
        return
    if digest != digest_of({name.removeprefix(PREFIX): tensor for name, tensor in read_tensors(tensors).items()}):
        raise _misfit(where, "its tensors are not those that were saved with it")


def task_sizes(tensors: Path, knowledge: KnowledgeBase) -> dict[str, int]:
    """Task → bytes of the task's own tensors in an adapter's file, computed from the file's header."""
    return task_bytes({name: shape for name, (_, shape) in read_header(tensors).items()}, knowledge)


def saved_statistics(saved: SavedAdapter, name: str) -> dict[str, Values]:
    """A statistic's stored values for each task of a saved adapter that has it, in the order of the manifest.

    Raises:
        DamagedFileError: when the tensors cannot be read.
    """
    tensors = read_tensors(saved.folder / TENSORS)
    packed = next((tensor for file_name, tensor in tensors.items() if spec_of(file_name) is STATISTICS), None)
    by_task = {} if packed is None else stored_statistics(packed, saved.knowledge)
    return {task: values[name] for task, values in by_task.items() if name in values}


def check_processor(folder: Path) -> None:
    """Refuses the configuration of a tokenizer or image processor in a folder if it asks for code, names files, or
    makes images that no memory holds (`ManifestError`)."""
    for path in (folder / name for name in PROCESSOR_CONFIGS):
        if path.is_file():
            _check_processor(path)


def _check_processor(path: Path) -> None:
    config = read_json(path, LARGEST_JSON)
    if not isinstance(config, dict):
        raise ManifestError(f"`{path}` must hold an object, not {type(config).__name__}")
    for key, value in config.items():
        if key == "auto_map" and value is not None:
            raise ManifestError(f"`{path}`: `auto_map` asks for code from elsewhere, which is never run")
        # Tokenizers open these as paths of their files.
        if key.endswith(("_file", "_files")) and key != "special_tokens_map_file" and value:
            raise ManifestError(f"`{path}`: `{key}` names a file ({value!r:.60}), and no file is opened that way")
        sides = value.values() if isinstance(value, dict) else [value]
        if key in SIZES and any(isinstance(side, int | float) and side > LARGEST_SIDE for side in sides):
            raise ManifestError(f"`{path}`: `{key}` is {value!r:.60}; no image is made that large")
