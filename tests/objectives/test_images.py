"""Images of every sort: read rightly, or refused by one line that names the row."""

import io
import warnings

import numpy as np
import pytest
import torch
from datasets import Array3D, ClassLabel, Dataset, Features, Image, Value
from PIL import Image as pillow
from transformers import ViTImageProcessor

from hf_lifelong.compat import with_columns
from hf_lifelong.objectives import DataError, get_kind
from hf_lifelong.objectives.augmentation import AugmentedImages
from hf_lifelong.objectives.images import IMAGE, ImageCollator
from hf_lifelong.objectives.reading import read_image

KIND = get_kind("image-classification")
PIXELS = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3) * 2
PICTURE = pillow.fromarray(PIXELS)
GREY = np.arange(20, dtype=np.uint8).reshape(5, 4)


def file_of(image, form="PNG"):
    out = io.BytesIO()
    image.save(out, form)
    return out.getvalue()


def shown(value):
    image = read_image(value, 0, "image")
    assert image.mode == "RGB"
    return np.asarray(image)


def encode(rows, features=None, training=False):
    data = Dataset.from_dict(rows, features=features)
    labels = KIND.label_names(data, {})
    return KIND.encode(data, {}, labels, None, 16, 4, training)


@pytest.mark.parametrize(
    "value",
    [
        PICTURE,
        PIXELS,
        PIXELS.tolist(),
        np.moveaxis(PIXELS, -1, 0),
        torch.tensor(PIXELS),
        PIXELS.astype(np.float32) / 255,
        file_of(PICTURE),
        {"bytes": file_of(PICTURE), "path": None},
    ],
    ids=["pil", "array", "lists", "channels first", "tensor", "floats", "bytes", "row of datasets.Image"],
)
def test_an_image_is_the_same_whatever_it_comes_as(value):
    assert np.array_equal(shown(value), PIXELS)


def test_a_path_is_read(tmp_path):
    PICTURE.save(tmp_path / "photo.png")
    assert np.array_equal(shown(tmp_path / "photo.png"), PIXELS)
    assert np.array_equal(shown(str(tmp_path / "photo.png")), PIXELS)


def test_grey_bilevel_and_palette_are_shown_in_rgb():
    grey = np.repeat(GREY[..., None], 3, axis=2)
    assert np.array_equal(shown(pillow.fromarray(GREY)), grey)
    assert np.array_equal(shown(GREY), grey) and np.array_equal(shown(GREY[..., None]), grey)
    assert np.array_equal(shown(GREY > 9), (grey > 9) * 255)
    assert np.array_equal(shown(pillow.fromarray(GREY > 9)), (grey > 9) * 255)
    palette = PICTURE.quantize(8)
    with warnings.catch_warnings(action="error"):
        assert np.array_equal(shown(palette), np.asarray(palette.convert("RGB")))


def test_what_is_transparent_is_white():
    pixels = np.dstack([PIXELS, np.full((5, 6), 255, dtype=np.uint8)])
    pixels[0, :, 3], pixels[1, :, 3] = 0, 51
    seen = shown(pillow.fromarray(pixels))
    assert (seen[0] == 255).all() and np.array_equal(seen[2:], PIXELS[2:])
    assert np.abs(seen[1] - (0.2 * PIXELS[1] + 0.8 * 255)).max() <= 1
    assert np.array_equal(shown(pixels), seen)


def test_sixteen_bits_are_scaled_not_cut_off():
    wide = GREY.astype(np.uint16) * 257 * 12
    expected = np.repeat((GREY * 12)[..., None], 3, axis=2)
    assert np.array_equal(shown(pillow.fromarray(wide)), expected)
    assert np.array_equal(shown(file_of(pillow.fromarray(wide))), expected)
    assert np.array_equal(shown(wide), expected)


def test_a_picture_that_lies_on_its_side_is_turned():
    exif = pillow.Exif()
    exif[0x0112] = 6  # a quarter turn
    out = io.BytesIO()
    PICTURE.save(out, "PNG", exif=exif)
    assert np.array_equal(shown(out.getvalue()), np.rot90(PIXELS, -1))
    assert np.array_equal(shown(pillow.open(io.BytesIO(out.getvalue()))), np.rot90(PIXELS, -1))


