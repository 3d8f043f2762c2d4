"""How deep the trunk of an image base has to be to tell tasks apart, and what of it is best pooled.

    python benchmarks/image_trunks.py --data_dir DATA --model MODEL

On training images alone, a part of which is held out: the share of them whose task the signature finds (`retrieval`),
and how well linear discriminants on the same features tell all classes apart (`lda`), by depth and by what is pooled:
of the hidden states at that depth alone, or of the last three up to it. One pass over the frozen base gives all of
them. Data sets that the result file has are not run again.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from images import BUDGET
from methods.shared import batches, image_parts, in_order
from record import RESULTS, header
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from streams import TASKS, load_task, stream
from transformers import AutoImageProcessor, AutoModel
from transformers.utils import logging

from hf_lifelong import DriftAdapterConfig
from hf_lifelong.knowledge import Constants, Signature, fit_signature, shared_router
from hf_lifelong.utils.files import read_json, write_json

# Images a task: three quarters are fitted on, the rest is held out.
IMAGES = {"mnist": 300, "cifar10": 300, "cifar100": 500}
SEEDS = (0, 1, 2)
DEPTHS = {"1/3": 1 / 3, "1/2": 1 / 2, "2/3": 2 / 3, "3/4": 3 / 4, "5/6": 5 / 6, "1": 1.0}
# How many states up to that depth, and which parts of each.
POOLS = {
    "patches": (1, [1]),
    "class token": (1, [0]),
    "both": (1, [0, 1]),
    "patches of three states": (3, [1]),
    "both of three states": (3, [0, 1]),
}


@torch.no_grad()
def parts_of(name: str, data_dir: str | None, model: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Class token and mean of the patches before and after every layer, `[images, layers + 1, 2, H]`; the task and
    the class of each image, `[images]`."""
    backbone = AutoModel.from_pretrained(model, dtype=torch.float32).eval()
    side = BUDGET["side"]
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    processor = AutoImageProcessor.from_pretrained(model, **sizes)

    def pooled(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            states = backbone(**batch, output_hidden_states=True).hidden_states
        return torch.stack([image_parts(state) for state in states], 1)

    parts, tasks, classes, known = [], [], [], 0
    for number, task in enumerate(stream(name, 0)):
        rows = load_task(task, data_dir, 0, IMAGES[name], validation_share=0.0)["train"]
        pictures = rows.select_columns(["image"]).rename_column("image", "pixel_values")
        parts += in_order(batches(processor, pictures, 50, pooled))
        tasks += [number] * len(rows)
        classes += [known + label for label in rows["label"]]
        known += len(TASKS[task].labels or ())
    return torch.stack(parts), torch.tensor(tasks), torch.tensor(classes)


def scores(features: torch.Tensor, tasks: torch.Tensor, classes: torch.Tensor, seed: int) -> dict[str, float]:
    """Retrieval and LDA's accuracy on a quarter of the rows, drawn by a seed."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(features)))
    held_out, fitted = order[: len(order) // 4], order[len(order) // 4 :]
    config, count = DriftAdapterConfig(), int(tasks.max()) + 1
    signatures, widths, sizes = [], [], []
    for task in range(count):
        rows = fitted[tasks[fitted] == task]
        of_task = classes[tasks == task].unique()
        labels = torch.searchsorted(of_task, classes[rows])
        signatures.append(fit_signature(features[rows], config.signature_rank, labels, len(of_task)))
        widths.append(len(of_task))
        sizes.append(len(rows))
    stacks = (torch.stack([getattr(s, part) for s in signatures]) for part in ("mean", "factor", "diagonal"))
    together = Signature(*stacks, torch.cat([s.classes for s in signatures]))
    shrinkage = config.signature_shrinkage
    router = shared_router(together, torch.tensor(sizes), widths, list(range(count)), shrinkage, Constants())
    found = router(features[held_out]).argmax(1)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1)
    lda.fit(features[fitted].double().numpy(), classes[fitted].numpy())
    return {
        "retrieval": float((found == tasks[held_out]).double().mean()),
        "lda": float(lda.score(features[held_out].double().numpy(), classes[held_out].numpy())),
    }


def measured(name: str, args: Any) -> list[dict[str, Any]]:
    """A row for each depth and pooling of a data set: means over the seeds."""
    parts, tasks, classes = parts_of(name, args.data_dir, args.model)
    rows, layers = [], parts.shape[1] - 1
    for (depth, share), (pool, (count, which)) in itertools.product(DEPTHS.items(), POOLS.items()):
        end = round(share * layers)
        states = parts[:, end + 1 - count : end + 1, which]
        features = torch.cat([states[:, :1], states.diff(dim=1)], 1).flatten(1)
        found = [scores(features, tasks, classes, seed) for seed in SEEDS]
        means = {key: round(float(np.mean([one[key] for one in found])), 4) for key in found[0]}
        rows.append({"data": name, "images": len(features), "depth": depth, "pooled": pool, **means})
    return rows


def summarise(rows: list[dict[str, Any]], model: str) -> dict[str, Any]:
    """The result file: every row, and by depth and pooling the means over the data sets."""
    summary = {
        f"{depth}, {pool}": {
            key: round(float(np.mean([r[key] for r in rows if (r["depth"], r["pooled"]) == (depth, pool)])), 4)
            for key in ("retrieval", "lda")
        }
        for depth in DEPTHS
        for pool in POOLS
    }
    head = header("python benchmarks/image_trunks.py --data_dir DATA --model MODEL", model)
    return {**head, "side": BUDGET["side"], "seeds": list(SEEDS), "summary": summary, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", "--data-dir", help="folder with one data set a folder; else they are downloaded")
    parser.add_argument("--model", default="facebook/dinov2-small")
    parser.add_argument("--data", nargs="+", choices=list(IMAGES), default=list(IMAGES))
    parser.add_argument("--out", type=Path, default=RESULTS / "image_trunks.json")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    logging.disable_progress_bar()
    rows = read_json(args.out)["rows"] if args.out.exists() else []
    for name in args.data:
        if name not in {row["data"] for row in rows}:
            rows += measured(name, args)
            write_json(args.out, summarise(rows, args.model))
            print(name, flush=True)


if __name__ == "__main__":
    main()
