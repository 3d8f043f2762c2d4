"""What the statistic `input_importance` is good for: a smaller head, and a forecast of which tasks get mixed up.

    python benchmarks/task_inputs.py --data_dir DATA --model paraphrase-minilm-l3

On the thirty tasks of the stream `long`, on the frozen trunk, before any of them is trained. (a) A closed-form head on
a fifth of the signature's features against one on all, and on as many drawn at random. (b) Whether tasks that use the
same features are those whose inputs went astray: the rank correlation, over all pairs of tasks, of their overlap with
the confusion that `lifelong.py` measured (`results/streams/full/long.json`, its first seed); beside it that of what
is simpler, the distance of the tasks' means. (c) What the statistic takes, in seconds of the process on one
thread, and as a share of the training of a task in that run.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from methods.shared import Setting, batches, in_order, prepare
from peft import get_peft_model
from record import RESULTS, header
from scipy.stats import spearmanr
from stream_records import RECORDS, read_record, row_of
from streams import load_task, stream
from transformers import AutoModel

from hf_lifelong import DriftAdapterConfig
from hf_lifelong.adapter import trunk_features
from hf_lifelong.knowledge import fit_closed_form
from hf_lifelong.selection import (
    InputImportance,
    depth_shares,
    kept_features,
    plot_overlap,
    small_head,
    task_overlap,
)
from hf_lifelong.statistics import TaskRows

BUDGET = {"epochs": 1, "batch_size": 16, "max_length": 64, "stride": 16}
SHUFFLES = 999


def measured() -> dict[str, Any]:
    """The cell of our first seed on the stream, with the full budget."""
    cell = row_of(read_record(RECORDS / "full" / "long.json"), "ours", 0, 0)
    if cell is None:
        raise SystemExit("no cell to compare with: run `lifelong.py --streams long --methods ours --seeds 0`.")
    return cell


def measured_confusion(tasks: list[str]) -> np.ndarray:
    """Share of a task's test inputs `[T, T]` that was answered by another task at the end of the stream."""
    confusion = measured()["matrix"]["confusion"]
    return np.array([[confusion[own].get(other, 0.0) for other in tasks] for own in tasks])


def training_seconds() -> float:
    """Of one task of that run, without its scoring (on its machine's clock, with 1,500 texts a task)."""
    cell = measured()
    return cell["summary"]["seconds"] / len(cell["matrix"]["tasks"])


def accuracy(head: tuple[torch.Tensor, torch.Tensor] | None, features: torch.Tensor, labels: torch.Tensor) -> float:
    if head is None:
        return float("nan")
    return round(float(((features @ head[0].T + head[1]).argmax(1) == labels).double().mean()), 4)


def measure(name: str, model: Any, args: Any) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """A row of one task, its importances, and the mean of its features."""
    task = load_task(name, args.data_dir, 0, args.train_texts, test_size=args.test_texts)
    setting = Setting(args.model, 0, BUDGET, {})
    (prepared,) = prepare([task], setting)

    def features_of(rows: Any) -> tuple[torch.Tensor, torch.Tensor]:
        found = in_order(batches(prepared.tokenizer, rows, 64, lambda batch: trunk_features(model, batch)))
        return torch.stack(found), torch.tensor(rows["labels"])

    (x, labels), (test, wanted) = features_of(prepared.train), features_of(prepared.test.features)
    rows = TaskRows(name, prepared.kind, tuple(prepared.labels), x, labels, None, {}, None)
    start = time.process_time()
    importances = InputImportance().fit(rows)["importances"].float()
    seconds = time.process_time() - start
    kept = kept_features(importances)
    drawn = torch.zeros_like(kept)
    drawn[torch.randperm(len(kept), generator=torch.Generator().manual_seed(0))[: int(kept.sum())]] = True
    classes = len(prepared.labels)
    row = {
        "task": name,
        "features": len(kept),
        "features_used": int((importances > 0).sum()),
        "kept": int(kept.sum()),
        "accuracy_of_all": accuracy(fit_closed_form(x, labels, classes), test, wanted),
        "accuracy_of_kept": accuracy(small_head(x, labels, classes, kept), test[:, kept], wanted),
        "accuracy_of_drawn": accuracy(small_head(x, labels, classes, drawn), test[:, drawn], wanted),
        "depth_shares": [round(v, 4) for v in depth_shares(importances, model.config.hidden_size).tolist()],
        "statistic_seconds": round(seconds, 3),
    }
    return row, importances, x.mean(0)


