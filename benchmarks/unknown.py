"""Are inputs of a data set that no task has seen recognised as unknown?

    python benchmarks/unknown.py --data_dir DATA --model MODEL

Only the frozen trunk and the signatures matter here, so nothing is trained. Signatures come from training texts,
limits from validation texts, own and foreign inputs from test texts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from peft import get_peft_model
from record import RESULTS, header
from sklearn.metrics import roc_auc_score
from streams import STREAMS, load_task
from transformers import AutoModel, AutoTokenizer

from hf_lifelong import DriftAdapterConfig
from hf_lifelong.adapter import trunk_features
from hf_lifelong.knowledge import (
    Constants,
    Signature,
    fit_signature,
    measure_tail,
    novelty_rule,
    shared_router,
)
from hf_lifelong.objectives import encode_inputs

UNSEEN = ["newsgroups20", "imdb", "amazon5", "sentiment_sentences"]


def features_of(model: torch.nn.Module, tokenizer: Any, rows: Any, columns: dict[str, str]) -> torch.Tensor:
    """Trunk features of rows, `[n, D]`, batched by length."""
    roles = [role for role in ("text", "text_pair") if role in columns]
    inputs = [dict(zip(roles, values, strict=True)) for values in zip(*(rows[columns[r]] for r in roles), strict=True)]
    encoded = encode_inputs(inputs, tokenizer, 64, 16)[0]
    order = np.argsort([len(ids) for ids in encoded["input_ids"]])
    parts = []
    for start in range(0, len(order), 64):
        batch = {k: [encoded[k][i] for i in order[start : start + 64]] for k in ("input_ids", "attention_mask")}
        parts.append(trunk_features(model, dict(tokenizer.pad(batch, return_tensors="pt"))))
    return torch.cat(parts)[np.argsort(order)]


def novelty_of(
    train: Sequence[torch.Tensor], labels: Sequence[torch.Tensor], held_out: Sequence[torch.Tensor]
) -> Callable[[torch.Tensor], np.ndarray]:
    """Novelty of features `[n, D]` → `[n]`, where each is asked of the likeliest task, as the learner does it.

    Args:
        train, labels, held_out (`list[Tensor]`): For each task features `[n, D]`, their classes `[n]`, and features of
            its validation rows.
    """
    config, constants = DriftAdapterConfig(), Constants()
    classes = [int(of_task.max()) + 1 for of_task in labels]
    fitted = [
        fit_signature(x, config.signature_rank, y, count) for x, y, count in zip(train, labels, classes, strict=True)
    ]
    stacks = (torch.stack([getattr(one, part) for one in fitted]) for part in ("mean", "factor", "diagonal"))
    signature, counts = Signature(*stacks, torch.cat([one.classes for one in fitted])), [len(x) for x in train]
    tails = [measure_tail(*one, constants) for one in zip(fitted, counts, held_out, strict=True)]
    rows, groups = torch.tensor(counts), list(range(len(train)))
    of_class = [int(n) for one, count in zip(labels, classes, strict=True) for n in one.bincount(minlength=count)]
    router = shared_router(signature, rows, classes, groups, config.signature_shrinkage, constants, of_class)
    rule = novelty_rule(signature, router, rows, classes, tails, config.signature_shrinkage, constants)
    return lambda features: rule(features, router(features).argmax(1)).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    base = AutoModel.from_pretrained(args.model, dtype=torch.float32)
    model = get_peft_model(base, DriftAdapterConfig(max_length=64, stride=16))
    found, known = {}, STREAMS["domains"]
    for name in known + UNSEEN:
        task = load_task(name, args.data_dir, 0, 1000, test_size=500)
        parts = ("train", "validation", "test") if name in known else ("test",)
        found[name] = {part: features_of(model, tokenizer, task[part], task["columns"]) for part in parts}
        found[name]["labels"] = torch.tensor([int(label) for label in task["train"]["label"]])
    learned = novelty_of(*([found[name][part] for name in known] for part in ("train", "labels", "validation")))

    def new(name: str) -> np.ndarray:
        return learned(found[name]["test"])

    own, rows = {name: new(name) for name in known}, []
    pool = np.concatenate(list(own.values()))
    rows = [{"data": name, "seen": True, "called_unknown": float((v > 1).mean())} for name, v in own.items()]
    for name in UNSEEN:
        values = new(name)
        truth = np.r_[np.zeros(len(pool)), np.ones(len(values))]
        auroc = float(roc_auc_score(truth, np.r_[pool, values]))
        rows.append({"data": name, "seen": False, "called_unknown": float((values > 1).mean()), "auroc": auroc})
    aurocs = [row["auroc"] for row in rows if not row["seen"]]
    result = {
        **header("python benchmarks/unknown.py --data_dir DATA --model MODEL", args.model),
        "summary": {
            "false_abstentions": round(float((pool > 1).mean()), 4),
            "auroc_mean": round(float(np.mean(aurocs)), 4),
            "auroc_worst": round(min(aurocs), 4),
        },
        "rows": rows,
    }
    (RESULTS / "unknown.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["summary"], indent=1), *rows, sep="\n")


if __name__ == "__main__":
    main()
