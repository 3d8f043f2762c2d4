"""One LoRA that every task is merged into."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hf_lifelong.training import PreparedTask

from .regularised import lora_layers
from .shared import Result, Setting, SharedLearner, learn_in_turn


def slao(tasks: Sequence[PreparedTask], setting: Setting) -> Result:
    """SLAO (Qiao and Mahdavi, 2025): one LoRA, merged after each task.

    Task i trains from the LoRA that the training of task i - 1 ended with, with the rows of A made orthonormal. Its A
    then replaces the merged one, and its B moves the merged one by `1 / sqrt(i)` of the difference. The merged LoRA
    answers. The published method generates text and has no head; here one head over all labels goes on training.
    """
    learner = SharedLearner(tasks, setting)
    pairs = [[next(iter(side.values())).weight for side in (m.lora_A, m.lora_B)] for m in lora_layers(learner.model)]
    trained: list[Tensor] = []

    @torch.no_grad()
    def start() -> None:
        for (down, up), last in zip(pairs, trained, strict=True):
            down.copy_(orthonormal(down))
            up.copy_(last)

    @torch.no_grad()
    def merge(number: int, merged: Sequence[Tensor]) -> None:
        trained[:] = [up.clone() for _, up in pairs]
        for (_, up), before in zip(pairs, merged, strict=True):
            up.copy_(before + (up - before) / math.sqrt(number))

    def learn(i: int) -> None:
        merged = [up.detach().clone() for _, up in pairs]
        if i:
            start()
        learner.train(learner.rows(i), seen=range(i + 1))
        merge(i + 1, merged)

    # The B of the last training is kept beside the merged one.
    size = sum(up.numel() * up.element_size() for _, up in pairs)
    return learn_in_turn(learner, learn, stored=lambda i: 0 if i else size)


def orthonormal(down: Tensor) -> Tensor:
    """Orthonormal rows that span those of A `[r, in]`: `Q^T` of the QR decomposition of `A^T`."""
    return torch.linalg.qr(down.T).Q.T
