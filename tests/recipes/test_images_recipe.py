"""The recipe of images as a user runs it, with a base that has read less."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

RECIPE = Path(__file__).parents[2] / "recipes" / "images.py"


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE.parent))
    monkeypatch.delitem(sys.modules, "images", raising=False)  # a benchmark has the same name
    import images

    yield images
    sys.modules.pop("images")


@pytest.mark.slow
def test_a_short_run_learns_both_tasks_and_shows_its_answers(tmp_path):
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, str(RECIPE), "--letters", "600", "--epochs", "4", "--output_dir", str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert lines[1].startswith("It learns low digits: 504 pictures of 0, 1, 2, 3")
    assert lines[-1].startswith(f"{out / 'contact_sheet.png'} shows its answers")
    scores = [float(line.split(": ")[1].split(" ")[0]) for line in lines if line.endswith("own group")]
    assert len(scores) == 2 and min(scores) > 0.3 and "{" not in done.stdout
    assert np.asarray(Image.open(out / "contact_sheet.png")).std() > 10
    assert (out / "adapter_model.safetensors").stat().st_size + (
        out / "base" / "model.safetensors"
    ).stat().st_size < 2e7


def test_pictures_are_as_coarse_as_the_digits_and_no_test_picture_is_trained_on(recipe):
    draw = np.random.default_rng(0)
    assert recipe.letter("A", draw).size == (8, 8) and np.asarray(recipe.letter("A", draw)).max() > 100
    train, test = recipe.digits_of((4, 5, 6, 7))
    assert train[0]["image"].size == (8, 8) and train.features["label"].names == ["4", "5", "6", "7"]
    assert len(train) + len(test) == 723 and len(test) == 217
