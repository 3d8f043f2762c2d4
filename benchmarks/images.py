"""Images, task after task, against what people would use instead: the comparison of `lifelong.py` on four streams.

    python benchmarks/images.py --choose --data_dir DATA --model MODEL
    python benchmarks/images.py --data_dir DATA --model MODEL --streams cifar10 --seeds 0 1 2

*mnist* and *cifar10* two classes at a time, *cifar100* ten, *superclasses* the five classes of each of its twenty
superclasses. Cells, tables and hyperparameters are made as in `lifelong.py`, in `benchmarks/results/streams/images/`;
`_texts` in the names of a budget are images here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import datasets
from lifelong import Comparison, choose, fill
from methods import GAMMAS, METHODS, SHRINKAGES, Method, frozen, random_features
from stream_records import RECORDS
from transformers.utils import logging

STREAMS = ["mnist", "cifar10", "cifar100", "superclasses"]
# Trunk features and members run on every image that `uncertainty` is scored on: 200 take as long as a training.
BUDGET = {
    "train_texts": 200,
    "test_texts": 100,
    "epochs": 3,
    "batch_size": 16,
    "side": 98,
    "uncertainty_rows": 200,
    "variants": ["uncertainty", "members alone", "closed form alone"],
}
BUDGETS = {
    "cifar100": {"train_texts": 300, "test_texts": 50},
    "superclasses": {"train_texts": 150, "test_texts": 25},
}
CHOICE = {"streams": ["cifar10"], "tasks": 3, "train_texts": 150, "seed": 100}
LAYERS = {"layers": ["four", "last"]}
# More than there are training images; the published widths cost minutes a task.
WIDTH = {"width": 5_000}
FROZEN = {
    "ncm": Method(frozen.ncm, LAYERS),
    "lda": Method(frozen.lda, {**LAYERS, "shrinkage": SHRINKAGES}),
    "ranpac": Method(random_features.ranpac, LAYERS, WIDTH),
    "klda": Method(random_features.klda, {"gamma": GAMMAS, "shrinkage": SHRINKAGES}, {"layers": "four", **WIDTH}),
}
TRAINED = ["ours", "sequential", "joint", "separate", "replay_2", "ours_no_drift"]
IMAGES = Comparison(
    "images", "images.py", BUDGET, BUDGETS, CHOICE, methods={**{name: METHODS[name] for name in TRAINED}, **FROZEN}
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", "--data-dir", help="folder with one data set a folder; else they are downloaded")
    parser.add_argument("--model", default="facebook/dinov2-small")
    parser.add_argument("--streams", nargs="+", choices=STREAMS, default=STREAMS)
    parser.add_argument("--methods", nargs="+", choices=list(IMAGES.methods), default=list(IMAGES.methods))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--results", type=Path, default=RECORDS, help="folder in which `images` has the records")
    parser.add_argument("--choose", action="store_true", help="choose hyperparameters on validation data")
    parser.set_defaults(orders=[0])
    args = parser.parse_args()
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    (choose if args.choose else fill)(args, IMAGES)


if __name__ == "__main__":
    main()
