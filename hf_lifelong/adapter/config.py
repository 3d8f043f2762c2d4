"""Configuration of the `DRIFT` method."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import RemoteEntryNotFoundError
from peft import PeftConfig
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, WEIGHTS_NAME

from ..compat import peft_type
from ..knowledge import KnowledgeBase
from ..retrieval import POLICIES, RetrievalPolicy, policy_of, read_name, saved_name
from ..storage import ANSWERS, UNCERTAINTIES, are_names, check_settings
from ..utils.files import read_header

METHOD = "DRIFT"  # what PEFT calls it


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
        retrieval (`str`, `type` or [`RetrievalPolicy`], *optional*, defaults to `"signature"`):
            How the group of an input is chosen: `"signature"` (where the input lies in the trunk), `"uncertainty"`
            (DriftNet as we read it: the least uncertain group, all members run), `"cascade"` (signature, then
            uncertainty among the groups that are still in question), or a policy of your own, of which a saved adapter
            knows the name alone: loaded again, it warns, and chooses by signature until it is given the policy.
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
    retrieval: str | type[RetrievalPolicy] | RetrievalPolicy = field(
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
        self.peft_type = peft_type(METHOD)
        # No field: it says where this object came from, and a saved copy did not come from there.
        self.loaded_from: LoadedFrom | None = None
        for name in ("target_modules", "exclude_modules"):
            value = getattr(self, name)
            setattr(self, name, set(value) if isinstance(value, list | tuple) and are_names(value) else value)
        check_settings(vars(self))
        self.retrieval = read_name(self.retrieval)
        if isinstance(self.retrieval, type):
            self.retrieval = policy_of(self.retrieval, "retrieval")
        if self.knowledge is not None:
            KnowledgeBase.from_dict(self.knowledge)

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
        """As PEFT's, with sets as sorted lists, because a saved configuration must not depend on hash seeds, and the
        retrieval policy by name."""
        plain = {k: sorted(v) if isinstance(v, set) else v for k, v in super().to_dict().items()}
        return plain | {"retrieval": saved_name(self.retrieval)}


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
