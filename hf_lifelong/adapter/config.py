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
from ..storage import ANSWERS, UNCERTAINTIES, UNKNOWNS, are_names, check_settings
from ..utils.files import read_header

METHOD = "DRIFT"  # its name in PEFT


class LoadedFrom(NamedTuple):
    """Where on the Hub an adapter was loaded from.

    Args:
        repo_id (`str`): Its repository.
        revision (`str`): The requested branch, tag or commit.
        commit (`str`): The commit that it resolved to.
    """

    repo_id: str
    revision: str
    commit: str


@dataclass
class DriftAdapterConfig(PeftConfig):
    """Configuration of a lifelong adapter: low-rank members above a frozen trunk, kept in groups, chosen per input.

    The base is a model without a head (`AutoModel`). With `task_type="CAUSAL_LM"` it is a causal language model, for
    which every task is text to text.

    Args:
        r (`int` or `str`, *optional*, defaults to `8`):
            Rank of each member; or `"full"`, for small networks that are trained from scratch: each member is a
            difference to the whole weights and biases of its layers, on a base with random weights. Members are then
            as large as these layers.
        lora_alpha (`float`, *optional*, defaults to `16`):
            Updates are scaled by `lora_alpha / r`; full members are not scaled.
        lora_dropout (`float`, *optional*, defaults to `0.0`):
            Dropout probability on the input of adapters and heads during training; one of the sources of drift. With
            full members, on the input of the linear layers themselves.
        target_modules (`set[str]` or `str`, *optional*):
            Linear layers that carry an adapter, in PEFT's spelling; only layers above the trunk are used, and a name
            in a list that no layer has is an error. `None` uses the defaults of the architecture,
            `"all-linear"` all linear layers (except DeBERTa's layers that read relative positions, which all inputs of
            a batch share). Full members can also be of layer norms (`LayerNorm`); `None` then uses all linear layers
            and layer norms.
        exclude_modules (`set[str]` or `str`, *optional*):
            Linear layers to leave out, in PEFT's spelling.
        trunk_depth (`float`, *optional*):
            Share of the layers, from the bottom, that carry no adapter and are shared by all members, in [0, 1).
            `None` uses 0.5, 0.25 for a language model, and five sixths for a base that takes images.
        members (`int`, *optional*, defaults to `5`):
            Number of snapshots that are kept of each task.
        retrieval (`str`, `type` or [`RetrievalPolicy`], *optional*, defaults to `"signature"`):
            How the group of an input is chosen: `"signature"` (by where the input lies in the trunk's hidden states),
            `"uncertainty"` (DriftNet as we read it: all members run, and the least uncertain group answers),
            `"cascade"` (by signature, then by uncertainty among the remaining candidates), or your own policy. A saved
            adapter stores only the name of your own policy: when it is loaded, it warns and chooses by signature
            until you give the policy again.
        uncertainty (`str`, *optional*, defaults to `"entropy"`):
            How uncertainty is measured: `"entropy"` (of the mean probabilities, as a share of the largest possible
            entropy) or `"variance"` (of the probabilities between members). Merged answers by signature have no
            separate members, so they always use entropy.
        answer (`str`, *optional*, defaults to `"merged"`):
            How a chosen group answers: `"merged"` (the mean of its members' weight updates, one pass) or `"ensemble"`
            (the mean of its members' probabilities; not for language models).
        per_batch (`bool`, *optional*, defaults to `False`):
            Choose one group for a whole batch, whose inputs must then belong to one task.
        unknown (`str`, *optional*, defaults to `"nearest"`):
            What answers an input that is unlike those of the chosen task (`novelty` above 1): `"nearest"` (that task's
            group all the same) or, for a language model, `"base"` (the base model as it was, without members). A group
            that is given always answers, and so does a single task without classes, which nothing is unlike.
        signature_rank (`int`, *optional*, defaults to `256`):
            Number of directions of the scatter that a signature keeps, shared evenly by the classes of a task if each
            gets at least 8.
        signature_size (`int`, *optional*, defaults to `2048`):
            Largest number of features of a signature; wider hidden states go through a fixed random projection.
        signature_shrinkage (`float`, *optional*, defaults to `0.05`):
            Share of a covariance that is replaced by its mean variance, in (0, 1].
        max_length (`int`, *optional*, defaults to `128`):
            Longest input in tokens. Longer texts are cut; longer contexts are read in windows. For a language model it
            is the longest prompt and, in training, the longest answer.
        stride (`int`, *optional*, defaults to `32`):
            Overlap of two windows in tokens; a language model reads no windows.
        max_new_tokens (`int`, *optional*, defaults to `64`):
            Longest answer of a language model in the `lifelong` pipeline and in evaluation, in tokens.
        resident_groups (`int`, *optional*):
            Number of groups whose members are on the device at the same time: the most recently used ones. The others
            stay where they were loaded, in CPU memory or, with `low_cpu_mem_usage=True`, in the file. `None` keeps all
            on the device. On a GPU, load with `torch_device="cpu"`; otherwise PEFT first loads the whole file there.
        knowledge (`dict`, *optional*):
            The manifest of what was learned (`KnowledgeBase.to_dict`); written by training, not by hand.
        digest (`str`, *optional*):
            Digest of the tensors saved with this configuration; written by saving, not by hand. Tensors that are
            loaded with it must have the same digest, which reveals damaged tensors and tensors from another save.
    """

    r: int | str = field(
        default=8, metadata={"help": 'Rank of each member; "full": whole weights, for networks trained from scratch.'}
    )
    lora_alpha: float = field(default=16, metadata={"help": "Updates are scaled by `lora_alpha / r`."})
    lora_dropout: float = field(
        default=0.0, metadata={"help": "Dropout probability on the input of adapters and heads during training."}
    )
    target_modules: set[str] | list[str] | str | None = field(
        default=None, metadata={"help": "Linear layers that carry an adapter; only those above the trunk are used."}
    )
    exclude_modules: set[str] | list[str] | str | None = field(
        default=None, metadata={"help": "Linear layers to leave out."}
    )
    trunk_depth: float | None = field(
        default=None, metadata={"help": "Share of the layers, from the bottom, that carry no adapter, in [0, 1)."}
    )
    members: int = field(default=5, metadata={"help": "Number of snapshots that are kept of each task."})
    retrieval: str | type[RetrievalPolicy] | RetrievalPolicy = field(
        default="signature",
        metadata={"help": "How the group of an input is chosen.", "choices": POLICIES},
    )
    uncertainty: str = field(
        default="entropy", metadata={"help": "How uncertainty is measured.", "choices": UNCERTAINTIES}
    )
    answer: str = field(default="merged", metadata={"help": "How a chosen group answers.", "choices": ANSWERS})
    per_batch: bool = field(default=False, metadata={"help": "Choose one group for a whole batch."})
    unknown: str = field(
        default="nearest",
        metadata={
            "help": "What answers an input unlike its task: its group or the base.",
            "choices": UNKNOWNS,
        },
    )
    signature_rank: int = field(
        default=256, metadata={"help": "Directions of the scatter that a signature keeps, shared by a task's classes."}
    )
    signature_size: int = field(default=2048, metadata={"help": "Largest number of features of a signature."})
    signature_shrinkage: float = field(
        default=0.05, metadata={"help": "Share of a covariance that is replaced by its mean variance, in (0, 1]."}
    )
    max_length: int = field(default=128, metadata={"help": "Longest input in tokens."})
    stride: int = field(default=32, metadata={"help": "Overlap of two windows of a long context, in tokens."})
    max_new_tokens: int = field(default=64, metadata={"help": "Longest answer of a language model, in tokens."})
    resident_groups: int | None = field(
        default=None,
        metadata={"help": "Number of groups whose members are on the device at a time; all by default."},
    )
    knowledge: dict[str, Any] | None = field(
        default=None, metadata={"help": "The manifest of what was learned; written by training."}
    )
    digest: str | None = field(
        default=None, metadata={"help": "Digest of the tensors saved with this configuration; written by saving."}
    )

    def __post_init__(self) -> None:
        if self.task_type is None:
            self.task_type = "FEATURE_EXTRACTION"
        super().__post_init__()
        self.peft_type = peft_type(METHOD)
        # Not a field, so it is not saved: it says where this object was loaded from.
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
        """As in PEFT, with checks of the tensors' file. It refuses a truncated file, which PEFT's error would not
        name, and a folder without safetensors, for which PEFT would read a pickle (`ValueError`). For an adapter on
        the Hub it downloads the tensors and sets `loaded_from` to their commit."""
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
            if home.parent.name == "snapshots":  # only the cache's folders name the commit
                revision = options.get("revision") or "main"
                config.loaded_from = LoadedFrom(pretrained_model_name_or_path, revision, home.name)
        if tensors.exists():
            read_header(tensors)
        return config

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """As in PEFT, which writes the configuration after the tensors. Refuses tensors that PEFT wrote as a pickle.

        Raises:
            ValueError: when `model.save_pretrained` was called with `safe_serialization=False`.
        """
        pickle, tensors = (Path(save_directory, name) for name in (WEIGHTS_NAME, SAFETENSORS_WEIGHTS_NAME))
        if pickle.exists() and not (tensors.exists() and tensors.stat().st_mtime_ns >= pickle.stat().st_mtime_ns):
            raise ValueError(
                f"`safe_serialization=False` wrote `{pickle}`, which cannot be loaded again, because a pickle can run "
                "code. Leave the argument out, save again, and delete that file."
            )
        super().save_pretrained(str(save_directory), **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """As in PEFT, but with the retrieval policy by name, and with sets as sorted lists, because a saved
        configuration must not depend on hash seeds."""
        plain = {k: sorted(v) if isinstance(v, set) else v for k, v in super().to_dict().items()}
        return plain | {"retrieval": saved_name(self.retrieval)}


def _fetch_tensors(repo_id: str, subfolder: str | None, options: dict[str, Any]) -> Path:
    try:
        return Path(hf_hub_download(repo_id, SAFETENSORS_WEIGHTS_NAME, subfolder=subfolder, **options))
    except RemoteEntryNotFoundError as error:
        raise _pickled(repo_id) from error


def _pickled(where: str) -> ValueError:
    return ValueError(
        f"`{where}` has no `{SAFETENSORS_WEIGHTS_NAME}`. An adapter is read from no other file, because a pickle such "
        f"as `{WEIGHTS_NAME}` can run code. Save the adapter again."
    )
