"""Training rows whose images are changed anew in every epoch."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from .reading import PIXELS, read_image

if TYPE_CHECKING:
    from datasets import Dataset


class AugmentedImages:
    """Rows of features, each with its image after a function of the user's.

    What the function draws at random depends on the row and the epoch alone, whichever worker runs it: a run that is
    resumed in the middle of an epoch sees the images that it would have seen.

    Args:
        features (`datasets.Dataset`): The rows, with an undecoded image each.
        transform (`Callable`): From a PIL image (RGB) to a PIL image, an array or a tensor.
        seed (`int`): Of what is drawn at random.
    """

    def __init__(self, features: Dataset, transform: Callable[[Any], Any], seed: int) -> None:
        import torch

        self.features, self.transform, self.seed = features, transform, seed
        # In shared memory, because workers that outlive an epoch have a copy of this object.
        self.epoch = torch.zeros((), dtype=torch.long).share_memory_()

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.features[index]
        image = read_image(row[PIXELS], index, PIXELS)
        with drawing(zlib.crc32(f"{self.seed}/{int(self.epoch)}/{index}".encode())):
            return {**row, PIXELS: self.transform(image)}

    def set_epoch(self, epoch: int) -> None:
        """Begins an epoch, in all workers."""
        self.epoch.fill_(epoch)


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Makes what is drawn from the random numbers of Python, NumPy and PyTorch (on the CPU) inside the context depend
    on a seed alone, and what is drawn afterwards not depend on it."""
    import torch

    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
