"""The main recipe as a user runs it, in its quick form."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig

from hf_lifelong.cli.learning import parse
from hf_lifelong.evaluation import AccuracyMatrix

RECIPE = Path(__file__).parents[2] / "recipes" / "sentiment_then_qa.py"


def run(*options: str, launcher: tuple[str, ...] = (sys.executable,)) -> subprocess.CompletedProcess:
    # Without a number of threads the launcher notes, before any script begins, which it has chosen.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, str(RECIPE), *options], capture_output=True, text=True, env=environment, timeout=600
    )


@pytest.mark.slow
def test_quick_run_under_the_launcher_learns_saves_answers_and_prints_what_a_newcomer_needs(bert_folder, tmp_path):
    out = tmp_path / "out"
    profile = RECIPE.parent / "accelerate" / "cpu.yaml"
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(profile))
    small = ("--max_train_samples", "40", "--max_test_samples", "8", "--max_length", "64", "--stride", "16")
    tiny = ("--model_name_or_path", str(bert_folder), *small)
    done = run("--quick", *tiny, "--output_dir", str(out), launcher=launcher)
    assert done.returncode == 0, done.stderr[-3000:]
    text = done.stdout
    first, second = text.splitlines()[:2]
    assert "scores are lower" in first
    assert second.startswith("Learning sentiment (36 rows, 3 steps), then answers (36 rows, ")
    shown = [line for line in done.stderr.splitlines() if line.strip()]  # bars only: no notes of other libraries
    titles = ["sentiment (1 of 2)", "answers (2 of 2)", "one LoRA, sentiment", "one LoRA, answers"]
    assert list(dict.fromkeys(line.partition(":")[0] for line in shown)) == titles, done.stderr[-3000:]
    assert "100%" in shown[-1] and "average accuracy so far 0." in done.stderr
    assert "{" not in text  # no dictionaries of numbers
    for words in ("after sentiment", "after answers", "oracle (right group given)", "one LoRA, task after task"):
        assert words in text
    assert text.count("→ [sentiment]") + text.count("→ [answers]") == 6
    for name in ("adapter_model.safetensors", "adapter_config.json", "accuracy_matrix.json", "accuracy_matrix.png"):
        assert (out / name).stat().st_size > 0


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPE.parent))
    import sentiment_then_qa

    return sentiment_then_qa


def test_config_file_and_command_line_together(recipe, tmp_path):
    config = tmp_path / "x.yaml"
    config.write_text("members: 3\nlearning_rate: 0.0005\nnum_train_epochs: 7\n")
    argv = ["--config", str(config), "--num_train_epochs", "2", "--output_dir", str(tmp_path), "--quick"]
    learning, adapter, args, own = recipe.read_arguments(argv)
    assert (adapter.members, args.learning_rate, args.num_train_epochs) == (3, 5e-4, 2)
    assert (adapter.max_length, learning.max_train_samples, own.plain_lora) == (192, 300, True)
    assert [Path(task["dataset"]).is_dir() for task in learning.tasks] == [True, True]
    assert AutoConfig.from_pretrained(learning.model_name_or_path).max_position_embeddings >= adapter.max_length


def test_new_task_yaml_is_what_learn_takes(recipe):
    learning, adapter, _ = parse(["--config", str(RECIPE.parent / "configs" / "new_task.yaml")])
    assert learning.adapter == recipe.DEFAULTS["output_dir"] and not any(vars(adapter).values())
    assert [source.name for source in learning.sources] == ["topics"]


@pytest.mark.parametrize("four_bits", [False, True])
def test_the_record_is_there_before_the_adapter_is_loaded_again_as_it_was_trained(
    recipe, four_bits, tmp_path, monkeypatch
):
    matrix = AccuracyMatrix()
    matrix.add("sentiment", "accuracy", 0.5, {"sentiment": 0.9})
    trainer = SimpleNamespace(is_world_process_zero=lambda: True, matrix=matrix, model=None, tasks=[])
    monkeypatch.setattr(recipe, "learn", lambda *given: (trainer, {"eval_bwt": 0.0}))
    monkeypatch.setattr(recipe, "active_config", lambda model: SimpleNamespace(task_type=None))
    monkeypatch.setattr(recipe, "mute_bars", lambda: None)  # for all tests after it
    monkeypatch.setattr(recipe, "adapter_record", lambda trainer: {})
    monkeypatch.setattr(recipe, "load", lambda folder, **options: pytest.fail(f"{folder} {sorted(options.items())}"))
    argv = ["--output_dir", str(tmp_path), "--plain_lora", "False", "--load_in_4bit", str(four_bits)]
    options = [("dtype", torch.float32), ("load_in_4bit", four_bits)]
    with pytest.raises(pytest.fail.Exception, match=re.escape(f"{tmp_path} {options}")):
        recipe.main(argv)
    assert json.loads((tmp_path / "recipe_scores.json").read_text())["matrix"] == matrix.to_dict()


@pytest.mark.parametrize("where", ["file", "line"])
def test_unknown_keys_are_refused_by_name(recipe, tmp_path, where, capsys):
    config = tmp_path / "x.yaml"
    config.write_text("learning_rat: 0.1\n" if where == "file" else "members: 3\n")
    with pytest.raises(SystemExit) as stopped:
        recipe.main(["--config", str(config), *(["--learning_rat", "0.1"] if where == "line" else [])])
    assert stopped.value.code == 2 and "learning_rat" in capsys.readouterr().err


def test_the_same_tasks_on_a_language_model(recipe, tiny_language_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recipe, "mute_bars", lambda: None)  # for all tests after it
    out = tmp_path / "out"
    config = RECIPE.parent / "configs" / "causal_lm.yaml"
    small = ("--max_train_samples", "40", "--max_test_samples", "8", "--num_train_epochs", "1", "--members", "2")
    folder = str(tiny_language_folder("llama"))
    recipe.main(["--config", str(config), "--model_name_or_path", folder, *small, "--output_dir", str(out)])
    told = capsys.readouterr().out
    assert told.count("→ [sentiment]") + told.count("→ [answers]") == 6
    scores = json.loads((out / "recipe_scores.json").read_text())
    assert scores["matrix"]["tasks"] == ["sentiment", "answers"]
    assert [len([s for s in row if s is not None]) for row in scores["plain_lora"]] == [1, 2]
    assert "eval_sentiment_accuracy" in scores["summary"]
