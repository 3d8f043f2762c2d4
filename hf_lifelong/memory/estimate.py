"""How much memory a model with a lifelong adapter will take: weights, one training step, one answer."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from peft import get_peft_model
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
)

from ..adapter import DriftAdapterConfig, lifelong_of
from ..adapter.architectures import settle_trunk, signature_depths
from ..adapter.bank import close_task, open_task
from ..adapter.checks import describe_base
from ..knowledge import KnowledgeBase, LearnedTask
from .quantised import quantise
from .tracing import Steps, answering_pass, resident_tensors, size_of, training_pass

BITS, ATTENTIONS, DEVICES = (4, 8, 16, 32), ("sdpa", "eager"), ("cuda", "cpu")
# bitsandbytes keeps the state of smaller tensors in 32 bits, and one constant for so many numbers of larger ones.
_LEAST_8BIT, _BLOCK_8BIT = 4096, 256


def _adamw(parameter: Tensor) -> int:
    return 8 * parameter.numel() + 4  # two moments and the step


def _adamw_8bit(parameter: Tensor) -> int:
    numbers = parameter.numel()
    return 8 * numbers if numbers < _LEAST_8BIT else 2 * numbers + 8 * -(-numbers // _BLOCK_8BIT)


def _adafactor(parameter: Tensor) -> int:
    rows, columns = parameter.shape[:-1], (*parameter.shape[:-2], parameter.shape[-1])
    factors = (rows, columns) if parameter.dim() > 1 else (parameter.shape,)
    return sum(4 * torch.Size(shape).numel() for shape in factors)


# `optim` of the training arguments → bytes of what it keeps of a float32 parameter.
OPTIMIZERS: dict[str, Callable[[Tensor], int]] = {
    "adamw_torch": _adamw,
    "adamw_torch_fused": _adamw,
    "adamw_8bit": _adamw_8bit,
    "adamw_bnb_8bit": _adamw_8bit,
    "paged_adamw_8bit": _adamw_8bit,
    "paged_adamw_32bit": lambda parameter: 8 * parameter.numel(),
    "adafactor": _adafactor,
    "sgd": lambda parameter: 0,
}


@dataclass(frozen=True)
class MemoryEstimate:
    """What [`estimate_memory`] found, in bytes of tensors on the device.

    Not in it: what the allocator rounds up and keeps, workspaces of matrix libraries, and the CUDA context (some
    hundred MiB that `torch.cuda.max_memory_allocated` does not count either).

    Args:
        parameters (`int`): Number of weights of the base.
        trainable (`int`): Number of weights that are trained.
        base (`int`): Weights of the base, with the constants of quantised ones.
        knowledge (`int`): Members, heads and signatures of the tasks that are known, as in the adapter's file.
        projection (`int`): What makes features of wide hidden states; 0 where they are not wide.
        adapter (`int`): The working adapter and its head.
        gradients (`int`): Of the working adapter.
        optimizer (`int`): What the optimiser keeps.
        activations (`int`): What the forward pass of a training step keeps for its backward pass.
        cache (`int`): Keys and values at the end of an answer; 0 without a language model.
        loading (`int`): Most that is taken while base and adapter are loaded: both, and the largest layer before it
            is quantised.
        training (`int`): Most that is taken in a training step of one more task.
        answering (`int`): Most that is taken while a batch is answered.
        settings (`dict`): What was asked.
    """

    parameters: int
    trainable: int
    base: int
    knowledge: int
    projection: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    cache: int
    loading: int
    training: int
    answering: int
    settings: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        return asdict(self)

    def table(self) -> str:
        """The estimate as lines of text, in MiB or GiB."""
        asked = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        parts = {
            f"base ({self.parameters:,} weights)": self.base,
            "known tasks": self.knowledge,
            "projection of features": self.projection,
            f"working adapter ({self.trainable:,} weights)": self.adapter,
            "its gradients": self.gradients,
            "optimiser": self.optimizer,
            "kept for the backward pass": self.activations,
            "cache of an answer": self.cache,
        }
        peaks = {"loading": self.loading, "training": self.training, "answering": self.answering}
        lines = [*parts.items(), *((f"PEAK, {name}", size) for name, size in peaks.items())]
        width = max(len(name) for name, _ in lines)
        return "\n".join([asked, *(f"{name:<{width}}  {_readable(size):>12}" for name, size in lines if size)])

    def __str__(self) -> str:
        return self.table()


def estimate_memory(
    model: str | os.PathLike[str] | PretrainedConfig | PreTrainedModel,
    config: DriftAdapterConfig | None = None,
    *,
    bits: int | BitsAndBytesConfig | None = None,
    tasks: int = 1,
    labels: int = 2,
    batch_size: int = 8,
    length: int | None = None,
    new_tokens: int | None = None,
    optimizer: str = "adamw_torch_fused",
    gradient_checkpointing: bool = False,
    autocast: bool = False,
    attention: str | None = None,
    device: str = "cuda",
) -> MemoryEstimate:
    """Estimates what a base, its lifelong adapter, one training step and one answer will take, and allocates nothing.

    The model is made from its configuration alone, and one training step and one answer are run on tensors that have
    shapes but no memory, with the adapter's own layers and hooks; what lives at once is counted. Rows are taken to be
    padded and, in answering, to be of as many groups as they can be.

    Layers in 4 and 8 bits cannot run so: in their place stand layers that store the same bytes and make the same
    tensors (4 bits: the whole weight of one layer at a time; 8 bits: the quantised input).

    Args:
        model (`str`, path, `PretrainedConfig` or `PreTrainedModel`):
            The base: Hub id or folder (only its `config.json` is read), configuration, or a model, of which
            configuration and dtype are taken.
        config ([`DriftAdapterConfig`], *optional*):
            The adapter; a language model needs `task_type="CAUSAL_LM"`. What it knows already is not counted, `tasks`
            is.
        bits (`int` or `BitsAndBytesConfig`, *optional*):
            Bits of a weight of the base: 32 (float32), 16 (bfloat16 or float16), 8 or 4 (bitsandbytes, NF4; what is
            not quantised in bfloat16). `None` takes what the base's configuration says.
        tasks (`int`, *optional*, defaults to `1`):
            Tasks that the adapter knows while it answers, and while it learns one more.
        labels (`int`, *optional*, defaults to `2`):
            Labels of each task (text classification); the tasks of a language model have no heads.
        batch_size (`int`, *optional*, defaults to `8`):
            Rows of a batch, in training and in answering.
        length (`int`, *optional*):
            Tokens of a row, and of a language model's prompt in answering. `None` takes `max_length` of `config`.
        new_tokens (`int`, *optional*):
            Tokens that a language model answers with. `None` takes `max_new_tokens` of `config`.
        optimizer (`str`, *optional*, defaults to `"adamw_torch_fused"`):
            `optim` of the training arguments. What a paged one keeps is counted, though it may leave the GPU.
        gradient_checkpointing (`bool`, *optional*, defaults to `False`):
            As in the training arguments.
        autocast (`bool`, *optional*, defaults to `False`):
            Whether training runs under autocast to bfloat16 (`bf16=True` in the training arguments).
        attention (`str`, *optional*):
            `"sdpa"` or `"eager"`; `None` takes what transformers would.
        device (`str`, *optional*, defaults to `"cuda"`):
            Whose kernels are assumed, `"cuda"` or `"cpu"`: those of the CPU keep more where there is dropout.

    Raises:
        ValueError: names the argument that cannot be used.
    """
    adapter = copy.deepcopy(config) if config is not None else DriftAdapterConfig()
    causal = adapter.task_type == "CAUSAL_LM"
    length = adapter.max_length if length is None else length
    new_tokens = adapter.max_new_tokens if new_tokens is None else new_tokens
    sizes = {"tasks": tasks, "batch_size": batch_size, "length": length, "new_tokens": new_tokens}
    for name, size, least in (*((name, size, 1) for name, size in sizes.items()), ("labels", labels, 2)):
        if not isinstance(size, int) or isinstance(size, bool) or size < least:
            raise ValueError(f"`{name}` is {size!r}; it must be an integer of at least {least}.")
    for name, value, choices in (
        ("optimizer", optimizer, tuple(OPTIMIZERS)),
        ("attention", attention, (None, *ATTENTIONS)),
        ("device", device, DEVICES),
    ):
        if value not in choices:
            raise ValueError(f"`{name}` is {value!r}; choose one of {list(choices)}.")
    found = _base_config(model)
    dtype, quantisation = _precision(bits, model, found)
    _check_length(found, length + new_tokens - 1 if causal else length)
    settings = {
        "model": str(model) if isinstance(model, str | os.PathLike) else found.model_type,
        "dtype": str(dtype).removeprefix("torch."),
        **({"bits": 4 if quantisation.load_in_4bit else 8} if quantisation is not None else {}),
        **{"r": adapter.r, "members": adapter.members, "tasks": tasks, "batch_size": batch_size, "length": length},
        **({"new_tokens": new_tokens} if causal else {"labels": labels}),
        **{"optimizer": optimizer, "gradient_checkpointing": gradient_checkpointing, "autocast": autocast},
        "device": device,
    }

    base = _on_meta(found, causal, dtype, attention)
    parameters = sum(parameter.numel() for parameter in base.parameters())
    largest = quantise(base, quantisation) if quantisation is not None else 0
    if gradient_checkpointing:
        base.gradient_checkpointing_enable()
    weights = size_of(resident_tensors(base))
    learner = _with_tasks(base, adapter, tasks, labels)
    steps = Steps(batch_size, length, new_tokens, autocast, device == "cuda")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        learner.to_empty(device="cpu")
        base.tie_weights()
        root = lifelong_of(learner)
        pooled = len(root.conductor.depths) * root.hidden_size
        projection = 4 * pooled * root.features if pooled > root.features else 0
        task = root.knowledge[root.active_adapters[0]].tasks[0]
        open_task(learner, task.kind, task.labels, task.width)
        working = [parameter for parameter in learner.parameters() if parameter.requires_grad]
        gradients = size_of(working)
        states = sum(map(OPTIMIZERS[optimizer], working))
        held = size_of(resident_tensors(learner))
        knowledge = held - weights - gradients
        activations, step = training_pass(learner, steps)
        close_task(learner)
        cache, answer = answering_pass(learner, steps, mode)
    return MemoryEstimate(
        parameters=parameters,
        trainable=sum(parameter.numel() for parameter in working),
        base=weights,
        knowledge=knowledge,
        projection=projection,
        adapter=gradients,
        gradients=gradients,
        optimizer=states,
        activations=activations,
        cache=cache,
        loading=held + largest,
        # Drift noise on the gradients is as large as they are, when the optimiser steps.
        training=held + projection + states + max(step, 2 * gradients),
        answering=size_of(resident_tensors(learner)) + answer,
        settings=settings,
    )


def _base_config(model: Any) -> Any:
    if isinstance(model, PreTrainedModel | PretrainedConfig):
        return copy.deepcopy(getattr(model, "config", model))
    if not isinstance(model, str | os.PathLike):
        raise ValueError(
            f"`model` must be a Hub id, a folder, a configuration or a model, not `{type(model).__name__}`."
        )
    try:
        return AutoConfig.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise ValueError(f"`model` is {str(model)!r}, whose configuration cannot be read: {error}") from error


def _precision(
    bits: int | BitsAndBytesConfig | None, model: Any, config: Any
) -> tuple[torch.dtype, BitsAndBytesConfig | None]:
    """The dtype of what is not quantised, and how the rest is."""
    if bits in (16, 32):
        return (torch.bfloat16 if bits == 16 else torch.float32), None
    if bits == 4:
        bits = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    elif bits == 8:
        bits = BitsAndBytesConfig(load_in_8bit=True)
    if isinstance(bits, BitsAndBytesConfig):
        return torch.bfloat16, bits
    if bits is not None:
        raise ValueError(f"`bits` is {bits!r}; choose one of {list(BITS)}, or give a `BitsAndBytesConfig`.")
    dtype = (model.dtype if isinstance(model, PreTrainedModel) else config.dtype) or torch.float32
    stored = getattr(config, "quantization_config", None)
    if isinstance(stored, dict):
        method = stored.get("quant_method")
        if method != "bitsandbytes":
            raise ValueError(f"`model` is quantised by {method!r}, which cannot be estimated; give `bits`.")
        stored = BitsAndBytesConfig.from_dict(stored)
    return dtype, stored


def _check_length(config: Any, tokens: int) -> None:
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and tokens > most:
        raise ValueError(
            f"`length` (with `new_tokens`, of a language model) asks for {tokens} tokens, but the base reads at most "
            f"{most}."
        )


def _on_meta(config: Any, causal: bool, dtype: torch.dtype, attention: str | None) -> Any:
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    options = {"attn_implementation": attention} if attention is not None else {}
    with torch.device("meta"):
        return (AutoModelForCausalLM if causal else AutoModel).from_config(config, dtype=dtype, **options)


def _with_tasks(base: Any, config: DriftAdapterConfig, tasks: int, labels: int) -> Any:
    """The base with an adapter that knows some tasks, as one that is loaded gets its size."""
    names = tuple(f"label-{i}" for i in range(labels))
    kind, names = ("text-generation", ()) if config.task_type == "CAUSAL_LM" else ("text-classification", names)
    trunk = settle_trunk(config, base)
    learned = [
        LearnedTask(f"task-{i}", kind, names, len(names), config.members, f"task-{i}", examples=1000)
        for i in range(tasks)
    ]
    knowledge = KnowledgeBase(describe_base(base), trunk, signature_depths(trunk), learned)
    config.knowledge = knowledge.to_dict()
    return get_peft_model(base, config)


def _readable(size: int) -> str:
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"
