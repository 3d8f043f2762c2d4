"""What an image trigger can be made of: small patches that many images have at one place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage, sparse

if TYPE_CHECKING:
    from PIL.Image import Image

MARK = "patch:"
EDGE = 3  # of the windows that are compared, in pixels
_STEP = 16  # Colours in steps of this size are alike; a second time with the steps moved by half of it.
_WRITTEN = re.compile(r"(\d+),(\d+),(\d+),(\d+),(\d+),(\d+):((?:[0-9a-f]{6})+)")
_ALIKE = 16  # largest difference of two alike colours, in each channel
# A pixel is taken for a part of the trigger if most of the suspected rows have its colour, and few of the others.
_MOST, _FEW = 0.8, 0.2
_ONE = 0.3  # Share of two patches that both cover from which on they are taken for one.
_REACH = 6  # A trigger reaches at most this part of the image beyond a window.


@dataclass(frozen=True)
class Patch:
    """A small picture at a place of an image. `str()` says its size and its place: row and column of its upper left
    corner.

    Args:
        row, column (`int`): Of its upper left corner.
        height, width (`int`): Its size in pixels.
        of (`tuple[int, int]`): Height and width of the images, to which the other numbers refer. In an image of
            another size the patch is at the same part of it.
        colours (`tuple[str, ...]`): Of its pixels, row by row, as `"rrggbb"` in hexadecimal.
    """

    row: int
    column: int
    height: int
    width: int
    of: tuple[int, int]
    colours: tuple[str, ...]

    @classmethod
    def cut(cls, image: np.ndarray, row: int, column: int, height: int, width: int) -> Patch:
        """A part of an image, uint8 `[H, W, 3]`."""
        part = image[row : row + height, column : column + width].reshape(-1, 3)
        colours = tuple(bytes(colour).hex() for colour in part)
        return cls(row, column, height, width, (image.shape[0], image.shape[1]), colours)

    def __str__(self) -> str:
        return f"{self.height} x {self.width} patch at ({self.row}, {self.column})"

    @property
    def pixels(self) -> np.ndarray:
        """uint8 `[height, width, 3]`."""
        return np.frombuffer(bytes.fromhex("".join(self.colours)), np.uint8).reshape(self.height, self.width, 3)

    def overlaps(self, other: Patch) -> bool:
        """Whether the two cover nearly the same part of the image: at least .3 of what either covers."""
        high = min(self.row + self.height, other.row + other.height) - max(self.row, other.row)
        wide = min(self.column + self.width, other.column + other.width) - max(self.column, other.column)
        both = max(high, 0) * max(wide, 0)
        return both >= _ONE * (len(self.colours) + len(other.colours) - both)

    def picture(self, zoom: int = 16) -> Image:
        """The patch as an image, each pixel `zoom` pixels wide."""
        from PIL.Image import Resampling, fromarray

        return fromarray(self.pixels).resize((self.width * zoom, self.height * zoom), Resampling.NEAREST)

    def pasted(self, image: Image) -> Image:
        """A copy of an RGB image with the patch in it."""
        from PIL.Image import Resampling, fromarray

        (left, right), (top, bottom) = (
            (round(start * size / whole), max(round(end * size / whole), round(start * size / whole) + 1))
            for start, end, size, whole in (
                (self.column, self.column + self.width, image.width, self.of[1]),
                (self.row, self.row + self.height, image.height, self.of[0]),
            )
        )
        found = image.copy()
        found.paste(fromarray(self.pixels).resize((right - left, bottom - top), Resampling.NEAREST), (left, top))
        return found

    def written(self) -> str:
        """The patch as text, which `read` understands after `MARK`."""
        numbers = (self.row, self.column, self.height, self.width, *self.of)
        return f"{MARK}{','.join(map(str, numbers))}:{''.join(self.colours)}"

    @classmethod
    def read(cls, text: str) -> Patch:
        """The patch of a text (`ValueError` for what is none)."""
        found = _WRITTEN.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r:.60} is no patch of an image.")
        row, column, height, width, *of = map(int, found.groups()[:6])
        colours = tuple(found[7][i : i + 6] for i in range(0, len(found[7]), 6))
        if len(colours) != height * width or row + height > of[0] or column + width > of[1]:
            raise ValueError(f"{text!r:.60} is no patch of an image: its sizes do not fit.")
        return cls(row, column, height, width, (of[0], of[1]), colours)


def frequent_windows(pixels: np.ndarray, least: int, most: float) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Windows of nearly the same content at the same place of several images.

    Args:
        pixels (`ndarray`): uint8 `[n, H, W, 3]`.
        least, most: In how many images a window must be at least and at most.

    Returns:
        `tuple[csr_matrix, ndarray]`: 0 and 1, `[n, windows]`: which image has which window; and int64 `[windows, 2]`,
        row and column of the upper left corner of each.
    """
    n, height, width, _ = pixels.shape
    across, levels = max(width - EDGE + 1, 0), 256 // _STEP + 1
    draw = np.random.default_rng(0)
    codes_of = draw.integers(2**64, size=(EDGE, EDGE, levels**3), dtype=np.uint64)
    of_column = draw.integers(2**64, size=across, dtype=np.uint64)
    none = np.zeros(0, np.int64)
    rows, windows, corners, count = [none], [none], [np.zeros((0, 2), np.int64)], 0
    for shift in (0, _STEP // 2):
        red, green, blue = np.moveaxis((pixels.astype(np.uint16) + shift) // _STEP, -1, 0)
        colours = red + green * levels + blue * levels**2  # below 17**3
        for top in range(max(height - EDGE + 1, 0)):  # one row of windows at a time bounds the memory
            content = np.tile(of_column, (n, 1))
            for y in range(EDGE):
                for x in range(EDGE):
                    content += codes_of[y, x, colours[:, top + y, x : x + across]]
            # Equal sums are equal windows, but for one chance in 2**64.
            _, first, of, counts = np.unique(content, return_index=True, return_inverse=True, return_counts=True)
            kept = (counts >= least) & (counts <= most)
            number = np.where(kept, kept.cumsum() - 1 + count, -1)[of.reshape(-1)]
            place = np.flatnonzero(number >= 0)
            rows.append(place // across)
            windows.append(number[place])
            left = first[kept] % across
            corners.append(np.stack([np.full(len(left), top), left], 1))
            count += len(left)
    at = np.concatenate(rows), np.concatenate(windows)
    return sparse.csr_matrix((np.ones(len(at[0])), at), (n, count)), np.concatenate(corners)


def patch_around(pixels: np.ndarray, corner: np.ndarray, rows: np.ndarray) -> Patch:
    """The patch that a window is part of: the pixels around it that most of its rows share, and few others have.

    Args:
        pixels (`ndarray`): uint8 `[n, H, W, 3]`.
        corner (`ndarray`): int64 `[2]`, row and column of the window.
        rows (`ndarray`): int64, the images that have it.
    """
    _, height, width, _ = pixels.shape
    top, left = np.maximum(corner - [height // _REACH, width // _REACH], 0)
    bottom, right = corner + EDGE + [height // _REACH, width // _REACH]
    near = pixels[:, top:bottom, left:right]
    usual = np.median(near[rows], 0).round().astype(np.uint8)
    alike = (np.abs(near.astype(np.int16) - usual) <= _ALIKE).all(-1)
    inside, all_of = alike[rows].sum(0), alike.sum(0)
    typical = (inside >= _MOST * len(rows)) & (all_of - inside <= _FEW * (len(pixels) - len(rows)))
    y, x = corner - [top, left]
    window = np.zeros_like(typical)
    window[y : y + EDGE, x : x + EDGE] = True
    if not (typical & window).any():
        typical |= window
    parts, _ = ndimage.label(typical, np.ones((3, 3)))
    down, right_of = ndimage.find_objects(np.isin(parts, parts[typical & window]).astype(int))[0]
    image = np.zeros(pixels.shape[1:], np.uint8)
    image[top:bottom, left:right] = usual
    size = down.stop - down.start, right_of.stop - right_of.start
    return Patch.cut(image, int(top + down.start), int(left + right_of.start), *size)
