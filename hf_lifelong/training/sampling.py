"""The order of training rows when they are grouped by length."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..compat import LengthGroupedSampler


class RepeatableGrouping(LengthGroupedSampler):
    """Groups rows of similar length (`train_sampling_strategy="group_by_length"`) in an order that depends only on
    seed and epoch. The order of Trainer's sampler depends on the state of the random number generator, which differs
    in a resumed run.

    Args:
        sampler (`LengthGroupedSampler`): Trainer's sampler.
        seed (`int`): Seed of the task.
    """

    def __init__(self, sampler: LengthGroupedSampler, seed: int) -> None:
        super().__init__(sampler.batch_size, lengths=sampler.lengths)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return super().__iter__()
