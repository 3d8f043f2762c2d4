"""Reading images, whatever they come as. Pillow is needed only where one is read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from .rows import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

PIXELS = "pixel_values"
MOST_STRETCHED = 100
"""Largest ratio of an image's sides. An image processor that brings the shorter side to a given size would make of a
longer one an image that no memory holds."""
CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
UNUSABLE = "correct it or drop the row."


def read_image(value: Any, row: int | None, column: str) -> Image:
    """An image in RGB with 8 bits, as a viewer shows it: turned upright, on white where it is transparent.

    Args:
        value: A PIL image, an array or nested lists (`[H, W]`, `[H, W, C]` or `[C, H, W]`; uint8, uint16, or floats in
            [0, 1]), a path, the bytes of a file, or `{"path": ..., "bytes": ...}` as `datasets.Image` stores it.
        row (`int`, *optional*), column (`str`): Where it comes from, for the error.

    Raises:
        DataError: If it is no image, cannot be decoded, or cannot be shown in 8 bits.
        ImportError: If Pillow is not installed; says which extra brings it.
    """
    check_pillow()
    with _located(row, column):
        image = _opened(value)
        if max(image.size) > MOST_STRETCHED * min(image.size):
            raise ValueError(
                f"the image is {image.width} x {image.height}, more than {MOST_STRETCHED} times as long as wide"
            )
        return _in_rgb(image)


def check_images(values: Iterable[Any], count: int, column: str) -> None:
    """Reads each of `count` images of a column once, so that a damaged one is refused before anything is trained.

    Raises:
        DataError: names the first row whose image cannot be read.
    """
    from tqdm.auto import tqdm

    for row, value in enumerate(tqdm(values, desc="Checking images", total=count, leave=False, delay=5)):
        read_image(value, row, column)


def is_image(value: Any) -> bool:
    """Whether a value can be an image: what it looks like, not whether it can be read."""
    if isinstance(value, Mapping):
        return bool(value) and set(value) <= {"path", "bytes"}
    return isinstance(value, str | bytes | os.PathLike) or hasattr(value, "__array_interface__") or _is_tensor(value)


def check_pillow() -> None:
    """Raises an `ImportError` that says what to install unless images can be read."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise ImportError('Images need Pillow; install it with `pip install "hf_lifelong[vision]"`.') from error


@contextmanager
def _located(row: int | None, column: str) -> Iterator[None]:
    from PIL.Image import DecompressionBombError

    try:
        yield
    except (ValueError, TypeError, OSError, SyntaxError, DecompressionBombError) as error:  # all that Pillow raises
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(column, f"the image cannot be used ({reason:.200}); {UNUSABLE}", row) from error


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "numpy")


def _opened(value: Any) -> Image:
    from datasets import Image as Feature
    from PIL.Image import Image
    from PIL.ImageOps import exif_transpose

    if value is None:
        raise ValueError("there is none")
    if isinstance(value, Image):
        value.load()
        return exif_transpose(value)
    if isinstance(value, bytes):
        value = {"path": None, "bytes": value}
    elif isinstance(value, str | os.PathLike):
        value = {"path": os.fspath(value), "bytes": None}
    if isinstance(value, Mapping):
        return Feature().decode_example({"path": value.get("path"), "bytes": value.get("bytes")})
    return _of_array(np.asarray(value.cpu() if _is_tensor(value) else value))


def _of_array(array: np.ndarray) -> Image:
    from PIL.Image import fromarray

    if array.ndim == 3 and array.shape[-1] not in CHANNELS and array.shape[0] in CHANNELS:
        array = np.moveaxis(array, 0, -1)
    channels = array.shape[-1] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in CHANNELS or 0 in array.shape:
        raise ValueError(f"an array of shape {list(array.shape)} is not [H, W], [H, W, C] or [C, H, W]")
    if array.dtype == np.uint16:
        array = _in_eight_bits(array)
    elif array.dtype.kind == "f":
        if not bool(((array >= 0) & (array <= 1)).all()):
            raise ValueError("an array of floats must have values in [0, 1]; scale it, or give integers from 0 to 255")
        array = (array * 255).round()
    elif array.dtype.kind not in "iub" or array.min() < 0 or array.max() > 255:
        raise ValueError(f"an array of {array.dtype} must have integers from 0 to 255, or be uint16 or floats")
    array = np.ascontiguousarray(array * 255 if array.dtype.kind == "b" else array).astype(np.uint8)
    return fromarray(array[..., 0] if array.ndim == 3 and channels == 1 else array, CHANNELS[channels])


def _in_rgb(image: Image) -> Image:
    from PIL.Image import fromarray, new

    if image.mode == "F":
        raise ValueError("its pixels are floats without a known range; convert it to 8 bits")
    if image.mode.startswith("I"):
        pixels = np.asarray(image)
        if pixels.min() < 0 or pixels.max() >= 2**16:
            raise ValueError("its integers do not fit into 16 bits; convert it to 8 bits")
        image = fromarray(_in_eight_bits(pixels), "L")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        image = new("RGBA", seen.size, "white")
        image.alpha_composite(seen)
    return image if image.mode == "RGB" else image.convert("RGB")


def _in_eight_bits(pixels: np.ndarray) -> np.ndarray:
    """16 bits in 8: 65,535 becomes 255. Pillow's own conversion cuts off everything above 255."""
    return np.rint(pixels / 257).astype(np.uint8)
