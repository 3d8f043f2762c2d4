"""Models that have learned, on a local Hub; members are random tensors, because what is tested is not training."""

from dataclasses import replace

import pytest
import torch
from hub_server import hub  # noqa: F401
from peft import get_peft_model
from transformers import AutoModel

from hf_lifelong import AccuracyMatrix, DriftAdapterConfig, knowledge_of, predict
from hf_lifelong.adapter import lifelong_of
from hf_lifelong.adapter.bank import add_task, close_task, drift_modules, open_task, set_knowledge, take_snapshot
from hf_lifelong.knowledge import LearnedTask, fit_signature

REPO = "me/learner"
TEXTS = ["a film", "one longer text about the weather in the north", "who?", "it was good and then it was bad again"]


def learn(model, name, labels=("bad", "good"), seed=0, started_from=None):
    """A task with random members and signature, and a row in the accuracy matrix."""
    root = lifelong_of(model)
    config = root.config["default"]
    kind = "text-generation" if config.task_type == "CAUSAL_LM" else "text-classification"
    width = 0 if config.task_type == "CAUSAL_LM" else len(labels)
    open_task(model, kind, labels, width)
    generator = torch.Generator().manual_seed(seed)
    snapshots = []
    for _ in range(2):
        for _, module in drift_modules(model):
            for parameter in module.parameters():
                if parameter.requires_grad:
                    parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        snapshots.append(take_snapshot(model))
    features = torch.randn(12, root.features, generator=generator) + torch.randn(root.features, generator=generator)
    task = LearnedTask(name, kind, labels, width, 2, name, 12, score=0.5 + seed / 100, started_from=started_from)
    add_task(model, task, snapshots, fit_signature(features, config.signature_rank))
    close_task(model)
    knowledge = knowledge_of(model)
    matrix = AccuracyMatrix.from_dict(knowledge.scores) if knowledge.scores else AccuracyMatrix()
    matrix.add(name, "accuracy", 0.5, dict.fromkeys(knowledge.names, 0.9 - seed / 100))
    set_knowledge(model, replace(knowledge, scores=matrix.to_dict()))
    return model.eval()


@pytest.fixture
def base(hub, tiny_folder):  # noqa: F811
    """Name of a tiny encoder on the Hub."""
    hub.write_folder("other/tiny-bert", tiny_folder("bert"))
    return "other/tiny-bert"


@pytest.fixture
def make(base):
    """`make(*tasks)`: the tiny encoder of the Hub with an adapter that knows these tasks."""

    def build(*tasks, seed=0):
        model = get_peft_model(
            AutoModel.from_pretrained(base, dtype=torch.float32),
            DriftAdapterConfig(r=2, members=2, signature_rank=4),
        )
        for i, name in enumerate(tasks):
            learn(model, name, seed=seed + i)
        return model.eval()

    return build


def encode(tokenizer):
    encoded = tokenizer(TEXTS, return_tensors="pt", padding=True)
    return {key: encoded[key] for key in ("input_ids", "attention_mask")}


def answers(model, batch):
    found = predict(model, batch)
    return {key: found[key] for key in ("group", "task", "scores", "uncertainty", "margin")}


def same(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
