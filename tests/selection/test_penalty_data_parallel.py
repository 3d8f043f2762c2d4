"""Two processes (gloo, CPU) keep the same zeros."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_two_processes(tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = Path(__file__).parent / "penalty_ddp_script.py"
    done = subprocess.run([*launch, script, tmp_path], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["wrapped"] == "DistributedDataParallel"
    assert all(first["live"][:3]) and sum(first["live"]) < 8
