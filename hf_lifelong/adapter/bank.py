"""Changes to what an adapter keeps: snapshots of the working adapter, new members, forgotten tasks.

Nothing here is called while a wrapped model (DDP, FSDP) is training: stacked tensors change size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from ..knowledge import KnowledgeBase, LearnedTask, Signature
from ..storage import TensorSpec, part_of_task, sizes_of
from .checks import check_precision, check_unchecked, dtype_of
from .heads import lifelong_of
from .layers import DriftLayer, DriftTunerLayer
from .sharding import gathered, whole

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
    t = knowledge.index(task)
    members = knowledge.tasks[t].members
    found = {}
    for name, module in drift_modules(model):
        for spec in module.specs:
            if spec.keeps is None:
                continue
            stack = module.held(adapter)[spec.name].detach()[part_of_task(spec, knowledge, t)]
            newest = stack.unflatten(0, (members, -1))[-1] if len(stack) else stack
            found[f"{name}.{spec.keeps}"] = spec.laid(newest.squeeze(0) if spec.per == "members" else newest)
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


def add_task(
    model: nn.Module,
    task: LearnedTask,
    snapshots: list[Snapshot],
    signature: Signature,
    values: Mapping[str, Tensor] | None = None,
) -> None:
    """Appends what is a task's own to every stack; what was there is copied bit by bit, never changed.

    Args:
        values (`Mapping[str, Tensor]`, *optional*): What else is kept of it, by the names of the root's tensors; zero
            where it is not given.

    Raises:
        ValueError: when the name is known, or a number of members, classes or other units differs from `task`'s.
    """
    root = lifelong_of(model)
    adapter = root.active_adapters[0]
    if len(snapshots) != task.members:
        raise ValueError(f"`snapshots` are {len(snapshots)}, but task `{task.name}` states {task.members} members.")
    if len(signature.classes) != task.classes:
        raise ValueError(
            f"`signature` has {len(signature.classes)} class means, but task `{task.name}` states {task.classes}."
        )
    before = root.knowledge[adapter]
    knowledge = before.with_task(task)  # refuses a known name before anything is changed
    given = {f"drift_signature_{part.name}": getattr(signature, part.name) for part in fields(Signature)}
    given |= values or {}
    end, own = sizes_of(before), {**root.settled(adapter), **sizes_of(replace(before, tasks=[task]))}
    for name, module in drift_modules(model):
        for spec in module.specs:
            if spec.per is None:
                continue
            if spec.keeps is not None:
                working = [spec.laid(snapshot[f"{name}.{spec.keeps}"]) for snapshot in snapshots]
                new = torch.cat([spec.stacked(part) for part in working])
            elif spec.name in given:
                new = spec.stacked(given[spec.name])
            else:
                new = torch.zeros(spec.shape({**own, **module.sizes}), dtype=spec.torch_dtype)
            put(module, spec, adapter, slice(end[spec.per], end[spec.per]), new)
    set_knowledge(model, knowledge)


def set_closed_form(model: nn.Module, task: str, weight: Tensor, bias: Tensor) -> None:
    """Gives a learned task its closed-form head, `[C, D]` and `[C]`."""
    root = lifelong_of(model)
    adapter = root.active_adapters[0]
    knowledge = root.knowledge[adapter]
    values = {"drift_closed_weight": weight, "drift_closed_bias": bias}
    for spec in root.specs:
        if spec.name in values:
            own = part_of_task(spec, knowledge, knowledge.index(task))
            put(root, spec, adapter, own, values[spec.name])


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
    for _, module in drift_modules(model):
        for spec in module.specs:
            if spec.per is not None:
                put(module, spec, adapter, part_of_task(spec, knowledge, t))
    set_knowledge(model, knowledge.without(task))


def put(module: DriftTunerLayer, spec: TensorSpec, adapter: str, own: slice, new: Tensor | None = None) -> None:
    """Puts something in the place of a part of a stack, or nothing."""
    bank, device = getattr(module, spec.name), module.where()
    stack = bank[adapter].detach() if adapter in bank else torch.empty(0, dtype=spec.torch_dtype, device=device)
    parts = [stack[: own.start], *([] if new is None else [new.to(stack.device)]), stack[own.stop :]]
    changed = torch.cat([part for part in parts if len(part)] or parts[:1])
    if len(changed) or not spec.optional:
        bank[adapter] = nn.Parameter(changed, requires_grad=False)
    elif adapter in bank:
        del bank[adapter]


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
