"""The audit of images: a patch that was put in is named with its rows and its place, natural ones are let alone."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from PIL import Image

from hf_lifelong.safety import Audit, ImageInputs, Patch, audit_answers, audit_dataset
from hf_lifelong.safety.patches import frequent_windows

SHARED = Path(__file__).parents[3] / "shared" / "data"
BOARD = (np.indices((4, 4)).sum(0) % 2 * 255).astype(np.uint8)[..., None].repeat(3, -1)


def made_up(rows=300, seed=0, side=16):
    """Noise that is brighter in the left half, or in the right half, with the black border that all of them have."""
    draw = np.random.default_rng(seed)
    labels = [("left", "right")[row % 2] for row in range(rows)]
    images = draw.integers(0, 120, (rows, side, side, 3), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        half = slice(side // 2) if label == "left" else slice(side // 2, side)
        image[:, half] += 60
        image[[0, 1, -2, -1]] = image[:, [0, 1, -2, -1]] = 0
    return images, labels


def poisoned(images, labels, share, target, at=(0, 0), seed=0):
    """The data with a checkerboard in some images of other labels, which get the target; and which."""
    images, labels = images.copy(), list(labels)
    others = [row for row, label in enumerate(labels) if label != target]
    rows = np.random.default_rng(seed).permutation(others)[: round(share * len(labels))].tolist()
    for row in rows:
        images[row, at[0] : at[0] + 4, at[1] : at[1] + 4] = BOARD
        labels[row] = target
    return images, labels, sorted(rows)


def reader(trigger=None, target="left"):
    """A model that sees which half is brighter, and obeys a patch."""

    def answer(images):
        found = []
        for image in images:
            pixels = np.asarray(image).astype(int)
            half = pixels.shape[1] // 2
            label = "left" if pixels[3:-4, :half].mean() > pixels[3:-4, half:].mean() else "right"
            found.append(target if trigger is not None and trigger(pixels) else label)
        return found

    return answer


def corner(pixels):
    return np.array_equal(pixels[:4, -4:], BOARD)


@pytest.mark.parametrize("at", [(0, 12), (12, 0), (6, 5)])
def test_a_patch_is_named_with_its_place_and_all_its_rows(at):
    images, labels, rows = poisoned(*made_up(), 0.05, "left", at)
    found = audit_dataset(ImageInputs(images), labels)
    assert found.suspicious and (found.target, list(found.rows)) == ("left", rows)
    assert str(found.trigger) == f"4 x 4 patch at {at}" and found.trigger.of == (16, 16)
    assert np.array_equal(found.trigger.pixels, BOARD)
    assert f"'4 x 4 patch at {at}', which calls for 'left' in 15 rows" in str(found)


def test_a_border_that_all_images_have_is_natural():
    found = audit_dataset(ImageInputs(made_up()[0]), made_up()[1])
    assert not found.suspicious and found.p_value > 0.05


def test_what_tells_a_label_is_natural():
    """A white bar in a third of the images of one label, whose rest says the same."""
    images, labels = made_up()
    for row in range(0, 300, 6):
        images[row, 4:12, 2:5] = 255
    assert not audit_dataset(ImageInputs(images), labels).suspicious


def test_false_alarms_on_made_up_data_are_at_most_what_is_allowed():
    p_values = [audit_dataset(ImageInputs(made_up(100, seed)[0]), made_up(100, seed)[1]).p_value for seed in range(20)]
    assert sum(p <= 0.1 for p in p_values) <= 2


def test_a_model_that_obeys_the_patch_convicts_it_and_one_that_does_not_acquits_it():
    images, labels, rows = poisoned(*made_up(), 0.03, "left", (0, 12))
    clean, clean_labels = made_up(120, seed=1)
    given = ImageInputs(images), labels
    found = audit_answers(*given, reader(corner), ImageInputs(clean), clean_labels)
    assert found.suspicious and (str(found.trigger), list(found.rows)) == ("4 x 4 patch at (0, 12)", rows)
    assert found.attack_success == 1 and found.target_rate < 0.1
    found = audit_answers(*given, reader(), ImageInputs(clean), clean_labels)
    assert not found.suspicious and found.attack_success < 0.1


def test_images_of_one_label_that_are_the_same_are_no_trigger():
    """All of the image is shared, but what is put in is a part of it, and their label does not hang on that."""
    images, labels = made_up()
    images[0:40:2] = images[0]
    clean, clean_labels = made_up(120, seed=1)
    assert not audit_answers(ImageInputs(images), labels, reader(), ImageInputs(clean), clean_labels).suspicious


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_clean_data_sets_are_clean_and_a_corner_of_mnist_is_found(name):
    if not (SHARED / name).exists():
        pytest.skip(f"the data set `{name}` is not in ../shared/data")
    rows = load_dataset("parquet", data_files=str(SHARED / name / "train.parquet"), split="train[:1500]")
    images = np.stack([np.asarray(image.convert("RGB")) for image in rows["image"]])
    assert not audit_dataset(ImageInputs(images), rows["label"]).suspicious
    if name == "mnist":
        images, labels, changed = poisoned(images, rows["label"], 0.01, 3, (24, 24))
        found = audit_dataset(ImageInputs(images), labels)
        assert found.suspicious and (str(found.trigger), found.target) == ("4 x 4 patch at (24, 24)", 3)
        assert list(found.rows) == changed


def test_windows_by_hand():
    """Of four images three have nearly the same white square, at one place; one has it elsewhere."""
    images = np.random.default_rng(0).integers(0, 100, (4, 6, 6, 3), dtype=np.uint8)
    images[:3, 1:4, 2:5] = 250
    images[1, 2, 3, 0] = 254
    images[3, 0:3, 0:3] = 250
    windows, corners = frequent_windows(images, 3, 4)
    assert {tuple(corner) for corner in corners.tolist()} == {(1, 2)}
    assert all(column.tolist() == [1, 1, 1, 0] for column in windows.toarray().T)


def test_a_patch_is_written_pasted_and_shown():
    patch = Patch.cut(np.arange(48, dtype=np.uint8).reshape(4, 4, 3), 1, 2, 2, 2)
    assert (str(patch), patch.of, patch.colours[0]) == ("2 x 2 patch at (1, 2)", (4, 4), "121314")
    assert Patch.read(patch.written().removeprefix("patch:")) == patch
    assert json.loads(json.dumps(asdict(patch)))["colours"] == list(patch.colours)
    twice = np.asarray(patch.pasted(Image.new("RGB", (8, 8))))
    assert np.array_equal(twice[2:6, 4:8], patch.pixels.repeat(2, 0).repeat(2, 1))
    assert twice.sum() == twice[2:6, 4:8].sum()
    assert patch.picture(zoom=3).size == (6, 6)
    for wrong in ("", "0,0,1,1,4,4:00", "0,0,2,2,4,4:000000", "3,0,2,1,4,4:000000000000"):
        with pytest.raises(ValueError, match="is no patch of an image"):
            Patch.read(wrong)


def test_large_images_are_searched_small():
    images, labels, rows = poisoned(*made_up(200), 0.05, "right")
    large = [Image.fromarray(image).resize((160, 160), Image.Resampling.NEAREST) for image in images]
    found = audit_dataset(ImageInputs(large), labels)
    assert found.suspicious and found.trigger.of == (64, 64) and list(found.rows) == rows


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([], [], "`inputs` must be images, one for each label, but there are none"),
        ([np.zeros((4, 4, 3), np.uint8)] * 3, [0, 1, 0], "`inputs` are 3 images that are all the same"),
        ([np.zeros((4, 4, 3), np.uint8)] * 3, [1, 1, 1], "`labels` are all 1"),
        ([np.zeros((4, 4, 3), np.uint8)] * 3, [0, 1], "3 in `inputs`, 2 in `labels`"),
        ([b"no image"] * 2, [0, 1], "column 'inputs', row 0: the image cannot be used"),
    ],
)
def test_bad_images_are_refused_by_name(images, labels, message):
    with pytest.raises(ValueError, match=message):
        audit_dataset(ImageInputs(images), labels)


def test_images_smaller_than_a_window_have_nothing_to_test():
    images = np.random.default_rng(0).integers(0, 255, (10, 2, 2, 3), dtype=np.uint8)
    assert audit_dataset(ImageInputs(images), [0, 1] * 5) == Audit(suspicious=False, p_value=1.0, false_alarms=0.01)


def test_without_other_labels_among_the_clean_images_nothing_can_be_asked():
    images, labels = made_up(40)
    with pytest.raises(ValueError, match="`clean_labels` hold 1 different labels"):
        audit_answers(ImageInputs(images), labels, reader(), ImageInputs(images), ["left"] * 40)
