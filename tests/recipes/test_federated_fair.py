"""The recipe of fair federated training as a user runs it, in fewer rounds."""

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs the extra `federated`")

RECIPE = Path(__file__).parents[2] / "recipes" / "federated_fair.py"


def test_a_short_run_tells_and_draws_what_fairness_does(tmp_path):
    done = subprocess.run(
        [sys.executable, str(RECIPE), "--rounds", "3", "--output_dir", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line.split(":")[0] for line in done.stdout.splitlines()[::2]] == [
        "FedAvg",
        "FairAvg, λ = 20",
        f"{tmp_path / 'out' / 'rounds.png'} shows both, round by round.",
    ]
    runs = json.loads((tmp_path / "out" / "rounds.json").read_text())
    plain, fair = (run["rounds"] for run in runs.values())
    assert plain[0] == fair[0] and len(plain) == len(fair) == 3  # the first round knows no sums
    assert fair[2]["training"] < plain[2]["training"] and fair[2]["held_out"] < 0.9 * plain[2]["held_out"]
    assert min(fair[2]["accuracy"], plain[2]["accuracy"]) > 0.6
    assert (tmp_path / "out" / "rounds.png").stat().st_size > 10_000


def test_the_app_names_what_the_recipe_defines(monkeypatch):
    app = tomllib.loads((RECIPE.parent / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    monkeypatch.syspath_prepend(str(RECIPE.parent))
    import federated_fair

    for component in app["components"].values():
        module, name = component.split(":")
        assert module == "federated_fair" and callable(getattr(federated_fair, name))
    assert app["config"] == {"rounds": federated_fair.ROUNDS, "weight": federated_fair.WEIGHT}
    assert importlib.metadata.version("flwr").startswith("1.42.")
