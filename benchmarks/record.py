"""What every result file states: how, when, where and with what it was measured."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import hf_lifelong

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
    """Runs every (method, seed) that a result file lacks, and writes the file after each: a killed run goes on.

    What the first run of `ours` returns as `adapter` is kept beside the rows: the record that `model_cards/render.py`
    reads. Where a file lacks it, that run is made again.
    """
    known = json.loads(out.read_text()) if out.exists() else {"rows": []}
    rows, adapter = known["rows"], known.get("adapter")
    for seed in seeds:
        for method in methods:
            old = [row for row in rows if (row["method"], row["seed"]) == (method, seed)]
            if old and (method != "ours" or adapter is not None):
                continue
            result = run(method, seed)
            found = result.pop("adapter", None)
            adapter = adapter if adapter is not None else found
            rows = [row for row in rows if row not in old] + [{"method": method, "seed": seed, **result}]
            record = {"adapter": adapter} if adapter is not None else {}
            out.write_text(json.dumps({**summarise(rows), **record}, indent=1) + "\n")
            print(f"{method} seed {seed}: {rows[-1]['seconds']} s", flush=True)


def header(command: str, model: str | None = None) -> dict[str, Any]:
    """The first entries of a result file.

    Args:
        command (`str`): The command that makes it, with DATA for the folder of the data sets and MODEL for the model.
        model (`str`, *optional*): The model's folder or id, of which the last part takes the place of MODEL.
    """
    name = None if model is None else Path(model).name
    return {
        "name": re.findall(r"(\w+)\.(?:py|sh)", command)[0],
        "command": command if name is None else command.replace("MODEL", name),
        **({} if name is None else {"model": name}),
        "date": date.today().isoformat(),
        "hardware": hardware(),
        # The package itself may be there as a folder of sources, which has no metadata.
        "versions": {"hf_lifelong": hf_lifelong.__version__}
        | {p: version(p) for p in ("torch", "transformers", "peft", "datasets")},
    }
