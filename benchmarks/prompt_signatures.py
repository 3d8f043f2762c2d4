"""Which group the prompts of a language model go to by signatures alone: by the last token, and by the mean of all.

    python benchmarks/prompt_signatures.py --data_dir DATA --model MODEL

The streams and rows of `causal_lm.py`; no member is trained. The mean of all tokens is what adapters have that were
saved before signatures read the last token. Every stream is a pair of rows of
`benchmarks/results/prompt_signatures.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import torch
from causal_lm import BUDGET, STREAMS, TEST, make_tasks
from peft import get_peft_model
from record import RESULTS, header
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_lifelong import DriftAdapterConfig, Task
from hf_lifelong.adapter import (
    Index,
    active_config,
    depths_of,
    describe_base,
    knowledge_of,
    lifelong_of,
    trunk_features,
)
from hf_lifelong.knowledge import KnowledgeBase, LearnedTask, Signature, fit_signature
from hf_lifelong.objectives import encode_prompts, get_kind

KIND = get_kind("text-generation")
POOLINGS = {"mean": "mean-and-peak", "last": "last"}


def model_with(pooling: str, name: str) -> Any:
    """The base with an adapter that has learned nothing and whose signatures pool this way."""
    base = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
    config = DriftAdapterConfig(task_type="CAUSAL_LM", max_length=BUDGET["max_length"])
    model = get_peft_model(base, config)
    if knowledge_of(model).pooling == POOLINGS[pooling]:
        return model.eval()
    trunk = knowledge_of(model).trunk
    base = model.unload()
    depths = depths_of(base.base_model, trunk)  # those of a model without its head, which reads all tokens
    config.knowledge = KnowledgeBase(describe_base(base), trunk, depths).to_dict()
    return get_peft_model(base, config).eval()


def features(model: Any, tokenizer: Any, prompts: Sequence[str], rows: int = 32) -> torch.Tensor:
    """Features of prompts, `[prompts, D]`."""
    ids = encode_prompts(tokenizer, prompts, BUDGET["max_length"])
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    found: list[Any] = [None] * len(ids)
    for start in range(0, len(ids), rows):
        part = order[start : start + rows]
        batch = tokenizer.pad({"input_ids": [ids[i] for i in part]}, padding_side="left", return_tensors="pt")
        with torch.autocast(model.device.type, torch.bfloat16):
            for i, row in zip(part, trunk_features(model, dict(batch)), strict=True):
                found[i] = row
    return torch.stack(found).cpu()


def fitted(model: Any, tokenizer: Any, task: Task) -> tuple[Signature, LearnedTask]:
    """A task's signature, and the task as if it had been learned."""
    rows = KIND.prepare(task.train, {}, task.template)
    columns = KIND.resolve_columns(rows, {})
    labels, names = KIND.classes(rows, columns), KIND.label_names(rows, columns)
    classes = None if labels is None else torch.tensor(labels)
    found = features(model, tokenizer, rows[columns["prompt"]])
    signature = fit_signature(found, active_config(model).signature_rank, classes, max(len(names), 1))
    learned = LearnedTask(task.name, KIND.kind, tuple(names), 0, 1, task.name, len(rows), classes=max(len(names), 1))
    return signature, learned


def measure(stream: str, pooling: str, args: argparse.Namespace) -> dict[str, Any]:
    """Shares of the test prompts that go to their own task's group, and that count as unknown, by task."""
    start = time.process_time()
    tokenizer, model = AutoTokenizer.from_pretrained(args.model), model_with(pooling, args.model)
    tasks = make_tasks(STREAMS[stream], args.data_dir, args.seed, args.scale)
    signatures, learned = zip(*(fitted(model, tokenizer, task) for task in tasks), strict=True)
    stacked = (torch.stack([getattr(one, name) for one in signatures]) for name in ("mean", "factor", "diagonal"))
    whole = Signature(*stacked, torch.cat([one.classes for one in signatures]))
    knowledge = replace(knowledge_of(model), tasks=list(learned))
    index = Index(whole, knowledge, active_config(model).signature_shrinkage)
    right, unknown = {}, {}
    for i, task in enumerate(tasks):
        rows = KIND.prepare(task.test, {}, task.template)
        found = features(model, tokenizer, rows[KIND.resolve_columns(rows, {})["prompt"]])
        group = index.posterior(found).argmax(1)
        right[task.name] = float((group == i).double().mean())
        unknown[task.name] = float((index.novelty(found, group) > 1).double().mean())
    size = lifelong_of(model).features
    seconds = round(time.process_time() - start)
    return {
        "stream": stream,
        "pooling": pooling,
        "features": size,
        "seconds": seconds,
        "right": right,
        "unknown": unknown,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="folder with one data set a folder")
    parser.add_argument("--model", required=True, help="folder or Hub id of a causal language model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the texts, for a trial")
    parser.add_argument("--out", default=str(RESULTS / "prompt_signatures.json"))
    args = parser.parse_args()
    datasets.disable_progress_bars()
    out, rows = Path(args.out), []
    for stream in STREAMS:
        for pooling in POOLINGS:
            rows.append(measure(stream, pooling, args))
            means = {
                f"{row['stream']}_{row['pooling']}_{what}": round(sum(row[what].values()) / len(row[what]), 4)
                for row in rows
                for what in ("right", "unknown")
            }
            head = header("python benchmarks/prompt_signatures.py --data_dir DATA --model MODEL", args.model)
            budget = {"test_texts": TEST, "train_texts": {name: one.train for name, one in STREAMS.items()}}
            record = {**head, "budget": budget, "summary": means, "rows": rows}
            out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
