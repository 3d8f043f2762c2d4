"""Image classification: one label for an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..compat import with_columns
from .base import NO_CONSTANTS
from .classification import Classification
from .forms import InputForm
from .images import IMAGE, ImageCollator
from .reading import PIXELS, check_images, is_image
from .rows import check_dataset, check_not_empty, is_string
from .stock import StockUse

if TYPE_CHECKING:
    from datasets import Dataset


def _encode(entries: Sequence[Any], processor: Any, max_length: int, stride: int) -> dict[str, list[Any]]:
    return {PIXELS: list(entries)}


class ImageClassification(Classification):
    """One of C labels for each image."""

    kind = "image-classification"
    modality = IMAGE
    hub_task = "image-classification"
    example = '"photo.jpg"'
    forms = (InputForm("an image (PIL image, array, path, bytes or a row of `datasets.Image`)", is_image, _encode),)
    stock = StockUse(
        imports="from PIL import Image\n",
        batch="""\
batch = image_processor([Image.open("photo.jpg").convert("RGB")], return_tensors="pt")
""",
        answers="print([id2label[i] for i in logits.argmax(-1).tolist()])\n",
        auto_class="AutoModelForImageClassification",
        mapping="MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING",
        task_type=None,
        note="It classifies images.",
        reading="The closed-form head, which counts beside the members in `hf_lifelong`, is no part of a LoRA.",
    )
    columns = {"image": "image", "label": "label"}
    aliases = {"image": ("img",), "label": ("labels",)}

    def is_tokenised(self, dataset: Dataset) -> bool:
        """Never: images are made into tensors batch by batch."""
        return False

    def collator(self, tokenizer: Any) -> ImageCollator:
        return ImageCollator(tokenizer)

    def encode(
        self,
        dataset: Dataset,
        columns: Mapping[str, str],
        labels: Sequence[str],
        tokenizer: Any,
        max_length: int,
        stride: int,
        training: bool,
        constants: Mapping[str, float] = NO_CONSTANTS,
    ) -> Dataset:
        """The images as they are, undecoded, under the name of the model input, and the labels as ids. Every image is
        read once, so that a damaged one is refused here."""
        from datasets import Image

        check_dataset(dataset)
        check_not_empty(dataset)
        columns = self.resolve_columns(dataset, columns)
        image = columns["image"]
        features = dataset.with_format(None).select_columns([image])
        if isinstance(features.features[image], Image):
            features = features.cast_column(image, Image(decode=False))
        check_images((row[image] for row in features), len(features), image)
        if image != PIXELS:
            features = features.rename_column(image, PIXELS)
        extras = {} if training else {"example": list(range(len(features)))}
        return with_columns(features, {"labels": self._ids(dataset, columns, labels), **extras})

    def expected_input(self, role: str, feature: Any) -> str | None:
        return None if _holds_images(feature) else "images: `datasets.Image`, paths, bytes or arrays"


def _holds_images(feature: Any) -> bool:
    if is_string(feature) or type(feature).__name__ in ("Image", "Array2D", "Array3D"):
        return True
    if not hasattr(feature, "feature"):
        return getattr(feature, "dtype", None) in ("binary", "large_binary")
    while hasattr(feature, "feature"):  # nested lists of numbers
        feature = feature.feature
    return str(getattr(feature, "dtype", "")).startswith(("uint", "int", "float", "bool"))


KIND = ImageClassification()
