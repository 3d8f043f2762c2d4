"""Changes to an adapter's stored tensors: snapshots of the working adapter, new members, forgotten tasks.

Stacked tensors change size here, so nothing here may be called while a wrapped model (DDP, FSDP) is training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace

import torch
from torch import Tensor, nn

from ..knowledge import KnowledgeBase, LearnedTask, Signature
from ..storage import TensorSpec, part_of_task, sizes_of
from .checks import check_precision, check_unchecked, dtype_of
from .heads import active_adapter, lifelong_of
from .layers import DriftTunerLayer, MemberKind
from .sharding import gathered, whole

Snapshot = dict[str, Tensor]


def drift_modules(model: nn.Module) -> Iterator[tuple[str, DriftTunerLayer]]:
    """The root and the injected layers of the active adapter. Their names do not depend on how the model is
    wrapped."""
    adapter = lifelong_of(model).active_adapters[0]
    for name, module in model.named_modules():
        if isinstance(module, DriftTunerLayer) and module.holds(adapter):
            path = name.split(".")
            yield ".".join(p for p in path if p not in ("base_model", "model", "module", "_orig_mod")), module


def take_snapshot(model: nn.Module) -> Snapshot:
    """The working adapter and its head, copied to the CPU."""
    adapter = lifelong_of(model).active_adapters[0]
    working = {
        f"{name}.{container}": getattr(module, container)[adapter]
        for name, module in drift_modules(model)
        for container in module.adapter_layer_names
    }
    with gathered(working.values()):
        return {name: whole(tensor.detach()).to("cpu", copy=True) for name, tensor in working.items()}


def snapshot_of(model: nn.Module, task: str) -> Snapshot:
    """The newest member of a learned task, as a snapshot."""
    root = lifelong_of(model)
    adapter = root.active_adapters[0]
    knowledge = root.knowledge[adapter]
    t = knowledge.index(task)
    members = knowledge.tasks[t].members
    snapshot = {}
    for name, module in drift_modules(model):
        for spec in module.specs:
            if spec.keeps is None:
                continue
            stack = module.held(adapter)[spec.name].detach()[part_of_task(spec, knowledge, t)]
            newest = stack.unflatten(0, (members, -1))[-1] if len(stack) else stack
            snapshot[f"{name}.{spec.keeps}"] = spec.laid(newest.squeeze(0) if spec.per == "members" else newest)
    return snapshot


def open_task(
    model: nn.Module,
    kind: str,
    labels: tuple[str, ...],
    width: int,
    start_from: str | None = None,
    same_head: bool = False,
) -> None:
    """Prepares the working adapter for a task. It starts fresh, or as a copy of the newest member of the task
    `start_from`, with `same_head` including its head."""
    root = lifelong_of(model)
    adapter = root.active_adapters[0]
    check_precision(model, adapter)
    check_unchecked(model, adapter)
    knowledge = root.knowledge[adapter]
    if not knowledge.tasks:  # the base may have been cast after the adapter was added
        set_knowledge(model, replace(knowledge, base={**knowledge.base, "dtype": dtype_of(model)}))
    start = snapshot_of(model, start_from) if start_from is not None else {}
    head = (start["lifelong.drift_head_weight"], start["lifelong.drift_head_bias"]) if same_head else None
    root.open(kind, labels, width, head)
    for name, module in drift_modules(model):
        module.set_adapter(adapter)
        module.freeze(adapter)
        if isinstance(module, MemberKind):
            module.reset(adapter)
            if start:
                with torch.no_grad():
                    for container in module.adapter_layer_names:
                        getattr(module, container)[adapter].copy_(start[f"{name}.{container}"])


def close_task(model: nn.Module) -> None:
    """Empties the working adapter, so that nothing of the last task remains outside its members."""
    root = lifelong_of(model)
    for _, module in drift_modules(model):
        module.set_requires_grad(root.active_adapters, False)
        if isinstance(module, MemberKind):
            module.reset(root.active_adapters[0], closed=True)
    root.close()


def add_task(
    model: nn.Module,
    task: LearnedTask,
    snapshots: list[Snapshot],
    signature: Signature,
    values: Mapping[str, Tensor] | None = None,
) -> None:
    """Appends a task's tensors to every stack. Earlier tasks' tensors are copied bit by bit and never changed.

    Args:
        values (`Mapping[str, Tensor]`, *optional*): Other tensors of the task, by the names of the root's tensors.
            Those that are missing are zero.

    Raises:
        ValueError: when a task of that name exists, or the number of members or classes differs from `task`'s.
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
    knowledge = before.with_task(task)  # refuses a name that exists before anything is changed
    root_tensors = {f"drift_signature_{field.name}": getattr(signature, field.name) for field in fields(Signature)}
    root_tensors |= values or {}
    end, task_sizes = sizes_of(before), {**root.settled(adapter), **sizes_of(replace(before, tasks=[task]))}
    for name, module in drift_modules(model):
        for spec in module.specs:
            if spec.per is None:
                continue
            if spec.keeps is not None:
                members = [spec.laid(snapshot[f"{name}.{spec.keeps}"]) for snapshot in snapshots]
                new = torch.cat([spec.stacked(member) for member in members])
            elif spec.name in root_tensors:
                new = spec.stacked(root_tensors[spec.name])
            else:
                new = torch.zeros(spec.shape({**task_sizes, **module.sizes}), dtype=spec.torch_dtype)
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
            put(root, spec, adapter, part_of_task(spec, knowledge, knowledge.index(task)), values[spec.name])


