"""Two clients that learn three tasks together, against one learner that has all rows.

    python benchmarks/federated.py --data_dir DATA --model MODEL

`federated` shares the rows of each task out evenly, `federated_skewed` by labels: client 0 has four fifths of the
first half of the labels and one fifth of the others. Rounds and epochs give every row as many passes as the learner
that has all of them. Every (method, seed) is a row of `benchmarks/results/federated.json`; rows that are there are not
run again.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import get_peft_model
from record import RESULTS, fill, header
from streams import load_task
from transformers import AutoModel, AutoTokenizer

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, Task, knowledge_of

TASKS = ("sst2", "ag_news", "trec")
TRAIN_SIZE, TEST_SIZE, ROUNDS, MEMBERS, CLIENTS = 300, 500, 4, 2, 2
SETTINGS = {"per_device_train_batch_size": 16, "learning_rate": 2e-3, "report_to": "none", "save_strategy": "no"}
METHODS = ("pooled", "federated", "federated_skewed")


def make_model(folder: str) -> Any:
    torch.manual_seed(0)
    base = AutoModel.from_pretrained(folder, dtype=torch.float32)
    return get_peft_model(base, DriftAdapterConfig(members=MEMBERS, max_length=64, stride=16))


def make_args(folder: Path, seed: int, epochs: int) -> DriftTrainingArguments:
    return DriftTrainingArguments(
        str(folder),
        num_train_epochs=epochs,
        seed=seed,
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
        **SETTINGS,
    )


def share(rows: Dataset, client: int, skewed: bool, label: str) -> Dataset:
    """A client's rows: every second one, or more of one half of the labels."""
    place = np.arange(len(rows))
    if skewed:
        labels = np.asarray(rows[label][:])
        first = np.isin(labels, np.unique(labels)[: len(np.unique(labels)) // 2])
        owner = np.where(first == (place % 5 > 0), 0, 1)
    else:
        owner = place % CLIENTS
    return rows.select(np.flatnonzero(owner == client))


def pooled(tasks: list[dict[str, Any]], model: str, seed: int, folder: Path) -> Any:
    args = make_args(folder / "pooled", seed, ROUNDS)
    learner = make_model(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    DriftTrainer(learner, args, tasks=[Task(**task) for task in tasks], processing_class=tokenizer).train()
    return learner, {}


def federated(tasks: list[dict[str, Any]], model: str, seed: int, folder: Path, skewed: bool) -> Any:
    from hf_lifelong.federated import InProcessGrid, SharedTask, learn_together, lifelong_client

    def make_trainer(context: Any) -> DriftTrainer:
        client = context.node_config["partition-id"]
        own = [
            Task(
                **{
                    key: share(value, client, skewed, task["columns"]["label"])
                    if isinstance(value, Dataset)
                    else value
                    for key, value in task.items()
                }
            )
            for task in tasks
        ]
        args = make_args(folder / f"client {client}", seed, 1)
        tokenizer = AutoTokenizer.from_pretrained(model)
        return DriftTrainer(make_model(model), args, tasks=own, processing_class=tokenizer)

    class Counted(InProcessGrid):
        received = 0

        def answer(self, message: Any) -> Any:
            reply = super().answer(message)
            arrays = reply.content.array_records.values() if not reply.has_error() else []
            self.received += sum(len(array.data) for record in arrays for array in record.values())
            return reply

    server, grid = make_model(model), Counted(lifelong_client(make_trainer), CLIENTS)
    shared = [
        SharedTask(task["name"], tuple(task["train"].features[task["columns"]["label"]].names)) for task in tasks
    ]
    learn_together(grid, server, shared, make_args(folder / "server", seed, 1), rounds=ROUNDS)
    files = [folder / name / "adapter_model.safetensors" for name in ("server", "client 0", "client 1")]
    digests = {hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return server, {"same_bytes": len(digests) == 1, "sent_mb_per_client": round(grid.received / CLIENTS / 1e6, 1)}


def run_cell(method: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    tasks = [load_task(name, args.data_dir, seed, TRAIN_SIZE, test_size=TEST_SIZE) for name in TASKS]
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        if method == "pooled":
            model, noted = pooled(tasks, args.model, seed, Path(folder))
        else:
            model, noted = federated(tasks, args.model, seed, Path(folder), method == "federated_skewed")
    scores = knowledge_of(model).scores
    last, oracle = scores["scores"][-1], scores["oracle"][-1]
    return {
        "seconds": round(time.process_time() - start),
        "accuracy": round(sum(last) / len(last), 4),
        "oracle_accuracy": round(sum(oracle) / len(oracle), 4),
        "retrieval": round(sum(scores["retrieval"][-1]) / len(last), 4),
        "by_task": dict(zip(scores["tasks"], [round(score, 4) for score in last], strict=True)),
        **noted,
    }


def summarise(rows: list[dict[str, Any]], model: str) -> dict[str, Any]:
    def mean(method: str) -> float | None:
        values = [row["accuracy"] for row in rows if row["method"] == method]
        return round(sum(values) / len(values), 4) if values else None

    summary: dict[str, Any] = {f"{method}_accuracy": mean(method) for method in METHODS}
    seeds = {method: {row["seed"]: row["accuracy"] for row in rows if row["method"] == method} for method in METHODS}
    for method in METHODS[1:]:
        apart = [score - seeds["pooled"][seed] for seed, score in seeds[method].items() if seed in seeds["pooled"]]
        summary[f"{method}_minus_pooled"] = [round(difference, 4) for difference in apart]
    found = header("python benchmarks/federated.py --data_dir DATA --model MODEL", model)
    versions = {**found["versions"], "flwr": version("flwr")}
    settings = {
        "train_rows": TRAIN_SIZE,
        "test_rows": TEST_SIZE,
        "rounds": ROUNDS,
        "members": MEMBERS,
        "clients": CLIENTS,
        **SETTINGS,
    }
    note = "`seconds` are CPU seconds of one process on a machine with other work"
    told = {"versions": versions, "settings": settings, "note": note}
    return {**found, **told, "summary": summary, "rows": rows}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="folder with one data set a folder; without it they come from the Hub")
    parser.add_argument("--model", default="sentence-transformers/paraphrase-MiniLM-L3-v2")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--out", default=str(RESULTS / "federated.json"))
    args = parser.parse_args()
    run, summary = partial(run_cell, args=args), partial(summarise, model=args.model)
    fill(Path(args.out), args.methods, args.seeds, run, summary)