JPEG = file_of(pillow.fromarray(np.tile(PIXELS, (40, 40, 1))), "JPEG")
BAD = {
    "truncated": (JPEG[: len(JPEG) // 2], "truncated"),
    "no image": (b"a text", "cannot identify image file"),
    "missing": (None, "there is none"),
    "no such file": ("nowhere/photo.jpg", "No such file"),
    "shape": (np.zeros((2, 3, 4, 5)), r"shape \[2, 3, 4, 5\]"),
    "empty": (np.zeros((0, 4, 3), dtype=np.uint8), r"shape \[0, 4, 3\]"),
    "integers": (PIXELS.astype(int) * 9, "integers from 0 to 255"),
    "floats": (PIXELS.astype(float), r"values in \[0, 1\]"),
    "nan": (np.full((4, 4), np.nan), r"values in \[0, 1\]"),
    "float image": (pillow.fromarray(GREY.astype(np.float32)), "without a known range"),
    "stretched": (np.zeros((2, 300, 3), dtype=np.uint8), "300 x 2"),
}


@pytest.mark.parametrize(("value", "message"), BAD.values(), ids=list(BAD))
def test_a_bad_image_is_refused_with_its_row(value, message):
    with pytest.raises(DataError, match=rf"column 'photo', row 7: the image cannot be used .*{message}.*drop the row"):
        read_image(value, 7, "photo")


def test_a_damaged_file_is_refused_when_data_is_encoded():
    rows = {"image": [{"bytes": file_of(PICTURE), "path": None}] * 2 + [{"bytes": JPEG[:200], "path": None}]}
    with pytest.raises(DataError, match="column 'image', row 2: the image cannot be used"):
        encode({**rows, "label": ["a", "b", "a"]}, Features({"image": Image(), "label": Value("string")}))


COLUMNS = {
    "datasets.Image": ([PICTURE] * 3, Image()),
    "lists": ([PIXELS.tolist()] * 3, None),
    "Array3D": ([PIXELS] * 3, Array3D((5, 6, 3), "uint8")),
    "bytes": ([file_of(PICTURE)] * 3, Value("binary")),
}


@pytest.mark.parametrize(("values", "feature"), COLUMNS.values(), ids=list(COLUMNS))
def test_every_column_of_images_makes_the_same_batch(values, feature):
    labels = ClassLabel(names=["cat", "dog"])
    plain = Dataset.from_dict({"image": values, "label": [0, 1, 1]})
    plain = plain.cast_column("label", labels)
    data = plain if feature is None else plain.cast_column("image", feature)
    encoded = KIND.encode(data, {}, ["cat", "dog"], None, 16, 4, training=True)
    assert encoded.column_names == ["pixel_values", "labels"] and encoded["labels"][:] == [0, 1, 1]
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    batch = ImageCollator(processor)([encoded[i] for i in range(3)])
    expected = processor([PICTURE] * 3, return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], expected) and batch["labels"].tolist() == [0, 1, 1]


def test_images_of_odd_sizes_share_a_batch_with_others():
    """A processor would take an image that is 3 high for one whose channels come first."""
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    odd = np.random.default_rng(0).integers(0, 256, (3, 40, 3), dtype=np.uint8)
    values = [odd, PIXELS, PIXELS[:1, :1], np.repeat(odd, 5, axis=0)]
    together = IMAGE.batch({"pixel_values": values}, processor, "right")["pixel_values"]
    assert together.shape == (4, 3, 8, 8)
    for i, value in enumerate(values):
        assert torch.equal(IMAGE.batch({"pixel_values": [value]}, processor, "right")["pixel_values"][0], together[i])


def test_labels_beside_chosen_rows_are_those_of_the_rows():
    data = Dataset.from_dict({"image": [np.full((2, 2), i).tolist() for i in range(6)], "label": list("abcabc")})
    for rows in ([5, 0, 3], [4, 4, 1]):
        chosen = data.select(rows)
        encoded = KIND.encode(chosen, {}, ["a", "b", "c"], None, 16, 4, training=False)
        assert [row["pixel_values"][0][0] for row in encoded] == rows
        assert encoded["labels"][:] == [row % 3 for row in rows] and encoded["example"][:] == [0, 1, 2]


def test_no_image_is_copied_to_put_labels_beside_it():
    data = Dataset.from_dict({"image": [file_of(PICTURE)] * 40, "n": list(range(40))})
    images = data.select([9, 3, 30]).select_columns(["image"])
    wide = with_columns(images, {"n": [9, 3, 30]})
    assert wide["n"][:] == [9, 3, 30] and len(wide.data) == 40  # the table is the one that was there


def test_a_transform_sees_other_images_in_every_epoch_and_the_same_ones_again():
    features = encode({"image": [PIXELS.tolist()] * 2, "label": ["a", "b"]}, training=True)

    def noisy(image):
        return np.asarray(image) // 2 + np.random.randint(0, 100) + torch.randint(0, 20, (1,)).numpy().astype(np.uint8)

    rows = AugmentedImages(features, noisy, seed=1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first = [rows[i]["pixel_values"] for i in (0, 1)]
    rows.set_epoch(1)
    second = rows[0]["pixel_values"]
    rows.set_epoch(0)
    assert np.array_equal(rows[1]["pixel_values"], first[1]) and np.array_equal(rows[0]["pixel_values"], first[0])
    assert not np.array_equal(first[0], first[1]) and not np.array_equal(first[0], second)
    assert torch.equal(torch.get_rng_state(), before[0]) and np.random.get_state()[1].tolist() == before[1]
    assert rows[1]["labels"] == 1


def test_images_without_pillow_name_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r'pip install "hf_lifelong\[vision\]"'):
        read_image(PIXELS, 0, "image")