def tensors_after(model: nn.Module, tasks: int) -> dict[str, Tensor]:
    """Copies of everything that is stored for the tasks after the first `tasks`, on the CPU, by module and tensor."""
    adapter = active_adapter(model)
    knowledge = lifelong_of(model).knowledge[adapter]
    begin = sizes_of(replace(knowledge, tasks=knowledge.tasks[:tasks]))
    after: dict[str, Tensor] = {}
    if not knowledge.tasks[tasks:]:
        return after
    for name, module in drift_modules(model):
        for spec in module.specs:
            stack = module.held(adapter).get(spec.name)
            if spec.per is not None and stack is not None:
                units = stack.detach()[begin[spec.per] :]
                if len(units) or not spec.optional:
                    after[f"{name}.{spec.name}"] = units.to("cpu", copy=True)
    return after


def set_tasks_after(model: nn.Module, tasks: int, knowledge: KnowledgeBase, tensors: Mapping[str, Tensor]) -> None:
    """Replaces the tasks after the first `tasks` by those of another adapter on the same base.

    Args:
        knowledge ([`KnowledgeBase`]): The manifest afterwards; its first `tasks` tasks are those that stay.
        tensors (`Mapping[str, Tensor]`): As [`tensors_after`] gives them for that adapter; none where no task follows.

    Raises:
        ValueError: when the tasks that stay differ, or a tensor has another name, dtype or shape than the manifest
            states; then nothing is changed.
    """
    root = lifelong_of(model)
    adapter = root.active_adapters[0]
    held = root.knowledge[adapter]
    if [task.name for task in held.tasks[:tasks]] != [task.name for task in knowledge.tasks[:tasks]]:
        raise ValueError(f"`knowledge` begins with {knowledge.names[:tasks]}, the model with {held.names[:tasks]}.")
    begin, end = sizes_of(replace(held, tasks=held.tasks[:tasks])), sizes_of(held)
    sizes = {**root.settled(adapter), **sizes_of(replace(knowledge, tasks=knowledge.tasks[tasks:]))}
    stacks = {
        f"{name}.{spec.name}": (module, spec, slice(begin[spec.per], end[spec.per]))
        for name, module in drift_modules(model)
        for spec in module.specs
        if spec.per is not None
    }
    expected = {
        name: (spec.shape({**sizes, **module.sizes}), spec.torch_dtype)
        for name, (module, spec, _) in stacks.items()
        if knowledge.tasks[tasks:] and not spec.is_absent(sizes)
    }
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            raise ValueError(f"`tensors` has {found.get(name)} as `{name}`, but it must be {expected.get(name)}.")
    for name, (module, spec, units) in stacks.items():
        put(module, spec, adapter, units, tensors.get(name))
    set_knowledge(model, knowledge)


def forget(model: nn.Module, task: str) -> None:
    """Removes a task: its members, heads and signature, and its entry in the manifest.

    With `start_from="fresh"`, the remaining bytes are exactly those that training without the task would have given.
    Otherwise the manifest still names the task where the training of another started from it. Scores are dropped,
    because they were measured while the task was present; run `trainer.evaluate()` for new ones.

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


def put(module: DriftTunerLayer, spec: TensorSpec, adapter: str, units: slice, new: Tensor | None = None) -> None:
    """Replaces a slice of a stack by `new`, or removes it."""
    bank, device = getattr(module, spec.name), module.where()
    stack = bank[adapter].detach() if adapter in bank else torch.empty(0, dtype=spec.torch_dtype, device=device)
    slices = [stack[: units.start], *([] if new is None else [new.to(stack.device)]), stack[units.stop :]]
    changed = torch.cat([rows for rows in slices if len(rows)] or slices[:1])
    if len(changed) or not spec.optional:
        bank[adapter] = nn.Parameter(changed, requires_grad=False)
    elif adapter in bank:
        del bank[adapter]


def set_knowledge(model: nn.Module, knowledge: KnowledgeBase) -> None:
    """Sets the adapter's manifest, in memory and in the configuration that is saved."""
    root = lifelong_of(model)
    adapter = root.active_adapters[0]
    root.knowledge[adapter] = knowledge
    root.config[adapter].knowledge = knowledge.to_dict()
    root.config[adapter].digest = None  # a digest belongs to the tensors of one manifest
    root.digests.pop(adapter, None)
    root.refresh()
    for _, module in drift_modules(model):
        if isinstance(module, MemberKind):
            module.mixtures.clear()  # may hold factors of a forgotten task or of a replaced bank
