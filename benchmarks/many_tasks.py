"""Knowledge bases of up to 1,000 groups: what it takes to save, load, ask, extend and cut them.

    python benchmarks/many_tasks.py --model MODEL           # MODEL: an encoder; add --groups 20 for a run of seconds

Members are random. Seconds are of single operations, each beside what bounds it: saving and loading beside writing
and reading the same bytes, an answer beside that with 10 groups.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from banks import LABELS, fill, make_base
from peft import PeftModel, get_peft_model
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from record import RESULTS, header

from hf_lifelong import DriftAdapterConfig, forget, knowledge_of, predict
from hf_lifelong.adapter import add_task, close_task, lifelong_of, open_task, take_snapshot, trunk_features
from hf_lifelong.knowledge import LearnedTask, fit_signature

ROWS, TOKENS = 8, 64


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    start = time.perf_counter()
    found = run()
    return time.perf_counter() - start, found


def megabytes() -> float:
    return psutil.Process().memory_info().rss / 1e6


def read(path: Path) -> None:
    """Reads a file into memory of its own, as fast as it goes."""
    with path.open("rb", buffering=0) as file:
        whole = memoryview(bytearray(path.stat().st_size))
        while len(whole):
            whole = whole[file.readinto(whole) :]


def write(source: Path, target: Path) -> None:
    with source.open("rb", buffering=0) as file, target.open("wb", buffering=0) as copy:
        while block := file.read(2**24):
            copy.write(block)
        os.fsync(copy.fileno())


def learn_one(model: Any, features: torch.Tensor) -> None:
    """Adds a task with as many members as the others, as the end of training does."""
    config = lifelong_of(model).config["default"]
    open_task(model, "text-classification", LABELS, len(LABELS))
    snapshots = [take_snapshot(model) for _ in range(config.members)]
    task = LearnedTask("new", "text-classification", LABELS, len(LABELS), config.members, "new", len(features))
    add_task(model, task, snapshots, fit_signature(features, config.signature_rank))
    close_task(model)
    model.eval()


def answer_time(model: Any, batch: dict[str, torch.Tensor], rounds: int) -> float:
    with torch.inference_mode():
        model(**batch)
        return statistics.median(seconds(lambda: model(**batch))[0] for _ in range(rounds))


def measure(name: str, groups: int, rounds: int, place: Path) -> dict[str, Any]:
    """All operations on a knowledge base of one size."""
    base = make_base(name)
    batch = {"input_ids": torch.randint(5, 1000, (ROWS, TOKENS))}
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    model = get_peft_model(base, DriftAdapterConfig())
    features = trunk_features(model, batch)
    far = features.mean(0) + 4 * features.std() * torch.randn(max(groups - ROWS, 0), features.shape[1])
    variance = torch.full((features.shape[1],), float(features.var()) * 0.01)
    fill(model, torch.cat([features, far])[:groups], variance)
    folder, copy = place / "adapter", place / "copy"
    row: dict[str, Any] = {"groups": groups}
    row["save_seconds"], _ = seconds(lambda: model.save_pretrained(folder))
    tensors = folder / SAFETENSORS_WEIGHTS_NAME
    row["bytes"] = tensors.stat().st_size
    row["write_seconds"], _ = seconds(lambda: write(tensors, copy))
    copy.unlink()
    expected = predict(model, batch)
    del model, base
    for kind, options in {"": {}, "mapped_": {"low_cpu_mem_usage": True}}.items():
        base = make_base(name)
        reads = [seconds(lambda: read(tensors))[0] for _ in range(2)]
        before = megabytes()
        row[f"{kind}load_seconds"], model = seconds(
            lambda base=base, options=options: PeftModel.from_pretrained(base, folder, **options)
        )
        row["read_seconds"] = min(*reads, row.get("read_seconds", reads[0]))
        row[f"{kind}load_megabytes"] = megabytes() - before
        row[f"{kind}first_answer_seconds"], answer = seconds(lambda model=model: predict(model, batch))
        torch.testing.assert_close(answer.scores, expected.scores)
        row[f"{kind}answer_seconds"] = answer_time(model, batch, rounds)
        if not kind:
            row["add_seconds"], _ = seconds(lambda model=model: learn_one(model, features + 9))
            row["answer_after_add_seconds"], _ = seconds(lambda model=model: predict(model, batch))
            row["forget_seconds"], _ = seconds(lambda model=model: forget(model, f"task-{groups // 2}"))
            if len(knowledge_of(model).groups) != groups:
                raise RuntimeError("one task was added and one forgotten, but the number of groups is another")
        del model, base
    config = DriftAdapterConfig.from_pretrained(folder)
    config.resident_groups = min(16, groups)
    model = PeftModel.from_pretrained(make_base(name), folder, config=config, low_cpu_mem_usage=True)
    row["resident_answer_seconds"] = answer_time(model, batch, rounds)
    return {key: round(value, 5) for key, value in row.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or Hub id of an encoder")
    parser.add_argument("--groups", type=int, default=1000, help="largest number of groups")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", default=str(RESULTS / "many_tasks.json"))
    args = parser.parse_args()
    rows = []
    for groups in sorted({10, 100, args.groups}):
        if groups <= args.groups:
            with tempfile.TemporaryDirectory() as place:
                rows.append(measure(args.model, groups, args.rounds, Path(place)))
            print(rows[-1], flush=True)
    few, most = rows[0], rows[-1]
    summary = {
        "groups": most["groups"],
        "bytes_per_group": round(most["bytes"] / most["groups"]),
        "load_to_read": round(most["load_seconds"] / most["read_seconds"], 3),
        "mapped_load_to_read": round(most["mapped_load_seconds"] / most["read_seconds"], 3),
        "save_to_write": round(most["save_seconds"] / most["write_seconds"], 3),
        "answer_to_10_groups": round(most["answer_seconds"] / few["answer_seconds"], 3),
        "resident_answer_to_all": round(most["resident_answer_seconds"] / most["answer_seconds"], 3),
        **{key: most[key] for key in ("first_answer_seconds", "add_seconds", "forget_seconds")},
    }
    head = header("python benchmarks/many_tasks.py --model MODEL", args.model)
    result = {**head, "batch": [ROWS, TOKENS], "summary": summary, "rows": rows}
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
