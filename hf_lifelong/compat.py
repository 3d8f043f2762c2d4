"""The only module that uses names of transformers and PEFT that are private or differ between versions; it lists those
that a class of this package takes from the class that it extends.

These names are looked up only when another module imports them, so importing this module costs nothing.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .utils.lazy import lazily

if TYPE_CHECKING:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.tuners.tuners_utils import check_target_module_exists
    from transformers.hf_argparser import string_to_bool
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.quantizers_utils import should_convert_module
    from transformers.trainer_callback import ExportableState
    from transformers.trainer_pt_utils import LengthGroupedSampler
    from transformers.utils import find_adapter_config_file
    from transformers.utils.chat_template_utils import render_jinja_template

# Undocumented names, each with the module that defines it.
INTERNAL = {
    "Conv1D": "transformers.pytorch_utils",
    "ExportableState": "transformers.trainer_callback",
    "LengthGroupedSampler": "transformers.trainer_pt_utils",
    "PEFT_TYPE_TO_CONFIG_MAPPING": "peft.mapping",
    "check_target_module_exists": "peft.tuners.tuners_utils",
    "find_adapter_config_file": "transformers.utils",
    "render_jinja_template": "transformers.utils.chat_template_utils",
    "should_convert_module": "transformers.quantizers.quantizers_utils",
    "string_to_bool": "transformers.hf_argparser",
}
# Private methods that classes of this package override, by the library class that calls them.
OVERRIDDEN = {
    "transformers.Trainer": (
        "_get_output_dir",
        "_get_train_sampler",
        "_load_callback_state",
        "_push_from_checkpoint",
        "_save",
        "_set_signature_columns_if_needed",
    ),
    "peft.tuners.tuners_utils.BaseTuner": (
        "_check_merge_allowed",
        "_create_and_replace",
        "_get_adapter_state_dict",
        "_prepare_adapter_config",
        "_prepare_model",
        "_remap_adapter_state_dict_for_load",
        "_remove_adapter_name_from_key",
        "_replace_module",
    ),
    "peft.PeftModel": ("_enable_peft_forward_hooks",),
    "peft.tuners.tuners_utils.BaseTunerLayer": ("_move_adapter_to_device_of_base_layer",),
}
# Private names that classes of this package read of the library class that they extend.
READ = {
    "transformers.Pipeline": ("_batch_size", "_forward_params"),
    "peft.config.PeftConfigMixin": ("_split_kwargs",),
}
# Attributes that a training leaves in a `Trainer` and the next training would read, with their values before the first
# training. Those in `ABSENT` do not exist before it.
UNUSED: Mapping[str, Any] = {
    "optimizer": None,
    "lr_scheduler": None,
    "_created_lr_scheduler": False,
    "_signature_columns": None,
    "_mixed_mesh_grads": None,
    "is_in_train": False,
    "current_flos": 0,
}
ABSENT = ("_eval_dataloaders", "current_gradient_accumulation_steps", "model_preparation_time")

__all__ = [
    "ABSENT",
    "INTERNAL",
    "OVERRIDDEN",
    "PEFT_TYPE_TO_CONFIG_MAPPING",
    "READ",
    "UNUSED",
    "Conv1D",
    "ExportableState",
    "LengthGroupedSampler",
    "cache_argument",
    "cache_in",
    "cache_of",
    "check_target_module_exists",
    "find_adapter_config_file",
    "forget_training",
    "is_packed",
    "keeps_cache",
    "not_quantised",
    "note_scheduler",
    "peft_type",
    "render_jinja_template",
    "should_convert_module",
    "string_to_bool",
    "with_columns",
]


__getattr__ = lazily(__name__, INTERNAL)


@functools.cache
def cache_argument() -> str:
    """The name of the key-value cache in the arguments and outputs of models: `past_key_values` before transformers
    5.24, `cache` from then on."""
    from transformers.modeling_outputs import CausalLMOutputWithPast

    return "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


def keeps_cache(model: Any) -> bool:
    """Whether a language model's only state is the cache of keys and values of earlier tokens."""
    return not model._is_stateful and cache_argument() in inspect.signature(model.forward).parameters


def cache_in(arguments: Mapping[str, Any]) -> Any:
    """The cache in the arguments of a forward pass, or `None`. Packed requests share one cache, which does not
    count."""
    return None if is_packed(arguments) else arguments.get("cache", arguments.get("past_key_values"))


def cache_of(output: Any) -> Any:
    """The cache in a language model's output, or `None`."""
    return output.cache if hasattr(output, "cache") else getattr(output, "past_key_values", None)


def is_packed(arguments: Mapping[str, Any]) -> bool:
    """Whether a row of a forward pass packs the tokens of several requests, as in continuous batching."""
    return "cu_seq_lens_q" in arguments


def not_quantised(model: Any, skipped: list[str] | None) -> list[str]:
    """The modules that transformers does not quantise when it quantises a model with bitsandbytes.

    Args:
        skipped (`list[str]`, *optional*): The setting `llm_int8_skip_modules`.
    """
    from transformers.quantizers.base import HfQuantizer

    return list(HfQuantizer.get_modules_to_not_convert(model, skipped, model._keep_in_fp32_modules))


def forget_training(trainer: Any) -> None:
    """Resets the attributes that a training leaves in a `Trainer` to their state before the first training."""
    for name, value in UNUSED.items():
        setattr(trainer, name, value)
    for name in ABSENT:
        vars(trainer).pop(name, None)
    trainer._train_batch_size = trainer.args.train_batch_size


def note_scheduler(trainer: Any) -> None:
    """Tells a `Trainer` that `create_scheduler` has created a scheduler."""
    trainer._created_lr_scheduler = True


def peft_type(name: str) -> Any:
    """A member of `PeftType` for a method of another package, created at its first use.

    `PeftType` is a closed enum, and `register_peft_method` accepts only its members. A value of another type would
    break adapter loading in transformers, so this function extends the enum's tables in the way that `EnumType` fills
    them.
    """
    from peft.utils.peft_types import PeftType

    if name not in PeftType.__members__:
        member: Any = str.__new__(PeftType, name)
        member._name_ = member._value_ = name
        member.__objclass__ = PeftType
        member._sort_order_ = len(PeftType._member_names_)
        PeftType._member_names_.append(name)
        PeftType._member_map_[name] = member
        PeftType._value2member_map_[name] = member
        type.__setattr__(PeftType, name, member)
    return PeftType.__members__[name]


def with_columns(dataset: Any, columns: Mapping[str, list[Any]]) -> Any:
    """A data set with further columns. `Dataset.add_column` would copy all others, images for example, where the rows
    are a selection; here the new values are put where the selection finds them.

    Args:
        dataset (`datasets.Dataset`): n rows.
        columns (`dict[str, list]`): n values each.
    """
    from datasets import Dataset, concatenate_datasets

    chosen = dataset._indices
    if chosen is None:
        return concatenate_datasets([dataset, Dataset.from_dict(dict(columns))], axis=1)
    places = chosen.column(0).to_pylist()
    if len(set(places)) < len(places):  # one row several times, with a value of its own each time
        dataset = dataset.flatten_indices()
        return concatenate_datasets([dataset, Dataset.from_dict(dict(columns))], axis=1)
    row_at = dict(zip(places, range(len(places)), strict=True))
    whole = [row_at.get(place, 0) for place in range(len(dataset.data))]
    beside = Dataset.from_dict({name: [values[row] for row in whole] for name, values in columns.items()})
    return concatenate_datasets([Dataset(dataset.data, info=dataset.info), beside], axis=1).select(places)
