"""Estimates the memory of a model with a lifelong adapter: weights, one training step, one answer."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from peft import get_peft_model, prepare_model_for_kbit_training
from torch import Tensor
from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel

from ..adapter import (
    DriftAdapterConfig,
    depths_of,
    describe_base,
    knowledge_of,
    lifelong_of,
    modality_of,
    open_task,
    pooling_of,
    settle_trunk,
)
from ..knowledge import KnowledgeBase, LearnedTask
from ..objectives import kinds_on
from ..storage import ROOT, TENSORS
from .bases import read_base
from .optimizers import OPTIMIZERS
from .quantised import count_weights, largest_layer
from .tracing import Steps, answering_pass, resident_tensors, size_of, training_pass

ATTENTIONS, DEVICES = ("sdpa", "eager"), ("cuda", "cpu")


@dataclass(frozen=True)
class MemoryEstimate:
    """The result of [`estimate_memory`], in bytes of tensors on the device.

    The estimate does not include:

    - the allocator's rounding and cache, workspaces of matrix libraries, and the CUDA context (a few hundred MiB that
      `torch.cuda.max_memory_allocated` does not count either);
    - snapshots of the task being learned, which are in CPU memory;
    - what a language model keeps between batches: the merged factors of up to three further mixtures of groups.

    Args:
        parameters (`int`): Number of weights of the base.
        trainable (`int`): Number of weights that are trained.
        base (`int`): Weights of the base, including the constants of quantised weights.
        upcast (`int`): Additional memory of a quantised base in training, because weights that are not quantised are
            in float32.
        knowledge (`int`): Members, heads and signatures of the learned tasks, as in the adapter's file.
        projection (`int`): The projection of wide hidden states to features; 0 if they are not wide.
        adapter (`int`): The working adapter and its head.
        gradients (`int`): Gradients of the working adapter.
        optimizer (`int`): State of the optimiser.
        activations (`int`): Tensors that the forward pass of a training step keeps for its backward pass.
        cache (`int`): Keys and values at the end of an answer; 0 without a language model.
        loading (`int`): Peak while base and adapter are loaded: both, and the largest layer before it is quantised.
        training (`int`): Peak of a training step of one more task.
        answering (`int`): Peak while a batch is answered.
        settings (`dict`): The settings of the estimate.
    """

    parameters: int
    trainable: int
    base: int
    upcast: int
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
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        return asdict(self)

    def table(self) -> str:
        """The estimate as lines of text, in MiB or GiB."""
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.items() if value is not None)
        sizes = {
            f"base ({self.parameters:,} weights)": self.base,
            "the rest of it in float32": self.upcast,
            "known tasks": self.knowledge,
            "projection of features": self.projection,
            f"working adapter ({self.trainable:,} weights)": self.adapter,
            "its gradients": self.gradients,
            "optimiser": self.optimizer,
            "kept for the backward pass": self.activations,
            "cache of an answer": self.cache,
        }
        peaks = {"loading": self.loading, "training": self.training, "answering": self.answering}
        lines = [*sizes.items(), *((f"PEAK, {name}", size) for name, size in peaks.items())]
        width = max(len(name) for name, _ in lines)
        return "\n".join([settings, *(f"{name:<{width}}  {_readable(size):>12}" for name, size in lines if size)])

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
    prepared: bool = True,
    attention: str | None = None,
    device: str = "cuda",
) -> MemoryEstimate:
    """Estimates the memory of a base, its lifelong adapter, one training step and one answer, and allocates nothing.

    The model is built from its configuration alone. One training step and one answer run on tensors that have shapes
    but no memory, with the adapter's own layers and hooks, and the tensors that live at the same time are counted. The
    estimate assumes padded rows and, in answering, rows from as many groups as possible.

    Layers in 4 and 8 bits cannot run without memory. They are replaced by layers that store the same bytes and create
    the same tensors (4 bits: the whole weight of one layer at a time; 8 bits: the quantised input).

    Args:
        model (`str`, path, `PretrainedConfig` or `PreTrainedModel`):
            The base: a Hub id or folder (only its `config.json` is read), a configuration, or a model, whose
            configuration and dtype are used.
        config ([`DriftAdapterConfig`], *optional*):
            The adapter; a language model needs `task_type="CAUSAL_LM"`. Tasks that it already knows are ignored:
            `tasks` counts instead. With `resident_groups`, only the members of that many groups are counted.
        bits (`int` or `BitsAndBytesConfig`, *optional*):
            Bits per weight of the base: 32 (float32), 16 (bfloat16 or float16), 8 or 4 (bitsandbytes, NF4; weights
            that are not quantised are in bfloat16). `None` uses the base's configuration.
        tasks (`int`, *optional*, defaults to `1`):
            Number of tasks that the adapter knows while it answers and while it learns one more.
        labels (`int`, *optional*, defaults to `2`):
            Labels of each task (classification); the tasks of a language model have no heads.
        batch_size (`int`, *optional*, defaults to `8`):
            Rows of a batch, in training and in answering.
        length (`int`, *optional*):
            Tokens of a row, and of a language model's prompt in answering; of a base that takes images, pixels along
            a side. `None` uses `max_length` of `config`, or the base's `image_size`.
        new_tokens (`int`, *optional*):
            Tokens that a language model answers with. `None` uses `max_new_tokens` of `config`.
        optimizer (`str`, *optional*, defaults to `"adamw_torch_fused"`):
            `optim` of the training arguments. The state of a paged optimiser is counted, though it may leave the GPU.
        gradient_checkpointing (`bool`, *optional*, defaults to `False`):
            As in the training arguments.
        autocast (`bool`, *optional*, defaults to `False`):
            Whether training runs under autocast to bfloat16 (`bf16=True` in the training arguments).
        prepared (`bool`, *optional*, defaults to `True`):
            Whether a base in 4 or 8 bits is trained after `peft.prepare_model_for_kbit_training`, which casts the
            weights that are not quantised to float32. It answers in the dtype in which it was loaded.
        attention (`str`, *optional*):
            `"sdpa"` or `"eager"`; `None` uses the default of transformers.
        device (`str`, *optional*, defaults to `"cuda"`):
            The device whose kernels are assumed, `"cuda"` or `"cpu"`. Kernels of the CPU keep more tensors with
            dropout, and need more memory at a language model's head in half precision. The device need not be present.

    Raises:
        ValueError: names the argument that cannot be used.
    """
    adapter = _copied_config(config)
    resident, adapter.resident_groups = adapter.resident_groups, None
    causal = adapter.task_type == "CAUSAL_LM"
    source = read_base(model, bits)
    channels, side = source.image
    length = (side or adapter.max_length) if length is None else length
    new_tokens = adapter.max_new_tokens if new_tokens is None else new_tokens
    settings = {
        "r": adapter.r,
        "members": adapter.members,
        "tasks": tasks,
        "resident_groups": resident,
        "batch_size": batch_size,
        "length": length,
        **({"new_tokens": new_tokens} if causal else {"labels": labels}),
        "optimizer": optimizer,
        "gradient_checkpointing": gradient_checkpointing,
        "autocast": autocast,
        "prepared": prepared,
        "attention": attention,
        "device": device,
    }
    _check(settings)
    source.check_length(length + new_tokens if causal else length)
    steps = Steps(batch_size, length, new_tokens, autocast, device == "cuda", channels)
    resting = 1 - min(resident or tasks, tasks) / tasks
    answering = _answering(source.on_meta(causal, attention), adapter, tasks, labels, steps, resting)
    base = source.on_meta(causal, attention)
    if prepared and source.quantisation is not None:
        prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    upcast = size_of(resident_tensors(base)) - answering["base"]
    learner = _with_tasks(base, adapter, tasks, labels)
    if gradient_checkpointing:  # as `Trainer` does: on the model with its adapter
        learner.gradient_checkpointing_enable()
    training = _training(learner, steps, OPTIMIZERS[optimizer], resting)
    settings = {"model": source.name, "weights": source.precision, **settings}
    return MemoryEstimate(**answering, **training, upcast=upcast, settings=settings)


def _answering(
    base: Any, config: DriftAdapterConfig, tasks: int, labels: int, steps: Steps, resting: float
) -> dict[str, int]:
    """Entries of [`MemoryEstimate`] for a model that is loaded to answer, with a share `resting` of its members off
    the device."""
    weights, parameters, largest = size_of(resident_tensors(base)), count_weights(base), largest_layer(base)
    model = _with_tasks(base, config, tasks, labels)
    held, working = size_of(resident_tensors(model)), _size_of_layers(model, trained=True)
    held -= round(resting * _banks(model))
    cache, peak = answering_pass(model, steps)
    return {
        "parameters": parameters,
        "base": weights,
        "knowledge": held - weights - working,
        "cache": cache,
        "loading": held + largest,
        "answering": held + peak,
    }


def _training(model: Any, steps: Steps, optimizer: Callable[[Tensor], int], resting: float) -> dict[str, int]:
    """Entries of [`MemoryEstimate`] for a model that learns one more task."""
    task = knowledge_of(model).tasks[0]
    open_task(model, task.kind, task.labels, task.width)
    root, working = lifelong_of(model), [p for p in model.parameters() if p.requires_grad]
    gradients, states = size_of(working), sum(map(optimizer, working))
    pooled = knowledge_of(model).pooled_width(root.hidden_size)
    projection = 4 * pooled * root.features if pooled > root.features else 0
    resident = size_of(resident_tensors(model)) - round(resting * _banks(model)) + projection + states
    activations, peak = training_pass(model, steps)
    return {
        "trainable": sum(p.numel() for p in working),
        "projection": projection,
        "adapter": gradients,
        "gradients": gradients,
        "optimizer": states,
        "activations": activations,
        # Noise of the size of the gradients is added to them when they are all that is left of the step.
        "training": resident + max(peak, 2 * gradients),
    }


def _banks(model: Any) -> int:
    """Bytes of all members without their heads."""
    return _size_of_layers(model, trained=False)


def _size_of_layers(model: Any, trained: bool) -> int:
    """Bytes of the injected layers' tensors: those of the working adapter if `trained`, otherwise of all members."""
    names = {spec.name for spec in TENSORS if spec.where != ROOT and (spec.per is None) == trained}
    return size_of(p for name, p in model.named_parameters() if names.intersection(name.split(".")))


