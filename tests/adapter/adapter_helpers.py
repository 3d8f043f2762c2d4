"""Tasks that a tiny model has learned, and what its answers and tensors are compared by."""

import torch
from learned import learn_task

from hf_lifelong.adapter import lifelong_of
from hf_lifelong.adapter.bank import drift_modules

TASKS = {
    "films": ("text-classification", ("bad", "good")),
    "news": ("text-classification", ("sports", "world", "business")),
    "answers": ("question-answering", ("start", "end")),
    "names": ("token-classification", ("O", "PER", "LOC", "ORG")),
}
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
        f"{name}.{container}": tensor.detach().clone()
        for name, module in drift_modules(model)
        for container, tensor in module.held(adapter).items()
    }


def same_tensors(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert a[key].dtype == b[key].dtype == torch.float32, key
        assert torch.equal(a[key], b[key]), key
