"""Export of one group as an ordinary PEFT LoRA folder, or a whole model, which loads without this package."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging

from ..compat import Conv1D
from ..knowledge import KnowledgeBase, LearnedTask
from ..objectives import get_kind
from ..storage import FULL, LOW_RANK, layer_of
from ..utils.files import write_tensors
from ..utils.folders import atomic_folder
from .architectures import Positions, layers_of, positions_of
from .checks import check_held
from .export_readme import HEAD_FILE, reading_note, write_readme
from .export_report import ExportReport, StockForm
from .full_rank import FullLayer
from .heads import Lifelong, lifelong_of
from .low_rank import DriftLayer
from .serving import serving_problems

logger = logging.get_logger(__name__)

# Writes an export into a folder.
Save = Callable[[Path], Any]
FORMATS = {LOW_RANK: "lora", FULL: "model"}


def export(
    model: nn.Module,
    group: int | str,
    folder: str | os.PathLike[str],
    *,
    format: str | None = None,
    member: int | None = None,
    rank: int | None = None,
) -> ExportReport:
    """Exports one group as an ordinary PEFT LoRA folder, or of full members as a model, without `hf_lifelong` in it.

    The members of the group's newest task become one LoRA of rank `members * r`: exactly the mean of their updates.
    The closed-form head of text classification cannot be part of a LoRA and is not exported.
    The folder's `README.md` has the code that loads it and answers:

    - language models: `AutoModelForCausalLM`.
    - token classification and question answering: the stock class, the mean of the members' heads as its head. (Ask
      `PeftModel.get_base_model()`: PEFT's own wrapper for questions drops `token_type_ids`.)
    - text classification and regression: a **token** classification model. The mean of its logits over the attention
      mask gives the logits of the text, or its number in the units of the targets. This package's head is linear on
      the mean of all tokens. No stock sequence classification head is, but mean and linear layer commute.
    - image classification: the stock class, the mean of the members' heads as its head (ViT, DeiT, DINOv2).
    - encoders whose stock head is more than a linear layer (ModernBERT, BEiT): `AutoModel`, with the head in the file
      `head.safetensors` (`weight [W, H]`, `bias [W]`).

    Full members (`r="full"`) have no low rank. The folder then is the whole model in float32, the base with the mean
    of their weights in its layers, and loads with `from_pretrained`.

    Args:
        model (`nn.Module`): A model with a lifelong adapter, however it was loaded. The base may be quantised, because
            its weights are not read.
        group (`int` or `str`): Index of the group, its name, or the name of one of its tasks.
        folder (`str` or `os.PathLike`): Folder to write, which must be empty or not exist. Either all files are
            written or none.
        format (`str`, *optional*): `"lora"`, or `"model"` for full members; by default what the adapter can have.
        member (`int`, *optional*): Export only this member of the newest task (from 0) instead of all of them merged.
        rank (`int`, *optional*): Compress the update of every layer to this rank, by singular value decomposition.
            Not for full members.

    Returns:
        [`ExportReport`], which is also logged. Its `problems` say what keeps vLLM or LoRAX from serving the folder;
        they are also given in one warning.

    Raises:
        KeyError: when there is no such group.
        ValueError: when an argument is out of range, the folder is taken, the adapter is disabled, knows no task or
            holds damaged tensors.
    """
    target = Path(folder)
    if format is not None and format not in FORMATS.values():
        raise ValueError(f"`format` is {format!r}; choose one of {list(FORMATS.values())}.")
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ValueError(f"`folder` is {str(target)!r}, which exists and is not an empty folder; give a new one.")
    root = lifelong_of(model)
    name = root.name
    if name is None or not root.knowledge[name].tasks:
        raise ValueError("The adapter knows no task yet (or is disabled), so there is nothing to export.")
    base: Any = next(m for m in model.modules() if isinstance(m, PreTrainedModel))
    check_held(base, name)
    knowledge, drift = root.knowledge[name], root.config[name]
    only = FORMATS[layer_of(drift.r)]
    if format not in (None, only):
        raise ValueError(f"`format` is {format!r}, but members with `r={drift.r!r}` are exported as {only!r}.")
    index = knowledge.group_index(group)
    position = knowledge.newest[index]
    task = knowledge.tasks[position]
    members = _members(task, member)
    form = stock_form(base.config, task, positions_of(base))
    first = knowledge.member_offsets[position]
    banked = slice(first + members.start, first + members.stop)
    head = _mean_head(root, name, banked, get_kind(task.kind).scaling(task.constants)) if task.width else {}
    on_top = {f"{form.head}.{part}": value for part, value in _in_stock(head, form).items()} if form.head else {}
    save, facts = (_whole if only == "model" else _lora)(base, name, banked, rank, form, on_top, task)
    report = ExportReport(
        folder=target,
        group=knowledge.groups[index],
        task=task.name,
        kind=task.kind,
        labels=task.labels,
        members=tuple(members),
        form=form,
        note=" ".join(filter(None, [reading_note(form, task.kind), _labels_elsewhere(knowledge, index)])),
        **facts,
    )
    readme = write_readme(report, drift.base_model_name_or_path, knowledge.base.get("dtype"))
    with atomic_folder(target) as fresh:
        save(fresh)
        if head and form.head is None:
            write_tensors(fresh / HEAD_FILE, head)
        (fresh / "README.md").write_text(readme, encoding="utf-8")
    logger.info(str(report))
    if report.problems:
        warnings.warn(f"`{target}` loads with PEFT, but: {' '.join(report.problems)}", stacklevel=2)
    return report


def _lora(
    base: Any,
    adapter: str,
    members: slice,
    rank: int | None,
    form: StockForm,
    on_top: dict[str, Tensor],
    task: LearnedTask,
) -> tuple[Save, dict[str, Any]]:
    """A function that writes members as a LoRA into a folder, and what is to be reported of it."""
    drift = lifelong_of(base).config[adapter]
    count = members.stop - members.start
    full_rank = count * int(drift.r)
    _check_rank(rank, full_rank, count)
    layers = {form.prefix + n: m for n, m in base.named_modules() if isinstance(m, DriftLayer) and m.holds(adapter)}
    tensors, layer_errors, error = _updates(layers, adapter, members, rank)
    config = _lora_config(drift, layers, rank or full_rank, form)
    tensors = {f"base_model.model.{key}": tensor for key, tensor in (tensors | on_top).items()}

    def save(folder: Path) -> None:
        config.save_pretrained(str(folder))
        write_tensors(folder / SAFETENSORS_WEIGHTS_NAME, tensors)

    problems = serving_problems(config, base.config.model_type, len(layers_of(base)[1]))
    return save, {"rank": config.r, "error": error, "layer_errors": layer_errors, "problems": problems}


def _whole(
    base: Any,
    adapter: str,
    members: slice,
    rank: int | None,
    form: StockForm,
    on_top: dict[str, Tensor],
    task: LearnedTask,
) -> tuple[Save, dict[str, Any]]:
    """A function that writes the base with the mean of full members as a model into a folder; nothing to report."""
    if rank is not None:
        raise ValueError(f"`rank` is {rank!r}, but full members are exported as a whole model; leave it out.")
    # Tensors of adapters are all called `drift_…`.
    kept = {k.replace(".base_layer.", "."): t for k, t in base.state_dict().items() if "drift_" not in k}
    for name, layer in base.named_modules():
        if isinstance(layer, FullLayer) and layer.holds(adapter):
            kept |= zip((f"{name}.weight", f"{name}.bias"), layer.mean_of(adapter, members), strict=False)
    config = copy.deepcopy(base.config)
    if form.head is not None:
        config.id2label = dict(enumerate(task.labels or [f"LABEL_{i}" for i in range(task.width)]))
        config.label2id = {label: i for i, label in config.id2label.items()}
    stock = getattr(transformers, form.auto_class).from_config(config, dtype=torch.float32)
    state = {form.prefix + name: tensor for name, tensor in kept.items()} | on_top
    missing = stock.load_state_dict(state, strict=False).missing_keys  # a pooler, say, has no place in it
    if missing:
        raise ValueError(
            f"`{type(stock).__name__}` has weights that `{type(base).__name__}` lacks, such as `{missing[0]}`, so the "
            "group cannot be exported as one."
        )
    return stock.save_pretrained, {}


def _members(task: LearnedTask, member: int | None) -> range:
    if member is None:
        return range(task.members)
    if not isinstance(member, int) or isinstance(member, bool) or not 0 <= member < task.members:
        raise ValueError(
            f"`member` is {member!r}, but task `{task.name}` has {task.members} members; choose one from 0 to "
            f"{task.members - 1}, or leave it out to merge all."
        )
    return range(member, member + 1)


def _labels_elsewhere(knowledge: KnowledgeBase, group: int) -> str:
    """Which labels of the answering task a group does not have, because another group learned them (`extends`)."""
    name = knowledge.answers_as(knowledge.tasks[knowledge.newest[group]])
    others = {knowledge.groups[i]: knowledge.tasks[knowledge.newest[i]].labels for i in knowledge.groups_of(name)}
    others.pop(knowledge.groups[group])
    if not others:
        return ""
    listed = ", ".join(f"{', '.join(labels)} (group `{other}`)" for other, labels in others.items())
    return f"Labels of `{name}` that other groups learned are not in it, so it answers such inputs wrongly: {listed}."


def _check_rank(rank: int | None, full_rank: int, members: int) -> None:
    if rank is None or (isinstance(rank, int) and not isinstance(rank, bool) and 1 <= rank <= full_rank):
        return
    raise ValueError(
        f"`rank` is {rank!r}, but the update of {members} members has rank {full_rank}; choose one from 1 to "
        f"{full_rank}, or leave it out for the exact update."
    )


def stock_form(config: Any, task: LearnedTask, positions: Positions | None = None) -> StockForm:
    """The stock model for an exported task: one whose head is a single linear layer, like the adapter's heads.

    Args:
        config (`PreTrainedConfig`): The configuration of the base model.
        task (`LearnedTask`): The task to export. A task without a head (`width` 0) is a language model's.
        positions ([`Positions`], *optional*): Of an image base.
    """
    stock_use = get_kind(task.kind).stock
    if not task.width:
        return StockForm(stock_use.auto_class, stock_use.task_type)
    # Of images, stock heads read the class token, or beside it the mean of the patches.
    share = 1.0 if positions is None else positions.class_share
    if share and type(config) in getattr(transformers, stock_use.mapping):
        auto = getattr(transformers, stock_use.auto_class)
        config = copy.deepcopy(config)
        config.num_labels = task.width
        with torch.device("meta"):
            stock = auto.from_config(config, attn_implementation="eager")
        inner = stock.base_model_prefix
        on_top = {n: m for n, m in stock.named_children() if n != inner and not isinstance(m, nn.Dropout)}
        head, layer = next(iter(on_top.items()))
        shapes = {parameter: tuple(tensor.shape) for parameter, tensor in layer.named_parameters()}
        ours = {"weight": (task.width, config.hidden_size * (2 if share == 0.5 else 1)), "bias": (task.width,)}
        if len(on_top) == 1 and isinstance(layer, nn.Linear) and shapes == ours:
            return StockForm(stock_use.auto_class, stock_use.task_type, f"{inner}.", head, share == 0.5)
    # PEFT's wrapper for feature extraction passes the arguments of texts, which not every image base takes.
    return StockForm("AutoModel", "FEATURE_EXTRACTION" if positions is None else None, positions=positions)


def _in_stock(head: dict[str, Tensor], form: StockForm) -> dict[str, Tensor]:
    """A head as the stock head reads it: the mean of two inputs is half of each, side by side."""
    return {**head, "weight": torch.cat([head["weight"] / 2] * 2, dim=1)} if form.halves else head


def _updates(
    layers: dict[str, DriftLayer], adapter: str, members: slice, rank: int | None
) -> tuple[dict[str, Tensor], dict[str, float], float]:
    """LoRA tensors of all layers, the relative error of each layer, and the overall relative error."""
    tensors, errors = {}, {}
    lost = whole = 0.0
    for name, layer in layers.items():
        banks = (bank[adapter].detach()[members] for bank in (layer.drift_bank_A, layer.drift_bank_B))
        a, b = merged_update(*banks)
        errors[name] = 0.0
        if rank is not None:
            a, b, values = compressed_update(a, b, rank)
            tail, total = float(values[rank:].square().sum()), float(values.square().sum())
            lost, whole = lost + tail, whole + total
            errors[name] = _ratio(tail, total)
        tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = a.float().cpu(), b.float().cpu()
    return tensors, errors, _ratio(lost, whole)


def _ratio(lost: float, whole: float) -> float:
    return (lost / whole) ** 0.5 if whole else 0.0


def merged_update(bank_a: Tensor, bank_b: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of member updates as one low-rank pair.

    Args:
        bank_a (`Tensor`): `[K, r, in]`.
        bank_b (`Tensor`): `[K, r, out]`.

    Returns:
        `A [K·r, in]` and `B [out, K·r]`. `B A` is exactly the mean of the `B_k A_k`, because factors are stacked, not
        averaged.
    """
    return bank_a.flatten(0, 1), (bank_b / len(bank_b)).flatten(0, 1).mT


