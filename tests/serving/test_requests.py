"""What requests may hold."""

import base64
import zlib

import pytest
from serving_helpers import png

from hf_lifelong.serving.inputs import inputs_of
from hf_lifelong.serving.limits import Limits, RequestError

LIMITS = Limits(rows=3, characters=10, pixels=100)


def refused(given, modality="text"):
    with pytest.raises(RequestError) as error:
        inputs_of(given, modality, LIMITS)
    return error.value.status, error.value.message


def test_one_input_is_a_list_of_one():
    assert inputs_of("a", "text", LIMITS) == ["a"]
    assert inputs_of(["a", {"text": "b"}], "text", LIMITS) == ["a", {"text": "b"}]


@pytest.mark.parametrize(
    ("given", "status", "words"),
    [
        ([], 422, "`inputs` is empty"),
        (["a"] * 4, 413, "4 inputs, more than 3"),
        (["a", "b" * 11], 413, "inputs[1] has 11 characters, more than 10"),
        ({"tokens": [""] * 9}, 413, "inputs[0] has 15 characters"),
        ({"a": {"b": ["c" * 11]}}, 413, "inputs[0] has 13 characters"),
        (["a", 3], 422, "inputs[1] is 3; give a text"),
        (None, 422, "inputs[0] is None"),
    ],
)
def test_too_much_and_no_inputs_are_refused(given, status, words):
    found, message = refused(given)
    assert found == status and words in message and "\n" not in message


def test_images_come_as_base64_or_bytes_and_never_as_paths(tmp_path):
    data = png(5, 5)
    text = base64.b64encode(data).decode()
    for given in (text, {"image": text}, f"data:image/png;base64,{text}", [{"image": text}], [data]):
        assert inputs_of(given, "image", LIMITS) == [data]
    path = tmp_path / "image.png"
    path.write_bytes(data)
    for given in (str(path), {"path": str(path), "bytes": None}, {"image": {"path": str(path)}}, {"text": text}, 3):
        status, message = refused(given, "image")
        assert status == 422 and message.startswith("inputs[0] is no")


def test_an_image_is_judged_by_its_header():
    assert refused([png(11, 10)], "image") == (413, "inputs[0] has more than 100 pixels; scale it down.")
    bomb = bytearray(png(5, 5))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # says that it has 3.6 billion pixels
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    assert refused([bytes(bomb)], "image")[0] == 413
    for data in (b"", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", png(5, 5, "PPM"), png(5, 5)[:20]):
        status, message = refused([data], "image")
        assert status == 422 and "no image that can be read" in message


def test_limits_are_checked():
    with pytest.raises(ValueError, match="`rows` is 0; give a number of at least 1"):
        Limits(rows=0)
    assert Limits(wait=0).wait == 0
