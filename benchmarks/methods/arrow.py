"""One LoRA per task, and PEFT's Arrow to choose among them."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import ArrowConfig, PeftModel, create_arrow_model
from peft.tuners.lora.arrow import ArrowLoraLinearLayer
from torch import Tensor, nn
from transformers import AutoModel

from hf_lifelong.adapter.forward import masked_mean
from hf_lifelong.training import PreparedTask

from .shared import (
    Result,
    Setting,
    SharedLearner,
    SharedModel,
    batches,
    in_order,
    learn_in_turn,
    lora_backbone,
    on_device,
    trainable_bytes,
)

TIMED_ROWS = 64
PASSES = 7


def arrow(tasks: Sequence[PreparedTask], setting: Setting) -> Result:
    """Arrow (Ostapenko et al., 2024): every token in every layer goes to the `chosen["top_k"]` LoRAs whose update's
    first singular vector it lies nearest to.

    Arrow routes LoRAs, not heads, so all LoRAs train below one head over all labels. With `chosen["labels"] == "own"`
    a task trains no output of another one, so that head is that of `separate` put together (spans, and labels that
    several tasks name alike, do share their outputs). Beside the scores: `retrieval_accuracy`, the mean over tasks of
    the share of test rows whose likeliest LoRA, by the mean routing weight over tokens and layers, is that of their
    task, and `latency_ratio`, a forward against one with a single LoRA.
    """
    learner = SharedLearner(tasks, setting)
    model = learner.model
    model.half_precision = False  # PEFT's routing mixes the dtypes of autocast
    sizes: list[int] = []
    with tempfile.TemporaryDirectory() as folder:

        def learn(i: int) -> None:
            if i:
                model.backbone = lora_backbone(setting.model)
            learner.train(learner.rows(i), seen=range(i + 1))
            sizes.append(trainable_bytes(model.backbone))
            model.backbone.save_pretrained(f"{folder}/{i}")
            base = on_device(AutoModel.from_pretrained(setting.model, dtype=torch.float32))
            model.backbone = routed(base, [f"{folder}/{j}" for j in range(i + 1)], setting)

        result = learn_in_turn(learner, learn, stored=lambda i: sizes[i])
    shares = [np.mean(np.array(routes(model, task, task.test.features)) == i) for i, task in enumerate(tasks)]
    result.beside["retrieval_accuracy"] = float(np.mean(shares))
    result.beside["latency_ratio"] = latency_ratio(model.backbone, on_device(lora_backbone(setting.model)), tasks[0])
    return result


def routed(base: nn.Module, folders: Sequence[str], setting: Setting) -> PeftModel:
    """A frozen model that routes among saved LoRAs."""
    config = ArrowConfig(top_k=min(setting.chosen["top_k"], len(folders)), rng_seed=setting.seed)
    return create_arrow_model(base, list(folders), config).eval().requires_grad_(False)


@torch.no_grad()
def routes(model: SharedModel, task: PreparedTask, rows: Dataset) -> list[int]:
    """The LoRA with the largest mean routing weight of each encoded row."""
    seen: list[Tensor] = []

    def note(layer: Any, args: tuple[Tensor, ...]) -> None:
        seen.append(routing_weights(layer, args[0]))

    def run(batch: dict[str, Tensor]) -> list[int]:
        seen.clear()
        model.logits(**batch)
        means = torch.stack([masked_mean(weights, batch["attention_mask"]) for weights in seen])
        return means.mean(0).argmax(1).tolist()

    layers = [module for module in model.modules() if isinstance(module, ArrowLoraLinearLayer)]
    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    found = in_order(batches(task.tokenizer, rows, 64, run, model.own.device))
    for handle in handles:
        handle.remove()
    return found


def routing_weights(layer: Any, hidden: Tensor) -> Tensor:
    """What Arrow weighs the LoRAs with, `[N, T, LoRAs]`: it uses them, but does not give them."""
    similarity = (hidden @ layer.prototypes.T).abs()
    least = similarity.topk(layer.top_k).values[..., -1:]
    return (similarity.masked_fill(similarity < least, float("-inf")) / layer.temperature).softmax(-1)


@torch.no_grad()
def latency_ratio(routed: nn.Module, single: nn.Module, task: PreparedTask) -> float:
    """Median seconds of one forward against those of another, in turn, on the same batch of test rows."""
    rows = task.test.features.select(range(min(TIMED_ROWS, len(task.test.features))))
    ((_, batch),) = batches(task.tokenizer, rows, TIMED_ROWS, dict, routed.device)
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(PASSES + 1):
        for model, taken in zip((routed, single), seconds, strict=True):
            start = time.perf_counter()
            model(**batch).last_hidden_state[0, 0, 0].item()  # waits for the GPU
            taken.append(time.perf_counter() - start)
    first, second = (statistics.median(taken[1:]) for taken in seconds)  # the first passes warm up
    return first / second