def compressed_update(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The nearest update of lower rank (in the Frobenius norm), computed without forming `B A`.

    Args:
        a (`Tensor`): `[R, in]`.
        b (`Tensor`): `[out, R]`.
        rank (`int`): Rank to keep, at most R. The factors of a smaller layer are padded with zeros.

    Returns:
        `A [rank, in]`, `B [out, rank]` and all singular values of `B A` (at most R), float64 on the CPU.
    """
    q_b, r_b = torch.linalg.qr(b.to("cpu", torch.float64))
    q_a, r_a = torch.linalg.qr(a.to("cpu", torch.float64).T)
    u, values, v = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    half = values[:rank].sqrt()
    missing = rank - len(half)
    new_a = nn.functional.pad(((q_a @ v[:rank].T) * half).T, (0, 0, 0, missing))
    new_b = nn.functional.pad((q_b @ u[:, :rank]) * half, (0, missing))
    return new_a, new_b, values


def _mean_head(root: Lifelong, adapter: str, members: slice, scaling: tuple[float, float]) -> dict[str, Tensor]:
    """The mean head of members of one task, `weight [W, H]` and `bias [W]`, scaled to the units of its answers."""
    offsets = root.knowledge[adapter].head_offsets
    rows, count = slice(offsets[members.start], offsets[members.stop]), members.stop - members.start
    banks = {"weight": root.drift_bank_head_weight, "bias": root.drift_bank_head_bias}
    factor, summand = scaling
    mean = {name: bank[adapter].detach()[rows].unflatten(0, (count, -1)).mean(0) for name, bank in banks.items()}
    return {"weight": (factor * mean["weight"]).cpu(), "bias": (factor * mean["bias"] + summand).cpu()}


def _lora_config(drift: Any, layers: dict[str, DriftLayer], rank: int, form: StockForm) -> LoraConfig:
    alpha = drift.lora_alpha * rank / drift.r
    config = LoraConfig(
        r=rank,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        bias="none",
        target_modules=list(layers),
        modules_to_save=[form.head] if form.head else None,
        fan_in_fan_out=any(isinstance(layer.get_base_layer(), Conv1D) for layer in layers.values()),
        task_type=form.task_type,
        base_model_name_or_path=drift.base_model_name_or_path,
        revision=drift.revision,
        inference_mode=True,
    )
    config.target_modules = list(layers)  # `LoraConfig` makes it a set, whose order depends on the hash seed
    return config
