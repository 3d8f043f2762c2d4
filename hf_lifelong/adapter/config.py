"""Configuration of the `DRIFT` method."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError
from peft import PeftConfig
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME

from ..files import read_header
from ..knowledge import KnowledgeBase
from .registration import drift_type

POLICIES = ("signature", "uncertainty", "cascade")
UNCERTAINTIES = ("entropy", "variance")
ANSWERS = ("merged", "ensemble")
TASK_TYPES = ("FEATURE_EXTRACTION", "CAUSAL_LM")

# Largest counts: a configuration may come from anybody, and is believed before a base or a tensor is seen.
MOST = {
    "r": 2**16,
    "members": 10_000,
    "signature_rank": 2**16,
    "signature_size": 2**20,
    "max_length": 2**20,
    "max_new_tokens": 2**20,
}
MOST_GROUPS, MOST_ALPHA = 2**31, 1e6


class LoadedFrom(NamedTuple):
    """Where on the Hub an adapter was loaded from.

    Args:
        repo_id (`str`): Its repository.
        revision (`str`): The branch, tag or commit that was asked for.
        commit (`str`): The commit that this was.
    """

    repo_id: str
    revision: str
    commit: str


@dataclass
class DriftAdapterConfig(PeftConfig):
    """Configuration of a lifelong adapter: low-rank members above a frozen trunk, kept in groups, chosen per input.

    The base is a model without head (`AutoModel`), or a causal language model with `task_type="CAUSAL_LM"`, for which
    every task is text to text.

    Args:
        r (`int`, *optional*, defaults to `8`):
            Rank of each member.
        lora_alpha (`float`, *optional*, defaults to `16`):
            Updates are scaled by `lora_alpha / r`.
        lora_dropout (`float`, *optional*, defaults to `0.0`):
            Dropout probability on the input of the adapters and of the heads during training; one of the drift
            sources.
        target_modules (`set[str]` or `str`, *optional*):
            Linear layers that carry an adapter, in PEFT's spelling; only those above the trunk are taken. `None` takes
            the defaults of the architecture, `"all-linear"` all of them (but those of DeBERTa that read relative
            positions, which inputs of one batch share).
        exclude_modules (`set[str]` or `str`, *optional*):
            Linear layers to leave out, in PEFT's spelling.
        trunk_depth (`float`, *optional*):
            Share of the layers, from the bottom, that carry no adapter and are shared by all members, in [0, 1).
            `None` takes 0.5, and 0.25 for a language model.
        members (`int`, *optional*, defaults to `5`):
            Snapshots that are kept of each task.
        retrieval (`str`, *optional*, defaults to `"signature"`):
            How the group of an input is chosen: `"signature"` (where the input lies in the trunk), `"uncertainty"`
            (DriftNet as we read it: the least uncertain group, all members run) or `"cascade"` (signature, then
            uncertainty among the groups that are still in question).
        uncertainty (`str`, *optional*, defaults to `"entropy"`):
            What uncertainty is: `"entropy"` (of the mean probabilities, as a share of the largest possible) or
            `"variance"` (of the probabilities between members; entropy where members do not run one by one, that is
            for merged answers by signature).
        answer (`str`, *optional*, defaults to `"merged"`):
            How a chosen group answers: `"merged"` (the mean of its members' weight updates, one pass) or `"ensemble"`
            (the mean of its members' probabilities; not for language models).
        per_batch (`bool`, *optional*, defaults to `False`):
            Choose one group for a whole batch, whose inputs are then taken to be of one task.
        signature_rank (`int`, *optional*, defaults to `128`):
            Directions of the scatter that a signature keeps.
        signature_size (`int`, *optional*, defaults to `2048`):
            Largest number of features of a signature; wider hidden states go through a fixed random projection.
        signature_shrinkage (`float`, *optional*, defaults to `0.05`):
            Share of a covariance that is replaced by its mean variance, in (0, 1].
        max_length (`int`, *optional*, defaults to `128`):
            Longest input in tokens; longer texts are cut, longer contexts are read in windows. For a language model
            the longest prompt, and in training the longest answer.
        stride (`int`, *optional*, defaults to `32`):
            Overlap of two windows in tokens; a language model reads no windows.
        max_new_tokens (`int`, *optional*, defaults to `64`):
            Longest answer that a language model gives in the `lifelong` pipeline and in evaluation, in tokens.
        resident_groups (`int`, *optional*):
            How many groups have their members on the device that answers at a time: those used last. The others rest
            where they were loaded, in the CPU's memory or, with `low_cpu_mem_usage=True`, in the file. `None` keeps
            all on the device. On a GPU load with `torch_device="cpu"`, or PEFT takes the whole file there first.
        knowledge (`dict`, *optional*):
            The manifest of what was learned (`KnowledgeBase.to_dict`); written by training, not by hand.
        digest (`str`, *optional*):
            Of the tensors that this configuration was saved with; written by saving, not by hand. Those that are
            loaded with it must have the same, so that damage is noticed, and tensors of another training.
    """

    r: int = field(default=8, metadata={"help": "Rank of each member."})
    lora_alpha: float = field(default=16, metadata={"help": "Updates are scaled by `lora_alpha / r`."})
    lora_dropout: float = field(
        default=0.0, metadata={"help": "Dropout probability on the input of adapters and heads during training."}
    )
    target_modules: set[str] | list[str] | str | None = field(
        default=None, metadata={"help": "Linear layers that carry an adapter; only those above the trunk are taken."}
    )
    exclude_modules: set[str] | list[str] | str | None = field(
        default=None, metadata={"help": "Linear layers to leave out."}
    )
    trunk_depth: float | None = field(
        default=None, metadata={"help": "Share of the layers, from the bottom, that carry no adapter, in [0, 1)."}
    )
    members: int = field(default=5, metadata={"help": "Snapshots that are kept of each task."})
    retrieval: str = field(
        default="signature",
        metadata={"help": "How the group of an input is chosen.", "choices": POLICIES},
    )
    uncertainty: str = field(default="entropy", metadata={"help": "What uncertainty is.", "choices": UNCERTAINTIES})
    answer: str = field(default="merged", metadata={"help": "How a chosen group answers.", "choices": ANSWERS})
    per_batch: bool = field(default=False, metadata={"help": "Choose one group for a whole batch."})
    signature_rank: int = field(default=128, metadata={"help": "Directions of the scatter that a signature keeps."})
    signature_size: int = field(default=2048, metadata={"help": "Largest number of features of a signature."})
    signature_shrinkage: float = field(
        default=0.05, metadata={"help": "Share of a covariance that is replaced by its mean variance, in (0, 1]."}
    )
    max_length: int = field(default=128, metadata={"help": "Longest input in tokens."})
    stride: int = field(default=32, metadata={"help": "Overlap of two windows of a long context, in tokens."})
    max_new_tokens: int = field(default=64, metadata={"help": "Longest answer of a language model, in tokens."})
    resident_groups: int | None = field(
        default=None, metadata={"help": "Groups whose members lie on the device at a time; all of them by default."}
    )
    knowledge: dict[str, Any] | None = field(
        default=None, metadata={"help": "The manifest of what was learned; written by training."}
    )
    digest: str | None = field(
        default=None, metadata={"help": "Of the tensors saved with this configuration; written by saving."}
    )

    def __post_init__(self) -> None:
        if self.task_type is None:
            self.task_type = "FEATURE_EXTRACTION"
        super().__post_init__()
        self.peft_type = drift_type()
        # No field: it says where this object came from, and a saved copy did not come from there.
        self.loaded_from: LoadedFrom | None = None
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            setattr(self, name, set(value) if isinstance(value, list | tuple) and _are_names(value) else value)
        self._check()

    def _check(self) -> None:
        if self.task_type not in TASK_TYPES:
            raise ValueError(
                f"`task_type` is {self.task_type!r}; heads belong to the adapter, so load the base with `AutoModel` "
                'and leave `task_type` out, or load a language model with `AutoModelForCausalLM` and give "CAUSAL_LM".'
            )
        if self.task_type == "CAUSAL_LM" and self.answer == "ensemble":
            raise ValueError(
                '`answer` is "ensemble", but a language model answers with merged members: an ensemble would need a '
                'cache for each member. Give `answer="merged"`.'
            )
        for name, choices in (("retrieval", POLICIES), ("uncertainty", UNCERTAINTIES), ("answer", ANSWERS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; choose one of {list(choices)}.")
        for name, most in MOST.items():
            self._check_count(name, 1, most)
        self._check_count("stride", 0, MOST["max_length"])
        if self.resident_groups is not None:
            self._check_count("resident_groups", 1, MOST_GROUPS)
        for name in ("per_batch", "inference_mode"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"`{name}` is {getattr(self, name)!r:.200}; it must be true or false.")
        for name in ("target_modules", "exclude_modules"):
            names = getattr(self, name)
            if not (names is None or isinstance(names, str) or _are_names(names)):
                raise ValueError(f"`{name}` is {names!r:.200}; it must be a string or a set of strings.")
        if not (_is_number(self.lora_alpha) and 0 < self.lora_alpha <= MOST_ALPHA):
            raise ValueError(
                f"`lora_alpha` is {self.lora_alpha!r:.200}; it must be a number above 0, at most {MOST_ALPHA:,.0f}."
            )
        if self.trunk_depth is not None and not (_is_number(self.trunk_depth) and 0 <= self.trunk_depth < 1):
            raise ValueError(f"`trunk_depth` is {self.trunk_depth!r}; it must be a share of the layers in [0, 1).")
        if not (_is_number(self.lora_dropout) and 0 <= self.lora_dropout < 1):
            raise ValueError(f"`lora_dropout` is {self.lora_dropout!r}; it must be a probability in [0, 1).")
        if not (_is_number(self.signature_shrinkage) and 0 < self.signature_shrinkage <= 1):
            raise ValueError(f"`signature_shrinkage` is {self.signature_shrinkage!r}; it must be in (0, 1].")
        if self.task_type != "CAUSAL_LM" and self.stride >= self.max_length // 2:
            raise ValueError(
                f"`stride` is {self.stride}; it must be less than half of `max_length` ({self.max_length}), or "
                "windows would not move forward."
            )
        if not isinstance(self.digest, str | None):
            raise ValueError(f"`digest` is {self.digest!r:.100}; it must be a string, as it is saved, or None.")
        if self.knowledge is not None:
            KnowledgeBase.from_dict(self.knowledge)

    def _check_count(self, name: str, least: int, most: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"`{name}` is {value!r:.200}; it must be an integer from {least} to {most}.")

    @classmethod
    def without_knowledge(cls, saved: Mapping[str, Any]) -> DriftAdapterConfig:
        """A configuration from its saved form (`to_dict`), less the manifest and fields that are not known.

        Raises:
            ValueError: for what a new configuration could not be either.
        """
        fields = {name: value for name, value in saved.items() if name in cls.__dataclass_fields__}
        return cls(**fields | {"knowledge": None})

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str, subfolder: str | None = None, **kwargs: Any
    ) -> DriftAdapterConfig:
        """As PEFT's; also refuses an adapter whose tensors are cut off, which PEFT would not name, or are no
        safetensors, for which PEFT would read a pickle (`ValueError`). Of an adapter on the Hub the tensors are
        fetched here, and `loaded_from` says which commit they are of."""
        config = super().from_pretrained(pretrained_model_name_or_path, subfolder, **kwargs)
        folder = Path(pretrained_model_name_or_path, subfolder or "")
        if (folder / CONFIG_NAME).is_file():
            tensors = folder / SAFETENSORS_WEIGHTS_NAME
            if (folder / WEIGHTS_NAME).exists() and not tensors.is_file():
                raise _pickled(str(folder))
        else:
            options = cls._split_kwargs(kwargs)[0]
            tensors = _fetch_tensors(pretrained_model_name_or_path, subfolder, options)
            home = tensors.parents[len(Path(subfolder or "").parts)]
            if home.parent.name == "snapshots":  # of the cache; elsewhere the commit is not known
                revision = options.get("revision") or "main"
                config.loaded_from = LoadedFrom(pretrained_model_name_or_path, revision, home.name)
        if tensors.exists():
            read_header(tensors)
        return config

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """As PEFT's, which writes the configuration after the tensors; refuses those that it wrote as a pickle.

        Raises:
            ValueError: when `model.save_pretrained` was called with `safe_serialization=False`.
        """
        pickle, tensors = (Path(save_directory, name) for name in (WEIGHTS_NAME, SAFETENSORS_WEIGHTS_NAME))
        if pickle.exists() and not (tensors.exists() and tensors.stat().st_mtime_ns >= pickle.stat().st_mtime_ns):
            raise ValueError(
                f"`safe_serialization=False` wrote `{pickle}`, from which no adapter is loaded, because a pickle can "
                "run code. Leave it out, save again, and delete that file."
            )
        super().save_pretrained(str(save_directory), **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As PEFT's, with sets as sorted lists: a saved configuration must not depend on hash seeds."""
        return {k: sorted(v) if isinstance(v, set) else v for k, v in super().to_dict().items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_names(value: Any) -> bool:
    return isinstance(value, list | tuple | set) and all(isinstance(name, str) for name in value)


def _fetch_tensors(repo_id: str, subfolder: str | None, options: dict[str, Any]) -> Path:
    try:
        return Path(hf_hub_download(repo_id, SAFETENSORS_WEIGHTS_NAME, subfolder=subfolder, **options))
    except RemoteEntryNotFoundError as error:
        raise _pickled(repo_id) from error


def _pickled(where: str) -> ValueError:
    return ValueError(
        f"`{where}` has no `{SAFETENSORS_WEIGHTS_NAME}`; an adapter is read from nothing else, because a pickle such "
        f"as `{WEIGHTS_NAME}` can run code. Save the adapter again."
    )