def summarise(rows: list[dict[str, Any]], importances: dict[str, torch.Tensor], means: torch.Tensor) -> dict[str, Any]:
    overlap = task_overlap({task: {"importances": value} for task, value in importances.items()})
    confusion = measured_confusion(overlap.tasks)
    both = confusion + confusion.T
    forecasts = {
        "jaccard": overlap.jaccard,
        "correlation": overlap.correlation,
        "nearness_of_means": -torch.cdist(means, means).numpy(),
    }

    def mean(key: str) -> float:
        return round(float(np.mean([row[key] for row in rows])), 4)

    return {
        "head": {key: mean(key) for key in ("accuracy_of_all", "accuracy_of_kept", "accuracy_of_drawn", "kept")},
        "rank_correlation_with_confusion": {name: ranked(values, both) for name, values in forecasts.items()},
        # Of a new task, the old one from which it takes most, and whether the forecast names it.
        "old_task_named": {name: named(values, both) for name, values in forecasts.items()},
        "statistic_seconds": mean("statistic_seconds"),
        "share_of_training": round(mean("statistic_seconds") / training_seconds(), 4),
    }


def ranked(values: np.ndarray, both: np.ndarray) -> dict[str, float]:
    """Spearman's correlation over all pairs of tasks, and how often it is as high when the tasks are shuffled (Mantel,
    1967: pairs that share a task are not independent)."""
    pairs, rng = np.triu_indices(len(both), 1), np.random.default_rng(0)
    rho = spearmanr(values[pairs], both[pairs]).statistic
    orders = [rng.permutation(len(both)) for _ in range(SHUFFLES)]
    shuffled = [spearmanr(values[pairs], both[np.ix_(order, order)][pairs]).statistic for order in orders]
    return {"rho": round(float(rho), 4), "p": (1 + int((np.array(shuffled) >= rho).sum())) / (1 + SHUFFLES)}


def named(values: np.ndarray, both: np.ndarray) -> dict[str, float]:
    """How often the highest forecast among earlier tasks is the one that was mixed up most with a new task."""
    new = [t for t in range(1, len(both)) if both[t, :t].max() > 0]
    hits = [int(values[t, :t].argmax() == both[t, :t].argmax()) for t in new]
    return {
        "share": round(float(np.mean(hits)), 4),
        "tasks": len(new),
        "by_chance": round(np.mean([1 / t for t in new]), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--train_texts", type=int, default=600)
    parser.add_argument("--test_texts", type=int, default=300)
    args = parser.parse_args()
    model = get_peft_model(AutoModel.from_pretrained(args.model, dtype=torch.float32), DriftAdapterConfig()).eval()
    rows, importances, means = [], {}, []
    with torch.no_grad():
        for name in stream("long", 0):
            row, importances[name], mean = measure(name, model, args)
            rows.append(row)
            means.append(mean)
            print(row, flush=True)
    summary = summarise(rows, importances, torch.stack(means))
    budget = {"train_texts": args.train_texts, "test_texts": args.test_texts}
    head = header("python benchmarks/task_inputs.py --data_dir DATA --model MODEL", args.model)
    record = {**head, "budget": budget, "summary": summary, "rows": rows}
    (RESULTS / "task_inputs.json").write_text(json.dumps(record, indent=1) + "\n")
    overlap = task_overlap({task: {"importances": value} for task, value in importances.items()})
    plot_overlap(overlap, RESULTS / "task_inputs.png")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
