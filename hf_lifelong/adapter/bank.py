"""Changes to what an adapter keeps: snapshots of the working adapter, new members, forgotten tasks.

Nothing here is called while a wrapped model (DDP, FSDP) is training: stacked tensors change size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from ..knowledge import KnowledgeBase, LearnedTask, Signature
from .checks import check_precision, check_unchecked, dtype_of
from .heads import Lifelong, lifelong_of
from .layers import DriftLayer, DriftTunerLayer
from .sharding import gathered, whole

# Working tensor → the stack that keeps its snapshots.
_STACKS = {
    "drift_A": "drift_bank_A",
    "drift_B": "drift_bank_B",
    "drift_head_weight": "drift_bank_head_weight",
    "drift_head_bias": "drift_bank_head_bias",
}
Snapshot = dict[str, Tensor]


def drift_modules(model: nn.Module) -> Iterator[tuple[str, DriftTunerLayer]]:
    """The active adapter's injected layers and the root, with names that do not depend on how the model is wrapped."""
    adapter = lifelong_of(model).active_adapters[0]
    for name, module in model.named_modules():
        if isinstance(module, DriftTunerLayer) and module.holds(adapter):
            parts = name.split(".")
            yield ".".join(p for p in parts if p not in ("base_model", "model", "module", "_orig_mod")), module


def take_snapshot(model: nn.Module) -> Snapshot:
    """The working adapter and its head, copied to the CPU."""
    adapter = lifelong_of(model).active_adapters[0]
    parts = {
        f"{name}.{working}": getattr(module, working)[adapter]
        for name, module in drift_modules(model)
        for working in module.adapter_layer_names
    }
    with gathered(parts.values()):
        return {name: whole(part.detach()).to("cpu", copy=True) for name, part in parts.items()}


def snapshot_of(model: nn.Module, task: str) -> Snapshot:
    """The newest member of a learned task, as a snapshot."""
    root = lifelong_of(model)
    adapter = root.active_adapters[0]
    knowledge = root.knowledge[adapter]
    member = knowledge.member_offsets[knowledge.index(task) + 1] - 1
    rows = slice(knowledge.head_offsets[member], knowledge.head_offsets[member + 1])
    found = {}
    for name, module in drift_modules(model):
        kept = rows if isinstance(module, Lifelong) else member
        for working in module.adapter_layer_names:
            stack = getattr(module, _STACKS[working])[adapter].detach()
            found[f"{name}.{working}"] = _laid(working, stack[kept])
    return found


def open_task(
    model: nn.Module,
    kind: str,
    labels: tuple[str, ...],
    width: int,
    start_from: str | None = None,
    same_head: bool = False,
) -> None:
    """Makes the working adapter ready for a task: fresh, or equal to the newest member of the task `start_from`, and
    with its head too when `same_head`."""
    root = lifelong_of(model)
    adapter = root.active_adapters[0]
    check_precision(model, adapter)
    check_unchecked(model, adapter)
    knowledge = root.knowledge[adapter]
    if not knowledge.tasks:  # the base may have been cast since it got the adapter
        set_knowledge(model, replace(knowledge, base={**knowledge.base, "dtype": dtype_of(model)}))
    start = snapshot_of(model, start_from) if start_from is not None else {}
    head = (start["lifelong.drift_head_weight"], start["lifelong.drift_head_bias"]) if same_head else None
    root.open(kind, labels, width, head)
    for name, module in drift_modules(model):
        module.set_adapter(adapter)
        module.freeze(adapter)
        if isinstance(module, DriftLayer):
            module.reset(adapter)
            if start:
                with torch.no_grad():
                    module.drift_A[adapter].copy_(start[f"{name}.drift_A"])
                    module.drift_B[adapter].copy_(start[f"{name}.drift_B"])


def close_task(model: nn.Module) -> None:
    """Empties the working adapter, so that nothing of the last task stays outside its members."""
    root = lifelong_of(model)
    for _, module in drift_modules(model):
        module.set_requires_grad(root.active_adapters, False)
        if isinstance(module, DriftLayer):
            module.reset(root.active_adapters[0], closed=True)
    root.close()


