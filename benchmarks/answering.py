"""What answering without a task costs, against one PEFT LoRA of the same rank and modules and the bare base.

    python benchmarks/answering.py --model MODEL            # MODEL: an encoder; add --tiny for a run of seconds

`signature` and `cascade` with merged members: ratios of medians, passes of both in turn, every row of a batch of
another group as far as there are groups. `uncertainty` runs all 50 members of 10 groups: how much faster that is than
a loop that switches between 50 PEFT adapters. Bases but MODEL have random weights; so have all members.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from banks import fill, interleaved, make_base, twin
from peft import LoraConfig, get_peft_model
from record import RESULTS, header

from hf_lifelong import DriftAdapterConfig, predict
from hf_lifelong.adapter import trunk_features

MEMBERS, R = 5, 8
BARS = {"signature": 1.15, "cascade": 2.0, "uncertainty_batch1": 3.0}


class Bench:
    """One base, bare, with our adapter on one copy of it and PEFT's on another.

    Args:
        name (`str`): Folder or id of a model, or one of `banks.SHAPES`.
        rounds (`int`): Timed passes of each.
    """

    def __init__(self, name: str, rounds: int) -> None:
        self.name, self.rounds = Path(name).name, rounds
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.base = make_base(name).to(self.device).eval()
        self.vocabulary = self.base.config.vocab_size
        self.ours = get_peft_model(twin(self.base), DriftAdapterConfig(r=R, members=MEMBERS))
        self.config = self.ours.peft_config["default"]
        self.lora_config = LoraConfig(
            r=R, lora_alpha=16, target_modules=sorted(self.config.target_modules), task_type="FEATURE_EXTRACTION"
        )
        self.peft = get_peft_model(twin(self.base), self.lora_config).eval()
        self.rows: list[dict[str, Any]] = []

    def batch(self, rows: int, tokens: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(5, min(self.vocabulary, 20_000), (rows, tokens), device=self.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def teach(self, batch: dict[str, torch.Tensor], groups: int, alike: float = 0.0) -> None:
        """Groups whose signatures lie at the rows of the batch, the rest far away; a share `alike` of the rows has a
        second group at the same place."""
        features = trunk_features(self.ours, batch).cpu()
        spread = torch.randn(max(groups - len(features), 0), features.shape[1]) * features.std()
        means = torch.cat([features, features.mean(0) + 4 * spread])[:groups]
        twins = min(round(alike * len(features)), groups // 2)
        if twins:
            means[-twins:] = means[:twins]
        fill(self.ours, means, torch.full((features.shape[1],), float(features.var()) * 0.01 + 1e-6))

    @torch.inference_mode()
    def compare(self, policy: str, rows: int, tokens: int, groups: int, alike: float = 0.0) -> None:
        """Time of an answer by a policy as a ratio of one LoRA's forward and of the base's."""
        batch = self.batch(rows, tokens)
        self.teach(batch, groups, alike)
        self.config.retrieval = policy
        models = {"ours": self.ours, "lora": self.peft, "base": self.base}
        found = interleaved({name: partial(model, **batch) for name, model in models.items()}, self.rounds)
        answered = self.ours(**batch).group.unique().numel()
        self.note(policy, rows, tokens, groups, found, alike=alike, groups_in_batch=answered)

    @torch.inference_mode()
    def against_switching(self, rows: int, tokens: int, groups: int) -> None:
        """How many times faster all members answer in one pass than one PEFT adapter after the other; and answering by
        signature against PEFT's `adapter_names`, which is told the adapter of each row."""
        members = [f"member-{i}" for i in range(groups * MEMBERS)]
        for name in members:
            if name not in self.peft.peft_config:
                self.peft.add_adapter(name, self.lora_config)
        self.peft.eval()
        batch = self.batch(rows, tokens)
        self.teach(batch, groups)
        told = [members[i % groups] for i in range(rows)]

        def switch() -> None:
            for name in members:
                self.peft.set_adapter(name)
                self.peft(**batch)

        def ask(policy: str, answer: str) -> None:
            predict(self.ours, batch, policy, answer=answer)

        passes = {
            "ours": lambda: ask("uncertainty", "ensemble"),
            "switching": switch,
            "signature": lambda: ask("signature", "merged"),
            "adapter_names": lambda: self.peft(**batch, adapter_names=told),
        }
        found = interleaved(passes, max(2, self.rounds // 3))
        self.note("uncertainty", rows, tokens, groups, found)

    def note(self, policy: str, rows: int, tokens: int, groups: int, found: dict[str, float], **more: Any) -> None:
        ratios = {}
        if "lora" in found:
            ratios = {"ratio": found["ours"] / found["lora"], "ratio_to_base": found["ours"] / found["base"]}
        if "switching" in found:
            ratios["speedup"] = found["switching"] / found["ours"]
            ratios["signature_to_adapter_names"] = found["signature"] / found["adapter_names"]
        row = {"base": self.name, "policy": policy, "batch": rows, "tokens": tokens, "groups": groups, **more}
        row |= {key: round(value, 4) for key, value in ratios.items()}
        row |= {f"seconds_{name}": round(value, 5) for name, value in found.items()}
        self.rows.append(row)
        print(row, flush=True)


def summary(rows: list[dict[str, Any]], model: str) -> dict[str, float]:
    """The worst ratio over all shapes of the model, the mean speed-up of each batch size; other bases apart."""
    found: dict[str, float] = {}
    for base in dict.fromkeys(row["base"] for row in rows):
        suffix = "" if base == model else f"_{base}"
        own = [row for row in rows if row["base"] == base]
        for groups in sorted({row["groups"] for row in own if row["policy"] == "signature"}):
            same = [row for row in own if (row["policy"], row["groups"]) == ("signature", groups)]
            ratios = [row["ratio"] for row in same]
            found[f"signature_ratio_{groups}{suffix}"] = max(ratios)
            found[f"signature_mean_ratio_{groups}{suffix}"] = round(sum(ratios) / len(ratios), 4)
            found[f"signature_ratio_to_base_{groups}{suffix}"] = max(row["ratio_to_base"] for row in same)
        for row in own:
            if row["policy"] == "cascade":
                found[f"cascade_ratio_{row['groups']}_{round(100 * row['alike'])}_percent_unclear{suffix}"] = row[
                    "ratio"
                ]
            if row["policy"] == "uncertainty":
                found[f"uncertainty_speedup_batch{row['batch']}{suffix}"] = row["speedup"]
                key = f"signature_to_adapter_names_batch{row['batch']}{suffix}"
                found[key] = row["signature_to_adapter_names"]
    quarter = [r["ratio"] for r in rows if r["base"] == model and r["policy"] == "cascade" and r["alike"] == 0.25]
    return {"cascade_ratio_10": max(quarter)} | found if quarter else found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or Hub id of an encoder")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tiny", action="store_true", help="few shapes and rounds, to see that it runs")
    parser.add_argument("--out", default=str(RESULTS / "answering.json"))
    args = parser.parse_args()
    many = (1, 10) if args.tiny else (1, 10, 100, 1000)
    shapes = ((1, 32), (8, 32)) if args.tiny else ((1, 32), (1, 128), (8, 128), (64, 32), (8, 512))
    bench = Bench(args.model, 2 if args.tiny else args.rounds)
    head = header("python benchmarks/answering.py --model MODEL", args.model)
    head |= {"settings": {"members": MEMBERS, "r": R, "rounds": args.rounds, "bars": BARS}}

    def save(rows: list[dict[str, Any]]) -> None:
        result = {**head, "summary": summary(rows, bench.name), "rows": rows}
        Path(args.out).write_text(json.dumps(result, indent=1) + "\n")

    for groups in many:
        for rows, tokens in shapes:
            bench.compare("signature", rows, tokens, groups)
        save(bench.rows)
    for alike in (0.0, 0.25, 1.0):
        bench.compare("cascade", 8, 32 if args.tiny else 128, 16 if alike == 1 else 10, alike)
    for rows in (1,) if args.tiny else (1, 8, 64):
        bench.against_switching(rows, 32, 10)
    found = bench.rows
    save(found)
    for name in () if args.tiny else ("gpt2-small", "llama-1b"):
        other = Bench(name, 3 if name == "llama-1b" else 5)
        for groups in (10,) if name == "llama-1b" else (1, 10, 100):
            for rows, tokens in ((1, 128),) if name == "llama-1b" else ((1, 128), (8, 128)):
                other.compare("signature", rows, tokens, groups)
        found += other.rows
        save(found)
        del other


if __name__ == "__main__":
    main()
