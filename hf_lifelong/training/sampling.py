"""The order of training rows where it goes by length."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from ..compat import LengthGroupedSampler


class RepeatableGrouping(LengthGroupedSampler):
    """Rows of like length together (`train_sampling_strategy="group_by_length"`), in an order that depends on seed and
    epoch alone: Trainer's hangs on the state of the random numbers, which a resumed run has at another place.

    Args:
        sampler (`LengthGroupedSampler`): Trainer's.
        seed (`int`): Of the task.
    """

    def __init__(self, sampler: LengthGroupedSampler, seed: int) -> None:
        super().__init__(sampler.batch_size, lengths=sampler.lengths)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return super().__iter__()
