"""What every result file states: how, when, where and with what it was measured."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def hardware() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{cpu}, {torch.get_num_threads()} threads, {gpu}"


def fill(
    out: Path,
    methods: list[str],
    seeds: list[int],
    run: Callable[[str, int], dict[str, Any]],
    summarise: Callable[[list[dict[str, Any]]], dict[str, Any]],
) -> None:
    """Runs every (method, seed) that a result file lacks, and writes the file after each: a killed run goes on."""
    rows = json.loads(out.read_text())["rows"] if out.exists() else []
    for seed in seeds:
        for method in methods:
            if any((row["method"], row["seed"]) == (method, seed) for row in rows):
                continue
            rows.append({"method": method, "seed": seed, **run(method, seed)})
            out.write_text(json.dumps(summarise(rows), indent=1) + "\n")
            print(f"{method} seed {seed}: {rows[-1]['seconds']} s", flush=True)


def header(name: str) -> dict[str, Any]:
    """The first entries of the result of `benchmarks/<name>.py`."""
    return {
        "name": name,
        "command": f"python benchmarks/{name}.py --data_dir DATA --model all-minilm-l6",
        "date": date.today().isoformat(),
        "hardware": hardware(),
        "versions": {p: version(p) for p in ("hf_lifelong", "torch", "transformers", "peft", "datasets")},
    }
