"""Are questions that belong to no intent recognised as unknown?

    python benchmarks/out_of_scope.py --data_dir DATA --model MODEL

CLINC150 with its own out-of-scope questions, which nothing is trained or chosen on. A method of `METHODS` learns the
stream *intents* and gives scores of the test questions, in scope and out of it: the larger, the less known. Ours has a
limit, too: `called_unknown` are the shares of the questions in scope and out of it that lie beyond it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from datasets import Dataset, concatenate_datasets, load_dataset
from lifelong import BUDGET, FULL, chosen_of
from methods.shared import Setting, SharedLearner, batches, in_order, on_device, prepare
from peft import get_peft_model
from record import RESULTS, header
from scipy.spatial.distance import cdist
from scipy.special import logsumexp, softmax
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from stream_records import RECORDS
from streams import SOURCES, load_task, stream
from transformers import AutoModel
from transformers.utils import logging
from unknown import novelty_of

from hf_lifelong import DriftAdapterConfig
from hf_lifelong.adapter import trunk_features
from hf_lifelong.adapter.forward import masked_mean
from hf_lifelong.objectives import encode_inputs
from hf_lifelong.training import PreparedTask

Scores = dict[str, tuple[np.ndarray, np.ndarray]]
"""Score → its values of the questions in scope and of those out of it."""


def detection(known: np.ndarray, unknown: np.ndarray) -> dict[str, float]:
    """How well a score that is larger for unknown inputs tells them apart; unknown inputs are the positive ones.

    Returns:
        `dict[str, float]`: `auroc`; `aupr`, the average precision; `fpr_at_95_tpr`, the share of the known that are
        called unknown where .95 of the unknown are; `recall_at_5_fpr`, the share of the unknown that are called so
        where at most .05 of the known are.
    """
    truth, scores = np.repeat([0, 1], [len(known), len(unknown)]), np.concatenate([known, unknown])
    false_alarms, found, _ = roc_curve(truth, scores, drop_intermediate=False)
    return {
        "auroc": float(roc_auc_score(truth, scores)),
        "aupr": float(average_precision_score(truth, scores)),
        "fpr_at_95_tpr": float(false_alarms[found >= 0.95].min()),
        "recall_at_5_fpr": float(found[false_alarms <= 0.05].max()),
    }


@dataclass(frozen=True)
class Answers:
    """What a classifier says of n rows: `logits` `[n, C]` and `features` `[n, H]`."""

    logits: np.ndarray
    features: np.ndarray


def joint(tasks: Sequence[PreparedTask], unknown: Dataset, setting: Setting) -> Scores:
    """Scores of one LoRA with one head, trained on all tasks at once: one less the largest probability (Hendrycks and
    Gimpel, 2017), the energy (Liu et al., 2020), and both distances of `distances`."""
    learner = SharedLearner(tasks, setting)
    rows = [learner.rows(i) for i in range(len(tasks))]
    learner.train(*rows, seen=range(len(tasks)))
    train = concatenate_datasets(rows)
    seen = answers_of(learner, train)
    test = concatenate_datasets([task.test.features.select_columns(unknown.column_names) for task in tasks])
    parts = [answers_of(learner, part) for part in (test, unknown)]
    nearness = [distances(part.features, seen.features, np.array(train["labels"])) for part in parts]
    found = {
        "maximum softmax": [1 - softmax(part.logits, 1).max(1) for part in parts],
        "energy": [-logsumexp(part.logits, 1) for part in parts],
        "Mahalanobis": [own for own, _ in nearness],
        "relative Mahalanobis": [own - background for own, background in nearness],
    }
    return {name: (known, other) for name, (known, other) in found.items()}


def ours(tasks: Sequence[PreparedTask], unknown: Dataset, setting: Setting) -> Scores:
    """The novelty of the lifelong learner, which needs no member: only the frozen trunk and the signatures."""
    base = AutoModel.from_pretrained(setting.model, dtype=torch.float32)
    lengths = {name: setting.budget[name] for name in ("max_length", "stride")}
    model = on_device(get_peft_model(base, DriftAdapterConfig(**lengths)))

    def features(rows: Dataset) -> torch.Tensor:
        def run(batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return trunk_features(model, batch).cpu()

        return torch.stack(in_order(batches(tasks[0].tokenizer, rows, 64, run, next(model.parameters()).device)))

    labels = [torch.tensor(task.train["labels"]) for task in tasks]
    train, held_out = [features(task.train) for task in tasks], [features(task.validation.features) for task in tasks]
    novelty = novelty_of(train, labels, held_out)
    known = torch.cat([features(task.test.features) for task in tasks])
    return {"novelty": (novelty(known), novelty(features(unknown)))}


# What is compared: a function of the tasks, of the out-of-scope questions and of the setting, and the method whose
# chosen hyperparameters it takes.
METHODS: dict[str, tuple[Callable[[Sequence[PreparedTask], Dataset, Setting], Scores], str]] = {
    "ours": (ours, "ours"),
    "joint": (joint, "joint"),
}


def distances(features: np.ndarray, train: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared Mahalanobis distances `[n]` to the nearest class mean under the covariance within classes (Lee et al.,
    2018), and to the mean of all under the covariance of all; their difference is the relative distance (Ren et al.,
    2021, arXiv 2106.09022)."""
    means = np.stack([train[labels == k].mean(0) for k in np.unique(labels)])
    place = np.unique(labels, return_inverse=True)[1]
    within, whole = np.cov((train - means[place]).T, bias=True), np.cov(train.T, bias=True)
    nearest = cdist(features, means, "mahalanobis", VI=np.linalg.pinv(within)).min(1)
    middle = cdist(features, train.mean(0, keepdims=True), "mahalanobis", VI=np.linalg.pinv(whole))[:, 0]
    return nearest**2, middle**2


