"""What choosing the group costs a language model: prefill and decode against one PEFT LoRA, interleaved.

    python benchmarks/generation.py --model MODEL

The same rank and modules (those above the trunk); ours with `signature` retrieval and merged members, for batches of
one task and for batches in which every row is of another. The rounds of the two alternate; a ratio is that of the
medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from record import RESULTS, header
from transformers import AutoModelForCausalLM

from hf_lifelong import DriftAdapterConfig
from hf_lifelong.adapter import (
    add_task,
    close_task,
    drift_modules,
    lifelong_of,
    open_task,
    take_snapshot,
    trunk_features,
)
from hf_lifelong.knowledge import LearnedTask, fit_signature

# Rows, tokens, and how many groups answer them.
SHAPES = ((1, 64, 1), (1, 256, 1), (8, 64, 1), (8, 256, 1), (8, 64, 8), (8, 256, 8))
NEW_TOKENS = 16


def make_models(name: str, groups: int, members: int, r: int, batch: torch.Tensor) -> dict[str, Any]:
    """A model with one LoRA and one with `groups` groups, whose signatures lie at the batch's own rows."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32

    def base() -> Any:
        return AutoModelForCausalLM.from_pretrained(name, dtype=dtype).to(device)

    ours = get_peft_model(base(), DriftAdapterConfig(task_type="CAUSAL_LM", r=r, members=members))
    targets = sorted(ours.peft_config["default"].target_modules)
    lora = LoraConfig(r=r, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM")
    teach(ours, groups, members, batch.to(device))
    return {"ours": ours.eval(), "lora": get_peft_model(base(), lora).eval()}


def teach(model: Any, groups: int, members: int, batch: torch.Tensor) -> None:
    """Gives a model groups of random members, whose signatures lie at the batch's own rows, so that it mixes them."""
    model.eval()
    features = trunk_features(model, {"input_ids": batch}).cpu()
    rank = lifelong_of(model).config["default"].signature_rank
    for g in range(groups):
        open_task(model, "text-generation", (), 0)
        snapshots = []
        for _ in range(members):
            for _, module in drift_modules(model):
                for parameter in module.parameters():
                    if parameter.requires_grad:
                        parameter.data.normal_(std=0.01)
            snapshots.append(take_snapshot(model))
        around = features[g % len(features)] + 0.01 * torch.randn(8, features.shape[1])
        learned = LearnedTask(f"task-{g}", "text-generation", (), 0, members, f"task-{g}", 8)
        add_task(model, learned, snapshots, fit_signature(around, rank))
        close_task(model)


@torch.inference_mode()
def seconds(model: Any, ids: torch.Tensor, tokens: int) -> float:
    if ids.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
    )
    if ids.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(models: dict[str, Any], ids: torch.Tensor, rounds: int) -> dict[str, Any]:
    taken: dict[str, dict[str, list[float]]] = {name: {"prefill": [], "both": []} for name in models}
    for i in range(rounds + 1):
        for name, model in models.items() if i % 2 else reversed(models.items()):
            times = seconds(model, ids, 1), seconds(model, ids, NEW_TOKENS)
            if i:  # the first round warms up
                taken[name]["prefill"].append(times[0])
                taken[name]["both"].append(times[1])
    found = {
        name: {part: statistics.median(values) for part, values in parts.items()} for name, parts in taken.items()
    }
    decode = {name: (f["both"] - f["prefill"]) / (NEW_TOKENS - 1) for name, f in found.items()}
    groups = lifelong_of(models["ours"]).conductor
    return {
        "batch": ids.shape[0],
        "tokens": ids.shape[1],
        "trunk_layers": groups.trunk,
        "prefill_ratio": round(found["ours"]["prefill"] / found["lora"]["prefill"], 4),
        "decode_ratio": round(decode["ours"] / decode["lora"], 4),
        "prefill_seconds_lora": round(found["lora"]["prefill"], 4),
        "decode_seconds_lora": round(decode["lora"], 4),
        "taken": {n: {p: [round(v, 4) for v in values] for p, values in t.items()} for n, t in taken.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or Hub id of a causal language model")
    parser.add_argument("--groups", type=int, default=10)
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--r", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", default=str(RESULTS / "generation.json"))
    args = parser.parse_args()
    torch.manual_seed(0)
    batch = torch.randint(5, 1000, (8, 64))
    models = make_models(args.model, args.groups, args.members, args.r, batch)
    device = next(models["ours"].parameters()).device
    rows = []
    for size, tokens, mixed in SHAPES:
        ids = (batch[:size] if mixed > 1 else batch[:1].repeat(size, 1)).repeat(1, tokens // 64).to(device)
        rows.append(measure(models, ids, args.rounds) | {"groups_in_batch": mixed})
        print({k: v for k, v in rows[-1].items() if k != "taken"}, flush=True)
    summary = {
        f"{part}_ratio_{row['batch']}x{row['tokens']}" + ("_mixed" if row["groups_in_batch"] > 1 else ""): row[
            f"{part}_ratio"
        ]
        for row in rows
        for part in ("prefill", "decode")
    }
    head = header("python benchmarks/generation.py --model MODEL", args.model)
    settings = {"groups": args.groups, "members": args.members, "r": args.r, "new_tokens": NEW_TOKENS}
    result = {**head, "settings": settings, "summary": summary, "rows": rows}
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
