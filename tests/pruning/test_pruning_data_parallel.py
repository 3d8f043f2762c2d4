"""Two processes (gloo, CPU) prune the same weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.feature("prune", "DDP")
def test_two_processes(bert_folder, tmp_path):
    here = Path(__file__).parent
    command = [sys.executable, here.parent / "two_ranks.py", here / "pruning_ddp_script.py", bert_folder, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-5000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["wrapped"] == "DistributedDataParallel"
    assert first["weighed"][2] > 0
    assert first["one"][2] and first["rounds"][2]
    assert first["remaining"] < 0.8 and first["steps"][2][0] < first["steps"][1][0] < 1
