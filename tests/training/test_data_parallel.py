"""Two processes (gloo, CPU) hold the same members, and their evaluation counts every row once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from training_helpers import answers, make_trainer, scores_of, sentiment
from transformers import AutoModel

SCRIPT = Path(__file__).parent / "ddp_script.py"


@pytest.mark.slow
def test_two_processes(bert_folder, tokenizer, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, SCRIPT, bert_folder, tmp_path], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-5000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["wrapped"] == "DistributedDataParallel"
    for key in ("members", "metrics", "matrix", "scores"):
        assert first[key] == second[key], key
    assert second["marks"] == [] and len(first["marks"]) == 4  # two checkpoints a task, marked by one process
    for files in first["marks"]:
        assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(files)

    base = AutoModel.from_pretrained(bert_folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(tmp_path / "out"))
    alone = make_trainer(model, tmp_path / "alone", [sentiment(), answers()], tokenizer, per_device_eval_batch_size=5)
    metrics = alone.evaluate()
    assert {key: metrics[key] for key in first["metrics"]} == first["metrics"]
    assert len(set(first["scores"])) > 10
    assert scores_of(alone) == pytest.approx(first["scores"], abs=1e-6)


@pytest.mark.slow
def test_two_processes_teach_a_language_model(tiny_language_folder, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = SCRIPT.with_name("ddp_language_script.py")
    done = subprocess.run(
        [*launch, script, tiny_language_folder("llama"), tmp_path], capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr[-5000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and first["wrapped"] == "DistributedDataParallel"
