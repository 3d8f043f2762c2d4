"""The launch profiles are what accelerate takes, and start what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands import launch
from accelerate.commands.config.config_args import load_config_from_file

RECIPES = Path(__file__).parents[2] / "recipes"
PROFILES = {path.stem: path for path in (RECIPES / "accelerate").glob("*.yaml")}
# What accelerate chooses its launcher and the sharding by.
CHOSEN = {
    "cpu": {"use_cpu": True, "num_processes": 1},
    "gpu": {"use_cpu": False, "num_processes": 1, "gpu_ids": "0"},
    "ddp": {"multi_gpu": True, "num_processes": 2},
    "fsdp2": {"use_fsdp": True, "num_processes": 2, "fsdp_version": 2, "fsdp_state_dict_type": "FULL_STATE_DICT"},
    "zero2": {"use_deepspeed": True, "num_processes": 2, "zero_stage": 2},
    "zero3": {"use_deepspeed": True, "num_processes": 2, "zero_stage": 3},
}


@pytest.fixture
def launched(monkeypatch):
    """`launched(profile)`: the arguments with which `accelerate launch --config_file` would start its processes."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    starts = []
    for launcher in ("simple_launcher", "multi_gpu_launcher", "deepspeed_launcher"):
        monkeypatch.setattr(launch, launcher, starts.append)

    def read(profile):
        parser = launch.launch_command_parser()
        launch.launch_command(parser.parse_args(["--config_file", str(PROFILES[profile]), "script.py"]))
        return starts.pop()

    return read


def test_there_is_a_profile_for_each_way_of_launching():
    assert PROFILES.keys() == CHOSEN.keys()


@pytest.mark.parametrize("profile", CHOSEN)
def test_accelerate_reads_the_profile_and_chooses_as_it_says(profile, launched):
    args = launched(profile)
    assert {name: getattr(args, name) for name in CHOSEN[profile]} == CHOSEN[profile]
    launchers = {name for name in ("multi_gpu", "use_fsdp", "use_deepspeed", "tpu") if getattr(args, name)}
    assert launchers == CHOSEN[profile].keys() & {"multi_gpu", "use_fsdp", "use_deepspeed"}


@pytest.mark.parametrize("profile", CHOSEN)
def test_no_setting_of_a_profile_is_one_that_accelerate_does_not_know(profile):
    known = vars(launch.launch_command_parser().parse_args(["script.py"]))  # the loader checks the first level alone
    config = load_config_from_file(str(PROFILES[profile]))
    assert {*config.fsdp_config, *config.deepspeed_config} <= known.keys()


@pytest.mark.slow
def test_the_ddp_profile_starts_two_processes_that_learn_the_recipe(bert_folder, tmp_path):
    small = ("--quick", "--max_train_samples", "40", "--max_test_samples", "8", "--max_length", "64", "--stride", "16")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(PROFILES["ddp"])),
            *("--main_process_port", "0", str(Path(__file__).with_name("launched_recipe.py")), str(tmp_path)),
            *(str(RECIPES / "sentiment_then_qa.py"), "--model_name_or_path", str(bert_folder), *small),
            *("--plain_lora", "False", "--use_cpu", "--output_dir", str(tmp_path / "out")),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert {(tmp_path / f"rank{rank}").read_text() for rank in (0, 1)} == {"2 MULTI_CPU"}
    assert json.loads((tmp_path / "out" / "accuracy_matrix.json").read_text())["tasks"] == ["sentiment", "answers"]
    assert done.stdout.count("→ [sentiment]") + done.stdout.count("→ [answers]") == 6  # told by one process


def test_the_settings_of_a_base_in_4_bits_are_those_of_the_recipe(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(RECIPES))
    import sentiment_then_qa

    line = ["--config", str(RECIPES / "configs" / "llama_4bit.yaml"), "--output_dir", str(tmp_path)]
    learning, adapter, args, _ = sentiment_then_qa.read_arguments([*line, "--use_cpu"])
    assert adapter.task_type == "CAUSAL_LM" and learning.load_in_4bit
    assert (args.bf16, args.gradient_checkpointing, args.optim) == (True, True, "paged_adamw_8bit")
