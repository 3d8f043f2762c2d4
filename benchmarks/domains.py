"""Six tasks one after another: what is kept, against one LoRA per task and one LoRA for all.

    python benchmarks/domains.py --data_dir DATA --model MODEL

Every (method, seed) is a cell with its own JSON under `--cells`; cells that are there are not run again. The summary of
all cells is written to `benchmarks/results/domains.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import datasets
from rivals import separate_lora, sequential_lora
from streams import STREAMS, load_task

HERE = Path(__file__).parent
BUDGET = {"epochs": 3, "batch_size": 16, "learning_rate": 1e-3, "max_length": 64}
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

        result = drift(tasks, args.model, seed, BUDGET)
    return {"method": method, "seed": seed, "seconds": round(time.time() - start, 1), **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="folder with one data set a folder; without it they come from the Hub")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cells", default=str(HERE / "cells" / "domains"))
    args = parser.parse_args()
    datasets.disable_progress_bars()
    for seed in args.seeds:
        for method in args.methods:
            path = Path(args.cells) / f"{method}-{seed}.json"
            if path.exists():
                continue
            cell = run_cell(method, seed, args)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(cell, indent=1))
            print(f"{method} seed {seed}: {cell['accuracy']:.4f} in {cell['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
