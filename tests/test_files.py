import json
import os

import pytest
import torch

from hf_lifelong.utils.files import (
    LARGEST_JSON,
    MOST_JSON,
    DamagedFileError,
    read_header,
    read_json,
    read_tensors,
    write_json,
    write_tensors,
)


def test_json_round_trip_and_same_bytes(tmp_path):
    data = {"b": [1, 2.5, None], "a": "žluť"}
    write_json(tmp_path / "x.json", data)
    first = (tmp_path / "x.json").read_bytes()
    write_json(tmp_path / "x.json", dict(reversed(data.items())))
    assert (tmp_path / "x.json").read_bytes() == first and read_json(tmp_path / "x.json") == data


def test_values_that_are_not_json_leave_the_file_as_it_was(tmp_path):
    write_json(tmp_path / "x.json", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", float("nan"))
    assert read_json(tmp_path / "x.json") == 1 and os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "it cannot be read"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a": NaN}', "not valid JSON"),
    ],
)
def test_damaged_json_is_named(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match=f"x.json` cannot be used: .*{reason}.*Restore the file"):
        read_json(tmp_path / "x.json")


def test_tensors_round_trip(tmp_path):
    tensors = {"a": torch.randn(3, 4).T, "empty": torch.zeros(0, 5), "half": torch.randn(2).bfloat16()}
    write_tensors(tmp_path / "x.safetensors", tensors)
    found = read_tensors(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in tensors.items())
    assert os.listdir(tmp_path) == ["x.safetensors"]


def claim(size):
    header = json.dumps({"a": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}}).encode()
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    "content", [None, b"", b"short", b"\xff" * 64, claim(10**9), claim(4) + b"\0" * 3], ids=range(6)
)
def test_damaged_tensor_files_are_named(tmp_path, content):
    if content is not None:
        (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"x.safetensors` cannot be used: .*Restore the file"):
        read_tensors(tmp_path / "x.safetensors")


def test_a_damaged_file_error_is_a_value_error():
    assert issubclass(DamagedFileError, ValueError)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1, "a": 1}', "a key stands twice"),
        (b"[" * 65 + b"]" * 65, "it nests deeper than 64 levels"),
        (b'{"a": ' * 65 + b"1" + b"}" * 65, "it nests deeper than 64 levels"),
        (b"[" * 100_000, "RecursionError"),
        (b"[" + b"{}," * 200_000 + b"1]", "it holds more than 200,000 lists and objects"),
        (b"[" + b"0," * 5_000_001 + b"0]", "it holds more than 5,000,000 values"),
    ],
)
def test_json_that_can_be_read_in_two_ways_or_not_at_all_is_refused(tmp_path, content, message):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match=rf"`.*x.json` cannot be used: it is not valid JSON \({message}\)"):
        read_json(tmp_path / "x.json")


def test_json_of_a_stated_size_and_depth_is_read(tmp_path):
    content = b"[" * 64 + b"]" * 64
    (tmp_path / "x.json").write_bytes(content)
    assert json.dumps(read_json(tmp_path / "x.json", len(content))).encode() == content
    with pytest.raises(DamagedFileError, match="it has 128 bytes, more than the 127 allowed"):
        read_json(tmp_path / "x.json", 127)


@pytest.mark.parametrize(
    ("value", "what"), [(b"1", "5,000,000 values"), (b'"":1', "1,500,000 keys")], ids=["list", "object"]
)
def test_json_of_too_many_values_is_refused(tmp_path, value, what):
    (tmp_path / "x.json").write_bytes(b"[" + (value + b",") * 5_000_001 + b"1]")
    with pytest.raises(DamagedFileError, match=f"it holds more than {what}"):
        read_json(tmp_path / "x.json")


def test_the_scores_of_a_thousand_tasks_may_be_read():
    def sizes(count):
        """Bytes and commas of the tables of a manifest, as PEFT writes it."""
        rows = [[2 / 3] * (i + 1) + [None] * (count - i - 1) for i in range(count)]
        config = {"knowledge": {"scores": dict.fromkeys(("oracle", "retrieval", "scores"), rows)}}
        text = json.dumps(config, indent=2)
        return len(text), text.count(",")

    for found, most in zip(sizes(100), (LARGEST_JSON, MOST_JSON["values"][1]), strict=True):
        assert 100 * found < 0.7 * most  # they grow with the square


def test_a_header_says_what_is_in_a_file_without_reading_it(tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.zeros(2, 3), "b": torch.zeros(0, dtype=torch.int8), "c": torch.tensor(1.0)})
    assert read_header(path) == {"a": ("F32", (2, 3)), "b": ("I8", (0,)), "c": ("F32", ())}
    for length in (0, 4, 8, 20, len(path.read_bytes()) - 1):
        (tmp_path / "cut.safetensors").write_bytes(path.read_bytes()[:length])
        with pytest.raises(DamagedFileError, match=r"`.*cut.safetensors` cannot be used"):
            read_header(tmp_path / "cut.safetensors")
    with pytest.raises(DamagedFileError, match="it cannot be read"):
        read_header(tmp_path / "missing.safetensors")


def test_a_manifest_of_a_thousand_scored_tasks_is_small_enough():
    row = [2 / 3] * 500 + [None] * 500  # half of a matrix is empty
    lines = json.dumps({"knowledge": {"scores": {"scores": [row]}}}, indent=2)  # as PEFT writes it
    assert 3 * 1000 * len(lines) < 0.8 * LARGEST_JSON
