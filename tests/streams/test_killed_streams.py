"""A stream killed at any point and resumed ends as one that was not killed, boundaries and detector included."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from kill_stream_script import POINTS

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def runs(bert_folder, tmp_path_factory):
    work = tmp_path_factory.mktemp("killed")
    result = work / "result.json"
    done = subprocess.run(
        [sys.executable, HERE / "kill_stream_script.py", bert_folder, work, result], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(result.read_text()), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_and_resumed_equals_unbroken(runs, point):
    found, errors = runs
    unbroken, resumed = found["unbroken"], found[point]
    assert "error" not in resumed, f"{resumed}\n{errors[-4000:]}"
    for what in ("digests", "state", "groups", "left", "reading"):
        assert resumed[what] == unbroken[what], what
    assert resumed["answered"].items() <= unbroken["answered"].items()


@pytest.mark.slow
def test_the_unbroken_stream_was_one_of_three_segments(runs):
    unbroken = runs[0]["unbroken"]
    assert unbroken["groups"] == {"segment-1": "segment-1", "segment-2": "segment-2", "segment-3": "segment-1"}
    assert unbroken["boundaries"] == [68, 128, 178]
    assert sorted(map(int, unbroken["answered"])) == list(range(60, 68))
    assert unbroken["left"] == ["_stream/commit-3", "_stream/reading"]
    assert unbroken["reading"] == ["detector.safetensors", "files.json", "reading.json"]  # and no rows
