"""Everything that needs a GPU, in at most nine minutes and one record; `gpu.sh` installs what it needs and runs it.

    bash benchmarks/gpu.sh                     # writes out/gpu/gpu.json
    bash benchmarks/gpu.sh --tiny FOLDER       # the same on a CPU in tiny shapes, to see that it runs: no figures

Each part is a script of this folder in a process with a time limit of its own, and has its row in the record as soon
as it ends. A part that fails stops no other; started again on the same folder, only the parts run that are not done.
All models have random weights: nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from record import header

HERE = Path(__file__).parent
MODEL = "random-minilm-l6"
"""Folder of the encoder, in the folder where the parts run."""


@dataclass(frozen=True)
class Part:
    """A script and what it is told.

    Args:
        name (`str`): Of the script and of its row in the record.
        seconds (`int`): What it may take.
        full (`tuple[str, ...]`): Its arguments on a GPU.
        tiny (`tuple[str, ...]`): Its arguments with `--tiny`.
        needs (`str`, *optional*): A package without which it is skipped.
    """

    name: str
    seconds: int
    full: tuple[str, ...]
    tiny: tuple[str, ...]
    needs: str | None = None


PARTS = (
    Part("memory", 90, ("--model", MODEL, "--device", "cuda", "--jobs", "6"), ("--model", MODEL, "--tiny")),
    Part("gpu_8b", 120, (), ("--tiny",), needs="bitsandbytes"),
    Part(
        "training",
        100,
        ("--model", MODEL, "--data", "sentiment_sentences", "--bf16"),
        ("--model", MODEL, "--data", "sentiment_sentences", "--tiny", "--shapes"),
    ),
    Part("answering", 110, ("--model", MODEL), ("--model", MODEL, "--tiny")),
    Part("compiled", 90, ("--model", MODEL), ("--model", MODEL, "--tiny")),
)


class Record:
    """The rows of the parts in a file that is always whole.

    Args:
        path (`Path`): The file; it need not exist.
        tiny (`bool`): Whether the shapes are tiny.
    """

    def __init__(self, path: Path, tiny: bool) -> None:
        self.path, self.tiny = path, tiny
        known = json.loads(path.read_text()) if path.exists() else {"tiny": tiny, "parts": []}
        if known["tiny"] != tiny:
            raise SystemExit(f"`{path}` was made {'with' if not tiny else 'without'} --tiny: give another folder.")
        self.rows: dict[str, dict[str, Any]] = {row["part"]: row for row in known["parts"]}

    def done(self, part: Part) -> bool:
        row = self.rows.get(part.name, {})
        return "result" in row and "error" not in row

    def put(self, row: dict[str, Any]) -> None:
        self.rows[row["part"]] = row
        rows = [self.rows[part.name] for part in PARTS if part.name in self.rows]
        head = {**header("bash benchmarks/gpu.sh"), "tiny": self.tiny}
        beside = self.path.with_suffix(".part")
        beside.write_text(json.dumps({**head, "parts": rows}, indent=1) + "\n")
        beside.replace(self.path)


def run(command: list[str], seconds: float, folder: Path, log: Path) -> str | None:
    """Runs a command in a folder; returns why it failed, `None` if it did not."""
    # `timeout` also ends the processes that the command has started.
    limited = ["timeout", "--kill-after=5", f"{seconds:.0f}", *command]
    with log.open("w") as output, subprocess.Popen(limited, cwd=folder, stdout=output, stderr=output) as process:
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            raise
    lines = log.read_text().strip().splitlines()
    print("\n".join(lines[-30:]), flush=True)
    if code == 0:
        return None
    return f"stopped after {seconds:.0f} s" if code in (124, 137) else (lines or [f"exit status {code}"])[-1]


def measure(part: Part, known: dict[str, Any], tiny: bool, seconds: float, folder: Path) -> dict[str, Any]:
    """Runs a part that has `known` as its row so far; returns its new row."""
    print(f"== {part.name}", flush=True)
    if part.needs is not None and find_spec(part.needs) is None:
        return {"part": part.name, "skipped": f"{part.needs} is not installed"}
    if seconds < 1:
        return {**known, "part": part.name, "error": "no time was left"}
    out = folder / f"{part.name}.json"
    if "result" in known:
        out.write_text(json.dumps(known["result"]))  # some scripts go on with what is there
    command = [sys.executable, str(HERE / f"{part.name}.py"), *(part.tiny if tiny else part.full), "--out", str(out)]
    start = time.monotonic()
    error = run(command, min(seconds, part.seconds), folder, folder / f"{part.name}.log")
    row: dict[str, Any] = {"part": part.name, "seconds": round(time.monotonic() - start, 1)}
    if error is not None:
        row["error"] = error
    found = [result for result in (result_in(out), known.get("result")) if result is not None]
    if found:  # of two that are not whole, the one that has more
        row["result"] = found[0] if error is None else max(found, key=lambda result: len(json.dumps(result)))
    return row


def result_in(path: Path) -> Any:
    """What a part wrote; `None` if it wrote nothing, or was killed while it did."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, help="folder of `gpu.json`; default: out/gpu or out/gpu-tiny")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, also without a GPU, to see that it runs")
    parser.add_argument("--seconds", type=float, default=530, help="what all parts may take together")
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    out = args.out or HERE.parent / "out" / ("gpu-tiny" if args.tiny else "gpu")
    out.mkdir(parents=True, exist_ok=True)
    record = Record(out / "gpu.json", args.tiny)
    missing = [part for part in PARTS if not record.done(part)]
    if not missing:
        raise SystemExit(f"`{record.path}` has every part.")
    if not args.tiny:
        import torch

        if not torch.cuda.is_available():
            raise SystemExit("PyTorch finds no GPU here. Give `--tiny` to see on a CPU that it runs.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the part that runs, too
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        encoder = [sys.executable, str(HERE / "random_encoder.py"), MODEL, *(["--tiny"] if args.tiny else [])]
        error = run(encoder, end - time.monotonic(), folder, folder / "encoder.log")
        if error is not None:
            raise SystemExit(f"No model could be made: {error}")
        for part in missing:
            record.put(measure(part, record.rows.get(part.name, {}), args.tiny, end - time.monotonic(), folder))
    failed = {name: row["error"] for name, row in record.rows.items() if "error" in row}
    if failed:
        raise SystemExit("\n".join(["Not done:", *(f"{name}: {error}" for name, error in failed.items())]))


if __name__ == "__main__":
    main()
