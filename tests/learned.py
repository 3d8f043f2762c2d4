"""Models that have learned: members are random tensors, because what is tested is not how they were trained."""

import torch

from hf_lifelong.adapter import lifelong_of
from hf_lifelong.adapter.bank import add_task, close_task, drift_modules, open_task, take_snapshot
from hf_lifelong.knowledge import LearnedTask, fit_signature

TEXTS = ["a film", "one longer text about the weather in the north", "who?", "it was good and then it was bad again"]


def learn_task(
    model, name, kind, labels, seed, group=None, members=2, width=None, signature=None, values=None, **noted
):
    """One task with random members, and a signature around a random centre where none is given; `values` are stored
    with it, and `noted` goes into the manifest. Returns its snapshots."""
    root = lifelong_of(model)
    width = len(labels) if width is None else width
    open_task(model, kind, labels, width)
    generator = torch.Generator().manual_seed(seed)
    snapshots = []
    for _ in range(members):
        for _, module in drift_modules(model):
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        snapshots.append(take_snapshot(model))
    features = torch.randn(12, root.features, generator=generator) + torch.randn(root.features, generator=generator)
    if signature is None:
        signature = fit_signature(features, root.config[root.active_adapters[0]].signature_rank)
    task = LearnedTask(name, kind, labels, width, members, group or name, 12, **noted)
    add_task(model, task, snapshots, signature, values)
    close_task(model)
    return snapshots