def add_task(model: nn.Module, task: LearnedTask, snapshots: list[Snapshot], signature: Signature) -> None:
    """Appends the members, heads and signature of a task; what was there is copied bit by bit, never changed."""
    root = lifelong_of(model)
    adapter = root.active_adapters[0]
    if len(snapshots) != task.members:
        raise ValueError(f"`snapshots` are {len(snapshots)}, but task `{task.name}` states {task.members} members.")
    if len(signature.classes) != task.classes:
        raise ValueError(
            f"`signature` has {len(signature.classes)} class means, but task `{task.name}` states {task.classes}."
        )
    knowledge = root.knowledge[adapter].with_task(task)  # refuses a known name before anything is changed
    for name, module in drift_modules(model):
        for working in module.adapter_layer_names:
            new = [_laid(working, snapshot[f"{name}.{working}"]) for snapshot in snapshots]
            stack = torch.cat(new) if isinstance(module, Lifelong) else torch.stack(new)
            _replace(module, _STACKS[working], adapter, partial(_with, new=stack))
    for part in ("mean", "factor", "diagonal", "classes"):
        rows = getattr(signature, part)
        rows = rows if part == "classes" else rows.unsqueeze(0)
        _replace(root, f"drift_signature_{part}", adapter, partial(_with, new=rows))
    nothing = torch.zeros_like(signature.classes)
    _replace(root, "drift_closed_weight", adapter, partial(_with, new=nothing))
    _replace(root, "drift_closed_bias", adapter, partial(_with, new=nothing[:, 0]))
    set_knowledge(model, knowledge)


def set_closed_form(model: nn.Module, task: str, weight: Tensor, bias: Tensor) -> None:
    """Gives a learned task its closed-form head, `[C, D]` and `[C]`."""
    root = lifelong_of(model)
    adapter = root.active_adapters[0]
    start, end = root.knowledge[adapter].class_offsets[(t := root.knowledge[adapter].index(task)) : t + 2]
    with torch.no_grad():  # counted as a change, unlike one of `.data`: heads that are kept must follow
        root.drift_closed_weight[adapter][start:end] = weight.to(root.where())
        root.drift_closed_bias[adapter][start:end] = bias.to(root.where())


def forget(model: nn.Module, task: str) -> None:
    """Removes a task: its members, heads and signature, and its line in the manifest.

    With `start_from="fresh"` what remains is byte for byte what training without the task would have given; otherwise
    the manifest still names the groups that started from it. Measured scores are dropped, because they were measured
    with the task present: run `trainer.evaluate()` for new ones.

    Raises:
        KeyError: when no task has that name.
    """
    root = lifelong_of(model)
    adapter = root.active_adapters[0]
    check_precision(model, adapter)
    check_unchecked(model, adapter)
    knowledge = root.knowledge[adapter]
    t = knowledge.index(task)
    members = slice(knowledge.member_offsets[t], knowledge.member_offsets[t + 1])
    rows = slice(knowledge.head_offsets[members.start], knowledge.head_offsets[members.stop])
    for _, module in drift_modules(model):
        if isinstance(module, Lifelong):
            for part in ("mean", "factor", "diagonal"):
                _replace(module, f"drift_signature_{part}", adapter, partial(_without, gone=slice(t, t + 1)))
            classes = slice(*knowledge.class_offsets[t : t + 2])
            for container in ("drift_signature_classes", "drift_closed_weight", "drift_closed_bias"):
                _replace(module, container, adapter, partial(_without, gone=classes))
        for working in module.adapter_layer_names:
            gone = rows if isinstance(module, Lifelong) else members
            _replace(module, _STACKS[working], adapter, partial(_without, gone=gone))
    set_knowledge(model, knowledge.without(task))


def _laid(working: str, tensor: Tensor) -> Tensor:
    """A working tensor as it lies in its stack, and the other way round: there `drift_B` is `[r, out]`."""
    return tensor.mT if working == "drift_B" else tensor


def _with(stack: Tensor, new: Tensor) -> Tensor:
    return torch.cat([stack, new.to(stack.device)])


def _without(stack: Tensor, gone: slice) -> Tensor:
    return torch.cat([stack[: gone.start], stack[gone.stop :]])


def _replace(module: nn.Module, container: str, adapter: str, change: Callable[[Tensor], Tensor]) -> None:
    stack = getattr(module, container)
    stack[adapter] = nn.Parameter(change(stack[adapter].detach()), requires_grad=False)


def set_knowledge(model: nn.Module, knowledge: KnowledgeBase) -> None:
    """Makes a manifest the adapter's own: in memory and in the configuration that is saved."""
    root = lifelong_of(model)
    adapter = root.active_adapters[0]
    root.knowledge[adapter] = knowledge
    root.config[adapter].knowledge = knowledge.to_dict()
    root.config[adapter].digest = None  # it was of the tensors of the manifest before
    root.digests.pop(adapter, None)
    root.refresh()
    for _, module in drift_modules(model):
        if isinstance(module, DriftLayer):
            module.kept.clear()  # nothing of a forgotten task stays, nor a bank that was replaced