@torch.no_grad()
def answers_of(learner: SharedLearner, rows: Dataset) -> Answers:
    """Logits and pooled last hidden states of encoded rows."""
    model = learner.model.eval()

    def run(batch: dict[str, torch.Tensor]) -> list[tuple[np.ndarray, np.ndarray]]:
        pooled = masked_mean(model.backbone(**batch).last_hidden_state, batch["attention_mask"])
        return list(zip(model.label_head(pooled).cpu().numpy(), pooled.cpu().numpy(), strict=True))

    logits, features = zip(*in_order(batches(learner.tokenizer, rows, 64, run, model.own.device)), strict=True)
    return Answers(np.stack(logits).astype(np.float64), np.stack(features).astype(np.float64))


def out_of_scope(data_dir: str | None) -> list[str]:
    """The test questions of CLINC150 that belong to no intent."""
    if data_dir is not None:
        return list(load_dataset(str(Path(data_dir) / "clinc150_oos"))["test"]["text"])
    source = SOURCES["clinc150"]
    data = load_dataset(source.hub_id, source.config)["test"]
    return list(data.filter(lambda row: data.features["intent"].int2str(row["intent"]) == "oos")["text"])


def run(name: str, args: Any) -> dict[str, Any]:
    """One method: how well each of its scores does."""
    method, like = METHODS[name]
    setting = Setting(args.model, args.seed, BUDGET, chosen_of(like, RECORDS, FULL))
    sizes = {"train_size": BUDGET["train_texts"], "test_size": BUDGET["test_texts"]}
    tasks = prepare([load_task(task, args.data_dir, args.seed, **sizes) for task in stream("intents", 0)], setting)
    texts = [{"text": text} for text in out_of_scope(args.data_dir)]
    encoded = encode_inputs(texts, tasks[0].tokenizer, BUDGET["max_length"], BUDGET["stride"])[0]
    unknown = Dataset.from_dict({key: encoded[key] for key in ("input_ids", "attention_mask")})
    scores = method(tasks, unknown, setting)
    return {
        "method": name,
        "seed": args.seed,
        "in_scope": len(next(iter(scores.values()))[0]),
        "out_of_scope": len(unknown),
        "scores": {key: detection(*values) for key, values in scores.items()},
        **({"called_unknown": [float((part > 1).mean()) for part in scores["novelty"]]} if name == "ours" else {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", "--data-dir", help="folder with one data set a folder; else they are downloaded")
    parser.add_argument("--model", default="sentence-transformers/paraphrase-MiniLM-L3-v2")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    path = args.results / "out_of_scope.json"
    known = json.loads(path.read_text())["rows"] if path.exists() else []
    for name in args.methods:
        known = [row for row in known if (row["method"], row["seed"]) != (name, args.seed)] + [run(name, args)]
        head = header("python benchmarks/out_of_scope.py --data_dir DATA --model MODEL", args.model)
        record = {**head, "budget": BUDGET, "rows": known}
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(json.dumps(known[-1], indent=1))


if __name__ == "__main__":
    main()
