"""Three tasks one after another on a language model, all as text: sentiment, questions, topics.

    python benchmarks/causal_lm.py --data_dir DATA --model MODEL

Ours against one LoRA (stock PEFT, stock Trainer, the same layers, rank, data and steps) trained on task after task.
Prompts carry no instruction that would name the task: a review sentence, a context with its question, a headline.
Every (method, seed) is a row of `benchmarks/results/causal_lm.json`; rows that are there are not run again. MODEL is a
folder or Hub id; `recipes/sentiment_then_qa.py --config recipes/configs/causal_lm.yaml` writes such a folder.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import load_dataset
from peft import get_peft_model
from record import RESULTS, fill, header
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from hf_lifelong import AccuracyMatrix, DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, Task
from hf_lifelong.training import adapter_record

sys.path.append(str(Path(__file__).parents[1] / "recipes"))
from plain_lora import learn_in_turn

BUDGET = {"epochs": 2, "batch_size": 8, "learning_rate": 5e-4, "max_length": 224, "r": 8, "members": 3}
TRAIN, VALIDATION, TEST = 200, 20, 60
METHODS = ("ours", "sequential")


def make_tasks(data_dir: str, seed: int, scale: float) -> list[Task]:
    """The stream, with parts drawn anew for each seed; the test part is the same for all."""
    tasks = []
    for name, folder in (("sentiment", "sentiment_sentences"), ("questions", "squad"), ("topics", "ag_news")):
        data = load_dataset(str(Path(data_dir) / folder))
        if name == "sentiment":
            words = datasets.ClassLabel(names=["negative", "positive"])
            data = data.cast_column("label", words)
        if name == "questions":  # longer contexts would not fit; known before any text is drawn
            data = data.filter(lambda row: len(row["context"]) <= 450)
        train, test = data["train"].shuffle(seed=seed), data["test"].shuffle(seed=0)
        sizes = [max(round(size * scale), 4) for size in (TRAIN, VALIDATION, TEST)]
        parts = train.select(range(sizes[0])), train.select(range(sizes[0], sizes[0] + sizes[1]))
        tasks.append(Task(name, "text-generation", *parts, test=test.select(range(sizes[2]))))
    return tasks


def run(method: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    set_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype)
    config = DriftAdapterConfig(
        task_type="CAUSAL_LM",
        max_new_tokens=16,
        **{k: BUDGET[k] for k in ("r", "members", "max_length")},
    )
    with tempfile.TemporaryDirectory() as out:
        settings = DriftTrainingArguments(
            out,
            seed=seed,
            num_train_epochs=BUDGET["epochs"],
            per_device_train_batch_size=BUDGET["batch_size"],
            per_device_eval_batch_size=16,
            learning_rate=BUDGET["learning_rate"],
            warmup_steps=0.1,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_steps=10,
            report_to="none",
            grouping="boundary",
            hub_base_model=args.hub_base_model,
            disable_tqdm=True,
        )
        model = get_peft_model(base, config)
        trainer = DriftTrainer(
            model, settings, tasks=make_tasks(args.data_dir, seed, args.scale), processing_class=tokenizer
        )
        prepared = [trainer.prepared(task) for task in trainer.tasks]
        start = time.time()
        if method == "sequential":
            base = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype)
            scores = learn_in_turn(base, prepared, settings, config)
            matrix = AccuracyMatrix()
            names = [task.name for task in trainer.tasks]
            for i, name in enumerate(names):
                found = {n: s for n, s in zip(names, scores[i], strict=True) if s is not None}
                matrix.add(name, "exact_match", None, found)
            return {"seconds": round(time.time() - start), "matrix": matrix.to_dict(), "summary": matrix.summary()}
        trainer.train()
        seconds = round(time.time() - start)
        scores = trainer.evaluate()
        record = adapter_record(trainer, seconds=seconds)
        matrix = trainer.matrix
        Path(out, "adapter").mkdir()
        model.save_pretrained(str(Path(out, "adapter")))
        size = Path(out, "adapter", "adapter_model.safetensors").stat().st_size
    details = {key.removeprefix("eval_"): value for key, value in scores.items() if key.startswith("eval_")}
    summary = matrix.summary()
    measured = {"matrix": matrix.to_dict(), "summary": summary, "details": details}
    return {"seconds": seconds, "bytes": size, **measured, "adapter": record}


def summarise(rows: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    summary = {}
    for method in METHODS:
        own = [row["summary"] for row in rows if row["method"] == method]
        for key in ("average_accuracy", "learning_accuracy", "forgetting", "bwt", "retrieval_accuracy"):
            values = [row[key] for row in own if row.get(key) is not None]
            if values:
                summary[f"{method}_{key}"] = round(sum(values) / len(values), 4)
    head = header("causal_lm")
    head["command"] = "python benchmarks/causal_lm.py --data_dir DATA --model SMOLLM2"
    sizes = {"train_texts": TRAIN, "validation_texts": VALIDATION, "test_texts": TEST}
    budget = {**BUDGET, **sizes, "bf16_autocast": True, "metric": "exact match of what is generated"}
    return {**head, "model": Path(args.model).name, "budget": budget, "summary": summary, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="folder with one data set a folder")
    parser.add_argument("--model", required=True, help="folder or Hub id of a causal language model")
    parser.add_argument("--hub_base_model", help="the model's name on the Hub, for one from a folder")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the texts, for a trial")
    parser.add_argument("--out", default=str(RESULTS / "causal_lm.json"))
    args = parser.parse_args()
    datasets.disable_progress_bars()
    fill(
        Path(args.out),
        args.methods,
        args.seeds,
        lambda method, seed: run(method, seed, args),
        lambda rows: summarise(rows, args),
    )


if __name__ == "__main__":
    main()
