"""How groups are chosen and closed-form heads are shrunk: what was compared, on validation parts.

    python benchmarks/signatures.py --data_dir DATA --model MODEL

Nothing is trained: frozen trunk, signatures of training texts, and validation texts that are asked for their task. The
rows are averages over the tasks of a stream. Test texts are not looked at.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from peft import get_peft_model
from record import RESULTS, header
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from streams import SOURCES, TASKS, load_task, stream
from torch import Tensor
from transformers import AutoModel, AutoTokenizer
from unknown import features_of

from hf_lifelong import DriftAdapterConfig
from hf_lifelong.knowledge import Constants, Router, Signature, fit_closed_form, fit_signature, shared_router
from hf_lifelong.utils.files import read_json, write_json

BUDGET = {"train_texts": 1500, "validation_share": 0.2}
STREAMS = ["domains", "lookalikes", "classes", "classes20", "intents", "banking"]
# What has a covariance of its own when groups are compared; with `None`, discriminants decide alone.
OWNERS: dict[str, Constants] = {
    "shared": replace(Constants(), sure=-1e4),
    "task": replace(Constants(), own="task", sure=float(np.log(999)), candidates=3),
    "class": Constants(),
}
RANKS = {"task": 128, "shared": 128, "class": 256}
KERNEL = {"width": 1000, "gamma": 1.0}


@dataclass(frozen=True)
class Learned:
    """Features `[n, D]` and classes `[n]` of a task's training and validation texts."""

    train: Tensor
    labels: Tensor
    asked: Tensor
    expected: Tensor

    @property
    def classes(self) -> int:
        return int(torch.cat([self.labels, self.expected]).max()) + 1

    def mapped(self, kernel: Callable[[Tensor], Tensor]) -> Learned:
        return replace(self, train=kernel(self.train), asked=kernel(self.asked))


def tasks_of(name: str, data_dir: str, model: torch.nn.Module, tokenizer: Any) -> list[Learned]:
    """The tasks of a stream that have labels."""
    found = []
    for task in stream(name, 0):
        if TASKS[task].column is None and SOURCES[TASKS[task].data].kind != "text-classification":
            continue
        data = load_task(task, data_dir, 0, BUDGET["train_texts"], BUDGET["validation_share"])
        parts = []
        for part in (data["train"], data["validation"]):
            parts += [features_of(model, tokenizer, part, data["columns"]), torch.tensor(part["label"])]
        found.append(Learned(*parts))
    return found


def router_of(tasks: Sequence[Learned], rank: int, constants: Constants) -> Router:
    fitted = [fit_signature(task.train, rank, task.labels, task.classes, constants.own) for task in tasks]
    stacks = (torch.stack([getattr(one, part) for one in fitted]) for part in ("mean", "factor", "diagonal"))
    signature = Signature(*stacks, torch.cat([one.classes for one in fitted]))
    sizes, shrinkage = torch.tensor([len(task.train) for task in tasks]), DriftAdapterConfig().signature_shrinkage
    groups = list(range(len(tasks)))
    classes = [task.classes for task in tasks]
    of_class = [int(n) for task in tasks for n in task.labels.bincount(minlength=task.classes)]
    return shared_router(signature, sizes, classes, groups, shrinkage, constants, of_class)


def right_group(tasks: Sequence[Learned], rank: int, constants: Constants) -> float:
    router = router_of(tasks, rank, constants)
    return float(np.mean([(router(task.asked).argmax(1) == i).double().mean() for i, task in enumerate(tasks)]))


def with_kernel(tasks: Sequence[Learned]) -> list[Learned]:
    """Random Fourier features of a Gaussian kernel beside the features, with half of their variance. The scale of the
    kernel is that of the first task."""
    first, generator = tasks[0].train, torch.Generator().manual_seed(0)
    size = first.var(0).sum()
    draw = torch.randn(first.shape[1], KERNEL["width"], generator=generator)
    omega = draw * (KERNEL["gamma"] / size).sqrt()
    offset = 2 * torch.pi * torch.rand(KERNEL["width"], generator=generator)
    scale = (size / (4 * torch.cos(first @ omega + offset).var(0).sum())).sqrt()
    return [task.mapped(lambda x: torch.cat([x, scale * torch.cos(x @ omega + offset)], 1)) for task in tasks]


class LedoitWolf:
    """For scikit-learn, which asks for the covariance of each class: shrunk in units of the features' deviations."""

    def fit(self, rows: np.ndarray) -> LedoitWolf:
        scale = rows.std(0)
        scale[scale == 0] = 1.0
        self.covariance_ = ledoit_wolf((rows - rows.mean(0)) / scale)[0] * np.outer(scale, scale)
        return self


def heads(tasks: Sequence[Learned]) -> dict[str, float]:
    """Accuracy of the closed-form head alone where the task is given, as it is and under Ledoit and Wolf's formula."""
    found: dict[str, list[float]] = {"half": [], "ledoit_wolf": []}
    for task in tasks:
        head = fit_closed_form(task.train, task.labels, task.classes)
        if head is None:
            continue
        known = LinearDiscriminantAnalysis(
            solver="lsqr", covariance_estimator=LedoitWolf(), priors=[1 / task.classes] * task.classes
        )
        known.fit(task.train.double().numpy(), task.labels.numpy())
        answers = (task.asked @ head[0].T + head[1]).argmax(1)
        found["half"].append(float((answers == task.expected).double().mean()))
        found["ledoit_wolf"].append(float(known.score(task.asked.double().numpy(), task.expected.numpy())))
    return {name: round(float(np.mean(values)), 4) for name, values in found.items()}


def measured(tasks: Sequence[Learned]) -> dict[str, Any]:
    groups = {name: round(right_group(tasks, RANKS[name], by), 4) for name, by in OWNERS.items()}
    kernels = with_kernel(tasks)
    groups |= {
        f"{name}, kernel": round(right_group(kernels, RANKS[name], OWNERS[name]), 4) for name in ("task", "class")
    }
    return {
        "tasks": len(tasks),
        "texts": sum(len(task.asked) for task in tasks),
        "right_group": groups,
        "head": heads(tasks),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", "--data-dir", help="folder with one data set a folder; else they are downloaded")
    parser.add_argument("--model", default="sentence-transformers/paraphrase-MiniLM-L3-v2")
    parser.add_argument("--streams", nargs="+", default=STREAMS, choices=STREAMS)
    parser.add_argument("--out", type=Path, default=RESULTS / "signatures.json")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    base = AutoModel.from_pretrained(args.model, dtype=torch.float32)
    model = get_peft_model(base, DriftAdapterConfig(max_length=64, stride=16)).eval()
    rows = read_json(args.out)["rows"] if args.out.exists() else []
    for name in args.streams:
        if name in {row["stream"] for row in rows}:
            continue
        with torch.no_grad():
            rows.append({"stream": name, **measured(tasks_of(name, args.data_dir, model, tokenizer))})
        head = header("python benchmarks/signatures.py --data_dir DATA --model MODEL", args.model)
        write_json(
            args.out,
            {
                **head,
                "budget": {**BUDGET, "kernel": KERNEL, "ranks": RANKS},
                "rows": rows,
            },
        )
        print(rows[-1], flush=True)


if __name__ == "__main__":
    main()