def _copied_config(config: Any) -> DriftAdapterConfig:
    if config is None:
        return DriftAdapterConfig()
    if not isinstance(config, DriftAdapterConfig):
        raise ValueError(f"`config` must be a `DriftAdapterConfig`, not `{type(config).__name__}`.")
    return copy.deepcopy(config)


def _check(settings: dict[str, Any]) -> None:
    for name, least in (("tasks", 1), ("batch_size", 1), ("length", 1), ("new_tokens", 1), ("labels", 2)):
        size = settings.get(name, least)
        if not isinstance(size, int) or isinstance(size, bool) or size < least:
            raise ValueError(f"`{name}` is {size!r}; it must be an integer of at least {least}.")
    for name, choices in (
        ("optimizer", tuple(OPTIMIZERS)),
        ("attention", (None, *ATTENTIONS)),
        ("device", DEVICES),
    ):
        if settings[name] not in choices:
            raise ValueError(f"`{name}` is {settings[name]!r}; choose one of {list(choices)}.")


def _with_tasks(base: Any, config: DriftAdapterConfig, tasks: int, labels: int) -> Any:
    """The base with an adapter that knows some tasks. Like a loaded adapter, it gets its sizes from the manifest."""
    causal = config.task_type == "CAUSAL_LM"
    kind = kinds_on(config.task_type, modality_of(base).name)[0]
    names = () if causal else tuple(f"label-{i}" for i in range(labels))
    config = copy.deepcopy(config)
    trunk = settle_trunk(config, base)
    learned = [
        LearnedTask(
            f"task-{i}",
            kind,
            names,
            len(names),
            config.members,
            f"task-{i}",
            examples=1000,
            classes=max(1, len(names)),
        )
        for i in range(tasks)
    ]
    knowledge = KnowledgeBase(
        describe_base(base), trunk, depths_of(base, trunk), learned, pooling=pooling_of(base, trunk)
    )
    config.knowledge = knowledge.to_dict()
    model = get_peft_model(base, config)
    lifelong_of(model).unchecked.clear()  # nothing here has values that could be wrong
    return model


def _readable(size: int) -> str:
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.1f} MiB"
