"""Models that have learned: members are random tensors, because what is tested is not how they were trained."""

import torch

from hf_lifelong.adapter import lifelong_of
from hf_lifelong.adapter.bank import add_task, close_task, drift_modules, open_task, take_snapshot
from hf_lifelong.knowledge import LearnedTask, fit_signature

TASKS = {
    "films": ("text-classification", ("bad", "good")),
    "news": ("text-classification", ("sports", "world", "business")),
    "answers": ("question-answering", ("start", "end")),
    "names": ("token-classification", ("O", "PER", "LOC", "ORG")),
}
TEXTS = ["a film", "one longer text about the weather in the north", "who?", "it was good and then it was bad again"]


def learn_task(model, name, kind, labels, seed, group=None, members=2, width=None):
    """One task with random members, and a signature around a random centre. Returns its snapshots."""
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
    task = LearnedTask(name, kind, labels, width, members, group or name, 12)
    add_task(model, task, snapshots, fit_signature(features, root.config[root.active_adapters[0]].signature_rank))
    close_task(model)
    return snapshots


LANGUAGE_TASKS = {"films": ("bad", "good"), "news": ("sports", "world", "the weather"), "answers": ()}


def learn_language_task(model, name, labels, seed, members=2):
    """A task of a language model: as `learn_task`, without a head."""
    root = lifelong_of(model)
    snapshots = learn_task(model, name, "text-generation", labels, seed, members=members, width=0)
    assert root.drift_bank_head_weight["default"].shape[0] == 0
    return snapshots


def answers_equal(a, b, tolerance=0.0):
    """Whether two answers of `predict` are the same."""
    assert torch.equal(a.group, b.group)
    assert torch.equal(a.task, b.task)
    for key in ("scores", "uncertainty", "margin"):
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=tolerance)


def tensors_of(model, adapter="default"):
    """Every tensor of an adapter, by a name that does not depend on how the model was loaded."""
    return {
        f"{name}.{container}": getattr(module, container)[adapter].detach().clone()
        for name, module in drift_modules(model)
        for container in module.tensors
    }


def same_tensors(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype == torch.float32, key
        assert torch.equal(a[key], b[key]), key
