"""Two processes (gloo, CPU) prune the same weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.feature("prune", "DDP")
def test_two_processes(bert_folder, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = Path(__file__).parent / "ddp_script.py"
    done = subprocess.run(
        [*launch, script, bert_folder, tmp_path], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr[-5000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first["wrapped"] == "DistributedDataParallel"
    assert first["weighed"][2] > 0
    assert first["one"][2] and first["rounds"][2]
    assert first["remaining"] < 0.8 and first["steps"][2][0] < first["steps"][1][0] < 1
