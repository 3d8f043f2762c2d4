"""Models that have learned, on a local Hub; members are random tensors, because what is tested is not training."""

from dataclasses import replace

import pytest
import torch
from hub_server import hub  # noqa: F401
from learned import TEXTS, learn_task
from peft import get_peft_model
from transformers import AutoModel

from hf_lifelong import AccuracyMatrix, DriftAdapterConfig, knowledge_of, predict
from hf_lifelong.adapter.bank import set_knowledge
from hf_lifelong.adapter.heads import active_config

REPO = "me/learner"


def learn(model, name, labels=("bad", "good"), seed=0, started_from=None):
    """A task with random members and signature, and a row in the accuracy matrix."""
    generates = active_config(model).task_type == "CAUSAL_LM"
    kind = "text-generation" if generates else "text-classification"
    noted = {"score": 0.5 + seed / 100, "started_from": started_from}
    learn_task(model, name, kind, labels, seed, width=0 if generates else None, **noted)
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
