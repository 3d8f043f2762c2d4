"""Adapters of many groups with random members, for measuring time and memory: nothing of them was trained."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel

from hf_lifelong.adapter import drift_modules, knowledge_of, lifelong_of, set_knowledge
from hf_lifelong.knowledge import LearnedTask

LABELS = ("no", "yes")
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2-small": {"model_type": "gpt2"},
    "llama-1b": {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
    },
}


def make_base(name: str) -> Any:
    """A base of one of `SHAPES` with random weights, or the model `name`."""
    torch.manual_seed(0)
    if name not in SHAPES:
        return AutoModel.from_pretrained(name, dtype=torch.float32)
    shape = copy.deepcopy(SHAPES[name])
    return AutoModel.from_config(AutoConfig.for_model(shape.pop("model_type"), **shape)).float()


def twin(base: nn.Module) -> Any:
    """A copy of a base that shares its weights."""
    return copy.deepcopy(base, memo={id(p): p for p in (*base.parameters(), *base.buffers())})


def fill(model: Any, means: Tensor, diagonal: Tensor) -> None:
    """Gives a fresh adapter random members, heads and signatures, one group for each row of `means [groups, D]`.

    Args:
        diagonal (`Tensor`): `[D]`, the variance of each signature, which has no other directions.
    """
    root, knowledge = lifelong_of(model), knowledge_of(model)
    config, name, device = root.config["default"], "default", root.where()
    groups, features = means.shape
    members = groups * config.members
    means, diagonal = means.to(device), diagonal.to(device)

    def put(module: nn.Module, container: str, tensor: Tensor) -> None:
        getattr(module, container)[name] = nn.Parameter(tensor.to(device), requires_grad=False)

    for _, module in drift_modules(model):
        for container in () if module is root else ("drift_bank_A", "drift_bank_B"):
            shape = getattr(module, container)[name].shape[1:]
            put(module, container, torch.randn(members, *shape, device=device) * 0.01)
    heads = torch.randn(members * len(LABELS), root.hidden_size, device=device)
    put(root, "drift_bank_head_weight", heads * 0.02)
    put(root, "drift_bank_head_bias", torch.zeros(members * len(LABELS)))
    put(root, "drift_signature_mean", means.clone())
    factor = torch.randn(groups, config.signature_rank, features, device=device)
    put(root, "drift_signature_factor", factor * diagonal.sqrt() * 0.01)
    put(root, "drift_signature_diagonal", diagonal.expand(groups, -1).clone())
    put(root, "drift_signature_classes", means.repeat_interleave(len(LABELS), 0))
    put(root, "drift_closed_weight", torch.randn(groups * len(LABELS), features, device=device) * 0.01)
    put(root, "drift_closed_bias", torch.zeros(groups * len(LABELS)))
    tasks = [
        LearnedTask(
            f"task-{g}",
            "text-classification",
            LABELS,
            len(LABELS),
            config.members,
            f"task-{g}",
            1000,
            classes=len(LABELS),
        )
        for g in range(groups)
    ]
    set_knowledge(model, replace(knowledge, tasks=tasks))
    model.eval()


def interleaved(passes: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each pass; the passes take turns, and the first round warms up."""
    taken: dict[str, list[float]] = {name: [] for name in passes}
    for i in range(rounds + 1):
        for name, run in passes.items() if i % 2 else reversed(passes.items()):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if i:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}
