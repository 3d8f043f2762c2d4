"""Six tasks one after another: what is kept, against one LoRA per task and one LoRA for all.

    python benchmarks/domains.py --data_dir DATA --model MODEL

Every (method, seed) is a row of `benchmarks/results/domains.json`; rows that are there are not run again, so the file
fills up over several runs and machines.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from record import RESULTS, fill, header
from rivals import separate_lora, sequential_lora
from streams import STREAMS, load_task

BUDGET = {"epochs": 3, "batch_size": 16, "learning_rate": 2e-3, "max_length": 64}
TRAIN_SIZE = 2000
METHODS = ("separate", "sequential", "ours")


def run_cell(method: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    tasks = [load_task(name, args.data_dir, seed, TRAIN_SIZE) for name in STREAMS["domains"]]
    start = time.time()
    if method == "separate":
        result = separate_lora(tasks, args.model, seed, BUDGET)
    elif method == "sequential":
        result = sequential_lora(tasks, args.model, seed, BUDGET)
    else:
        from ours import drift

        result = drift(tasks, args.model, seed, BUDGET, drift={"hub_base_model": args.hub_base_model})
    return {"seconds": round(time.time() - start, 1), **result}


def summarise(rows: list[dict[str, Any]], model: str) -> dict[str, Any]:
    """One result file: means over the seeds, and every row."""
    of = {method: [row for row in rows if row["method"] == method] for method in METHODS}

    def mean(method: str, key: str) -> float | None:
        values = [row[key] for row in of[method] if row.get(key) is not None]
        return round(sum(values) / len(values), 4) if values else None

    ours = [row["summary"] for row in of["ours"]]
    summary = {
        "separate_lora_accuracy": mean("separate", "accuracy"),
        "sequential_lora_accuracy": mean("sequential", "accuracy"),
        "sequential_lora_accuracy_task_given": mean("sequential", "accuracy_task_given"),
        "bytes_per_task": round(size / len(STREAMS["domains"])) if (size := mean("ours", "bytes")) else None,
    }
    for key in ("oracle_accuracy", "learning_accuracy", "forgetting", "bwt"):
        summary[key] = round(sum(s[key] for s in ours) / len(ours), 4) if ours else None
    for key in ("accuracy", "retrieval"):
        for policy in ("signature", "cascade", "uncertainty"):
            summary[f"{key}_{policy}"] = mean("ours", f"{key}_{policy}")
    return {
        **header("python benchmarks/domains.py --data_dir DATA --model MODEL", model),
        "budget": {
            **BUDGET,
            "bf16_autocast": True,
            "train_texts": TRAIN_SIZE,
            "stream": STREAMS["domains"],
        },
        "seeds": {method: sorted(row["seed"] for row in of[method]) for method in METHODS},
        "summary": summary,
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="folder with one data set a folder; without it they come from the Hub")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--hub_base_model", help="the model's name on the Hub, for one from a folder")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", default=str(RESULTS / "domains.json"))
    args = parser.parse_args()
    datasets.disable_progress_bars()
    run, summary = partial(run_cell, args=args), partial(summarise, model=args.model)
    fill(Path(args.out), args.methods, args.seeds, run, summary)


if __name__ == "__main__":
    main()
