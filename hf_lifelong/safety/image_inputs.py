"""Images as an audit sees them: a trigger is a patch at one place."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..objectives import read_image
from .association import LARGEST_SHARE, LEAST_ROWS, Tested, contradiction_p, screen
from .inputs import AuditedInputs
from .patches import EDGE, MARK, Patch, frequent_windows, patch_around

if TYPE_CHECKING:
    from PIL.Image import Image

_LARGEST = 64  # pixels of a side up to which images are searched as they are
_CELLS, _AREAS = 8, 4  # of a side of a thumbnail, and of the areas that are left out of it
_RIDGE = 0.03  # penalty of the rule on thumbnails, for each row


class ImageInputs(AuditedInputs):
    """Images. A trigger is a [`Patch`].

    Images are searched for patches as they are, in RGB, if the first one's sides have at most 64 pixels. Longer sides
    are brought to 64, and so are the sides of the others to those of the first one.

    Args:
        images (`Sequence`): `n` images: PIL images, arrays, paths, bytes, or rows of a `datasets.Image` column.

    Raises:
        ValueError: for no images, what is no image, and images that are all the same.
    """

    roles = ("image",)
    mark = MARK

    def __init__(self, images: Sequence[Any]) -> None:
        self.images = images
        if not len(images):
            raise ValueError("`inputs` must be images, one for each label, but there are none.")

    @cached_property
    def pixels(self) -> np.ndarray:
        """uint8 `[n, H, W, 3]`, the images as they are searched."""
        height, width = (min(side, _LARGEST) for side in reversed(self[0].size))
        found = np.empty((len(self), height, width, 3), np.uint8)
        for row in range(len(self)):
            image = self[row]
            alike = image.size == (width, height)
            found[row] = np.asarray(image if alike else image.resize((width, height), reducing_gap=2.0))
        return found

    @cached_property
    def _usual(self) -> np.ndarray:
        """uint8 `[H, W, 3]`, what images usually have at each place."""
        return np.median(self.pixels, 0).round().astype(np.uint8)

    @classmethod
    def of_columns(cls, columns: Mapping[str, Sequence[Any]]) -> ImageInputs:
        return cls(columns["image"])

    def as_columns(self, inputs: Sequence[Image]) -> dict[str, list[Any]]:
        return {"image": list(inputs)}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Image:
        """PIL image in RGB, of its own size."""
        return read_image(self.images[row], row, "inputs")

    def tested(self, classes: np.ndarray) -> Tested:
        """Of the windows that are in several images, those that call for a label. They are contradicted by the rest of
        their images, as thumbnails without the part around the window see it; and the data hint at those that go with
        their label beyond chance."""
        if not bool((self.pixels != self.pixels[:1]).any()):
            raise ValueError(
                f"`inputs` are {len(self)} images that are all the same, so nothing can be told of any patch. Give "
                "the images that the labels are of."
            )
        windows, self._corners = frequent_windows(self.pixels, LEAST_ROWS, LARGEST_SHARE * len(self))
        self._windows = windows.tocsc()
        column, label, association = screen(windows, classes)
        labels = int(classes.max()) + 1
        middle = (self._corners[column] + EDGE // 2) * _AREAS // np.array(self.pixels.shape[1:3])
        area = middle @ [_AREAS, 1]
        wrong = self._contradicted(classes, np.unique(area))

        pairs = windows[:, column].tocoo()
        hit = classes[pairs.row] == label[pairs.col]
        row, of = pairs.row[hit], pairs.col[hit]
        drawn, hits = np.bincount(of, minlength=len(column)), np.bincount(of, wrong[area[of], row], len(column))
        of_label = np.stack([np.bincount(classes, rows, labels) for rows in wrong])
        others = np.bincount(classes)[label] - drawn
        p = contradiction_p(hits, drawn, of_label[area, label] - hits, others)
        return Tested(column, label, association, p, (association * labels * windows.shape[1]).clip(max=1))

    def holding(self, column: int) -> np.ndarray:
        return np.sort(self._windows.indices[self._windows.indptr[column] : self._windows.indptr[column + 1]])

    def trigger(self, column: int, rows: np.ndarray) -> Hashable:
        return patch_around(self.pixels, self._corners[column], rows)

    def same(self, trigger: Patch, other: Patch) -> bool:
        return trigger.overlaps(other)

    def inserted(self, given: Image, trigger: Patch, place: float) -> Image:
        return trigger.pasted(given)

    def without(self, row: int, trigger: Patch) -> Image | None:
        """The image with what images usually have there in place of the patch."""
        usual = Patch.cut(self._usual, trigger.row, trigger.column, trigger.height, trigger.width)
        return usual.pasted(self[row])

    @classmethod
    def read(cls, text: str) -> Patch:
        return Patch.read(text)

    def _contradicted(self, classes: np.ndarray, areas: np.ndarray) -> np.ndarray:
        """Whether the rest of each image speaks for another label than its own, without each of the areas: bool
        `[areas in all, n]`; false for areas that are not asked for.

        A ridge regression of the labels on a thumbnail without the area and the cells around it, for each row learned
        from the others.
        """
        n, wrong = len(self), np.zeros((_AREAS**2, len(self)), bool)
        images = torch.from_numpy(self.pixels).movedim(-1, 1).double()
        cells = torch.nn.functional.adaptive_avg_pool2d(images, _CELLS).movedim(1, -1).numpy()
        cells = (cells - cells.mean(0)) / max(cells.std(), 1e-9)
        one_hot = np.eye(int(classes.max()) + 1)[classes]
        share, per_area = one_hot.mean(0), _CELLS // _AREAS
        for area in areas.tolist():
            kept = np.ones((_CELLS, _CELLS), bool)
            y, x = np.array(divmod(area, _AREAS)) * per_area
            kept[max(y - 1, 0) : y + per_area + 1, max(x - 1, 0) : x + per_area + 1] = False
            rest = cells[:, kept].reshape(n, -1)
            rule = np.linalg.solve(rest.T @ rest + _RIDGE * n * np.eye(rest.shape[1]), rest.T)
            own = (rest * rule.T).sum(1, keepdims=True) + 1 / n
            told = rest @ (rule @ (one_hot - share)) + share
            wrong[area] = ((told - own * one_hot) / (1 - own)).argmax(1) != classes
        return wrong
