"""Images as inputs of a base, and batches of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .augmentation import AugmentedImages
from .modality import Modality
from .reading import PIXELS, is_image, read_image

if TYPE_CHECKING:
    from torch import Tensor


class Images(Modality):
    """Images of one size, made into tensors by the base's image processor when their batch is due: nothing decoded is
    kept, in memory or on disk."""

    name = "image"
    inputs = (PIXELS,)
    processor = "image_processor"
    processor_class = "ImageProcessingMixin"
    auto_class = "AutoImageProcessor"
    files = ("preprocessor_config.json",)
    how = 'give what `image_processor(images, return_tensors="pt")` gives'
    tensor = (True, 4)
    padded = False
    augmented = AugmentedImages

    def is_one(self, value: Any) -> bool:
        return is_image(value) and getattr(value, "ndim", 3) <= 3

    def order(self, features: Mapping[str, Sequence[Any]], count: int) -> list[int]:
        return list(range(count))

    def batch(self, rows: Mapping[str, Sequence[Any]], processor: Any, padding_side: str) -> dict[str, Tensor]:
        images = [read_image(value, row, PIXELS) for row, value in enumerate(rows[PIXELS])]
        # As PIL images, because processors guess where the channels of an array are.
        return {PIXELS: processor(images, return_tensors="pt")[PIXELS]}


class ImageCollator:
    """Collates rows with an image and targets into a training batch; it runs in the workers of a data loader."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        import torch

        batch = IMAGE.batch({PIXELS: [row[PIXELS] for row in rows]}, self.processor, "right")
        others = [name for name in rows[0] if name != PIXELS]
        return {**batch, **{name: torch.tensor([row[name] for row in rows]) for name in others}}


IMAGE = Images()
