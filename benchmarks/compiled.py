"""What `torch.compile` makes of answering: ours with ten groups, one PEFT LoRA and the bare base.

    python benchmarks/compiled.py --model MODEL            # MODEL: an encoder; add --tiny for a run of seconds

Each is one graph (`fullgraph=True`), by inductor on a GPU. On a CPU the backend is `eager`, which shows that there is
one graph and nothing about speed. Ratios are of medians, all passes in turn.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from answering import Bench
from banks import interleaved
from record import RESULTS, header

GROUPS = 10
SHAPES = ((1, 32), (8, 128))
BACKEND = "inductor" if torch.cuda.is_available() else "eager"


@torch.no_grad()
def compare(bench: Bench, rows: int, tokens: int) -> dict[str, Any]:
    """Times of an eager and of a compiled pass of each model on one batch; how far our scores are from the eager."""
    torch.compiler.reset()
    batch = bench.batch(rows, tokens)
    bench.teach(batch, GROUPS)
    passes, compiling = {}, {}
    for name, model in {"ours": bench.ours, "lora": bench.peft, "base": bench.base}.items():
        plain = model(**batch)  # what is computed once stays out of the graph
        compiled = torch.compile(model, backend=BACKEND, fullgraph=True)
        start = time.perf_counter()
        found = compiled(**batch)
        compiling[f"compile_seconds_{name}"] = round(time.perf_counter() - start, 2)
        passes |= {name: partial(model, **batch), f"{name}_compiled": partial(compiled, **batch)}
        if name == "ours":
            known = tuple(slice(size) for size in plain.scores.shape)  # a graph pads to the largest kind
            difference = float((found.scores[known] - plain.scores).abs().max())
            same = bool(torch.equal(found.group, plain.group))
    taken = interleaved(passes, bench.rounds)
    ratios = {
        "speedup": taken["ours"] / taken["ours_compiled"],
        "ratio_to_lora": taken["ours_compiled"] / taken["lora_compiled"],
        "ratio_to_base": taken["ours_compiled"] / taken["base_compiled"],
    }
    row = {"base": bench.name, "batch": rows, "tokens": tokens, "groups": GROUPS, "same_groups": same}
    row |= {"largest_difference_of_scores": difference} | {name: round(value, 4) for name, value in ratios.items()}
    return row | compiling | {f"seconds_{name}": round(value, 6) for name, value in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or Hub id of an encoder")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--tiny", action="store_true", help="one shape and few rounds, to see that it runs")
    parser.add_argument("--out", default=str(RESULTS / "compiled.json"))
    args = parser.parse_args()
    head = header("python benchmarks/compiled.py --model MODEL", args.model)
    head |= {"settings": {"backend": BACKEND, "groups": GROUPS, "rounds": args.rounds}}
    rows: list[dict[str, Any]] = []
    bench = Bench(args.model, 2 if args.tiny else args.rounds)
    for size, tokens in SHAPES[:1] if args.tiny else SHAPES:
        rows.append(compare(bench, size, tokens))
        print(rows[-1], flush=True)
        keys = ("speedup", "ratio_to_lora", "ratio_to_base")
        summary = {f"{key}_{row['batch']}x{row['tokens']}": row[key] for row in rows for key in keys}
        Path(args.out).write_text(json.dumps({**head, "summary": summary, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
