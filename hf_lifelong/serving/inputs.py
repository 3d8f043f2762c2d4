"""From the JSON of a request to the inputs of the pipeline. Nothing in a request is opened as a path."""

from __future__ import annotations

import base64
import binascii
import io
from typing import Any

from .limits import INVALID, TOO_LARGE, Limits, RequestError

# Formats that are decoded. Others that Pillow knows run other programs, or are never sent to a server.
IMAGE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")
HOW = 'give {"image": …} with the bytes of a file in base64, or send the bytes themselves as `image/…`'


def inputs_of(given: Any, modality: str, limits: Limits) -> list[Any]:
    """The inputs of a request, within the limits.

    Args:
        given: `inputs` of the request: one input or a list of them.
        modality (`str`): What the base takes: `"text"` or `"image"`.
        limits ([`Limits`]): The server's limits.

    Returns:
        `list`: Texts and mappings as the pipeline takes them, or the bytes of images.

    Raises:
        RequestError: for inputs that are too many, too long, or no inputs; names the position.
    """
    entries = given if isinstance(given, list) else [given]
    limits.check_rows(len(entries))
    if modality == "image":
        return [_image(entry, f"inputs[{i}]", limits) for i, entry in enumerate(entries)]
    for i, entry in enumerate(entries):
        if not isinstance(entry, str | dict):
            raise RequestError(INVALID, f"inputs[{i}] is {entry!r:.100}; give a text, or an object with texts.")
        limits.check_text(entry, f"inputs[{i}]")
    return entries


def checked_image(data: bytes, name: str, limits: Limits) -> bytes:
    """The bytes of an image file, checked by its header alone.

    Raises:
        RequestError: when it is no image of a format in `IMAGE_FORMATS`, or has too many pixels.
    """
    from PIL import Image, UnidentifiedImageError

    # Pillow's own limit is checked when a file is opened, and is far above this one.
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            pixels = image.width * image.height
    except Image.DecompressionBombError:
        pixels = limits.pixels + 1
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        formats = ", ".join(IMAGE_FORMATS)
        raise RequestError(INVALID, f"{name} is no image that can be read ({formats}); {HOW}.") from error
    if pixels > limits.pixels:
        raise RequestError(TOO_LARGE, f"{name} has more than {limits.pixels:,} pixels; scale it down.")
    return data


def _image(entry: Any, name: str, limits: Limits) -> bytes:
    if isinstance(entry, bytes):
        return checked_image(entry, name, limits)
    text = entry.get("image") if isinstance(entry, dict) and set(entry) == {"image"} else entry
    if not isinstance(text, str):
        raise RequestError(INVALID, f"{name} is no image; {HOW}.")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(INVALID, f"{name} is not base64; {HOW}.") from error
    return checked_image(data, name, limits)
