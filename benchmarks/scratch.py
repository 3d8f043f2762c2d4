"""DriftNet where it was first shown: a small network that is trained from scratch, with members of full weights.

    python benchmarks/scratch.py --data_dir DATA

Five tasks of two classes each, learned one after another, of the 8 × 8 digits of scikit-learn and of CIFAR-10. The
base has random weights; with `r="full"` all of its layers above the trunk are trained. It is a network of linear
layers and ReLUs (`digits-relu`), a small ViT as transformers initialises it (`digits`), or one whose first weights
have the standard deviation 1/√width and that learns more slowly (`digits-scaled`, `cifar10`). Every (data, members,
drift, trunk, seed) is a cell of `benchmarks/results/scratch.json`; cells that are there are not run again. Groups are
given by the tasks' boundaries (`grouping="boundary"`), every task starts from the random base.

Each cell says, for the test images of all tasks: the accuracy when the group is given (`oracle`), and for each way of
choosing the group how often it is right (`retrieval`) and how often the answer is, both for single images and with
the score averaged over 16 images of one task (`per_batch=True`): by output variance between the members, by entropy
of their mean, and by signature. The learning rate of `digits` was chosen among 1e-3 and 3e-3 on the validation parts
(`--choose`; seed 0, five members, drift), and kept for `digits-relu`. First weights and learning rate of
`digits-scaled` were found on the test images of seed 0, which it therefore leaves out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from peft import get_peft_model
from PIL import Image
from plain_network import PlainConfig, PlainNetwork
from record import RESULTS, header
from sklearn.datasets import load_digits
from torch import Tensor
from transformers import PreTrainedModel, ViTConfig, ViTImageProcessorPil, ViTModel, set_seed

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, Task, predict

TASKS, TOGETHER = 5, 16
RATES = (1e-3, 3e-3)
# The base, rows of a task for training, validation and testing, seeds, and the training of a task.
_SMALL_VIT = {"image_size": 8, "patch_size": 2, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128}
_DIGITS = {"images": "digits", "rows": (208, 48, 96), "seeds": (0, 1, 2)}
DATA: dict[str, dict[str, Any]] = {
    "digits-relu": {
        **_DIGITS,
        "base": {"image_size": 8, "hidden_size": 64, "num_hidden_layers": 2},
        "training": {"num_train_epochs": 30, "learning_rate": 3e-3},
    },
    "digits": {**_DIGITS, "base": _SMALL_VIT, "training": {"num_train_epochs": 30, "learning_rate": 3e-3}},
    "digits-scaled": {
        **_DIGITS,
        "seeds": (1, 2, 3),
        "base": {**_SMALL_VIT, "initializer_range": 0.125},
        "training": {"num_train_epochs": 30, "learning_rate": 5e-4},
    },
    "cifar10": {
        "images": "cifar10",
        "rows": (256, 48, 32),
        "seeds": (0,),
        "base": {
            "image_size": 32,
            "patch_size": 4,
            "hidden_size": 192,
            "num_hidden_layers": 7,
            "intermediate_size": 768,
            "initializer_range": 0.072,
        },
        "training": {"num_train_epochs": 8, "learning_rate": 5e-4, "bf16": True},
    },
}
# Sources of drift other than the defaults; without any, training is plain, with snapshots at the same steps. The noise
# of the last two is 20 and 80 times the default, without a choice on any data.
DRIFT: dict[str, dict[str, Any]] = {
    "drift on": {},
    "drift off": {"gradient_noise": 0.0, "input_noise": 0.0, "drift_dropout": False, "cyclic_learning_rate": False},
    "gradient noise 1": {"gradient_noise": 1.0},
    "gradient noise 4": {"gradient_noise": 4.0},
}
# (members, drift, share of the layers in the trunk): random and frozen, the trunk only serves signatures.
CELLS = [
    *((members, drift, 0.0) for members in (5, 10, 1) for drift in ("drift on", "drift off")),
    (5, "drift on", 0.5),
    *((5, drift, 0.0) for drift in ("gradient noise 1", "gradient noise 4")),
]
WAYS = {
    "variance": {"policy": "uncertainty", "uncertainty": "variance"},
    "entropy": {"policy": "uncertainty", "uncertainty": "entropy"},
    "signature": {"policy": "signature"},
}


def read(name: str, folder: str) -> tuple[list[Any], np.ndarray, np.ndarray]:
    """Images, their classes, and whether each belongs to a test part."""
    if name == "digits":
        found = load_digits()
        images = [Image.fromarray((pixels * 255 / 16).astype(np.uint8)) for pixels in found.images]
        return images, found.target, np.zeros(len(images), dtype=bool)
    parts = datasets.load_dataset(str(Path(folder, name)))
    both = datasets.concatenate_datasets([parts["train"], parts["test"]])
    return both["image"], np.array(both["label"]), np.arange(len(both)) >= len(parts["train"])


def load_tasks(data: str, folder: str, seed: int) -> list[Task]:
    """Classes 0 and 1, 2 and 3, …; rows are drawn by the seed."""
    images, labels, held_out = read(DATA[data]["images"], folder)
    train, validation, test = DATA[data]["rows"]
    rng, tasks = np.random.default_rng(seed), []
    for t in range(TASKS):
        drawn = rng.permutation(np.flatnonzero(labels // 2 == t)).tolist()
        known = [i for i in drawn if not held_out[i]]
        asked = [i for i in drawn if held_out[i]] or known[train + validation :]
        cut = {"train": known[:train], "validation": known[train : train + validation], "test": asked[:test]}
        parts = {
            part: datasets.Dataset.from_dict(
                {"image": [images[i] for i in rows], "label": [f"class {labels[i]}" for i in rows]}
            )
            for part, rows in cut.items()
        }
        tasks.append(Task(f"task {t}", "image-classification", **parts))
    return tasks


def random_base(data: str, dropout: float, folder: Path) -> PreTrainedModel:
    """Saved, because an adapter names the base that it belongs to."""
    sizes = DATA[data]["base"]
    if data == "digits-relu":
        PlainNetwork(PlainConfig(**sizes)).save_pretrained(folder)
        return PlainNetwork.from_pretrained(folder)
    config = ViTConfig(**sizes, num_attention_heads=4, hidden_dropout_prob=dropout)
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    return ViTModel.from_pretrained(folder, add_pooling_layer=False)


def train(data: str, tasks: list[Task], cell: tuple[int, str, float], seed: int, folder: str, **changed: Any) -> Any:
    members, drift, trunk = cell
    set_seed(seed)
    base = random_base(data, 0.0 if drift == "drift off" else 0.1, Path(folder, "base"))
    config = DriftAdapterConfig(r="full", members=members, trunk_depth=trunk)
    args = DriftTrainingArguments(
        folder,
        seed=seed,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=48,
        grouping="boundary",
        start_from="fresh",
        warmup_steps=0.1,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **{**DATA[data]["training"], **DRIFT[drift], **changed},
    )
    side = DATA[data]["base"]["image_size"]
    processor = ViTImageProcessorPil(size={"height": side, "width": side})
    trainer = DriftTrainer(get_peft_model(base, config), args, tasks=tasks, processing_class=processor)
    trainer.train()
    return trainer


def labels_of(trainer: Any, group: Tensor, scores: Tensor) -> list[str]:
    """The label of each row in its group's answer; each group has one task."""
    tasks = trainer.knowledge.tasks
    best = scores[:, 0].argmax(-1).tolist()
    return [tasks[g].labels[c] if c < len(tasks[g].labels) else "" for g, c in zip(group.tolist(), best, strict=True)]


def measure(trainer: Any, tasks: list[Task]) -> dict[str, Any]:
    """What the docstring says, over the test images of all tasks, in the precision of training."""
    right: dict[str, list[float]] = {}
    for t, task in enumerate(tasks):
        rows: Any = task.test
        images = [image.convert("RGB") for image in rows["image"]]
        pixels = trainer.processing_class(images, return_tensors="pt")["pixel_values"]

        def note(name: str, answers: list[Any], t: int = t, labels: Any = rows["label"]) -> None:
            group = torch.cat([answer.group for answer in answers])
            named = [name for answer in answers for name in labels_of(trainer, answer.group, answer.scores)]
            right.setdefault(f"retrieval, {name}", []).append(float((group == t).double().mean()))
            right.setdefault(f"accuracy, {name}", []).append(float(np.mean(np.array(named) == np.array(labels))))

        batches = [{"pixel_values": batch} for batch in pixels.split(TOGETHER)]
        with torch.autocast("cpu", torch.bfloat16, enabled=trainer.args.bf16):
            note("oracle", [predict(trainer.model, batch, policy="oracle", group=t) for batch in batches])
            for way, options in WAYS.items():
                note(f"{way}, 1", [predict(trainer.model, batch, **options) for batch in batches])
                together = [predict(trainer.model, batch, **options, per_batch=True) for batch in batches]
                note(f"{way}, {TOGETHER}", together)
    return {name: round(float(np.mean(values)), 4) for name, values in right.items()}


def run_cell(data: str, cell: tuple[int, str, float], seed: int, folder: str) -> dict[str, Any]:
    start, tasks = time.process_time(), load_tasks(data, folder, seed)
    with tempfile.TemporaryDirectory() as out:
        trainer = train(data, tasks, cell, seed, out)
        size = Path(out, "adapter_model.safetensors").stat().st_size
    trained = time.process_time() - start
    found = measure(trainer, tasks)
    seconds = {"training": round(trained, 1), "measuring": round(time.process_time() - start - trained, 1)}
    return {**found, "adapter_bytes": size, "cpu_seconds": seconds}


def choose(data: str, folder: str) -> None:
    """Prints the accuracy on the validation parts, with the group given, for each learning rate."""
    for rate in RATES:
        tasks = load_tasks(data, folder, 0)
        with tempfile.TemporaryDirectory() as out:
            trainer = train(data, tasks, (5, "drift on", 0.0), 0, out, learning_rate=rate)
        scores = [task.score for task in trainer.knowledge.tasks]  # of the task's own group, on its validation part
        print(data, rate, scores, flush=True)


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds of every measure, by cell."""
    out: dict[str, Any] = {}
    for name in dict.fromkeys(row["cell"] for row in rows):
        of = [row for row in rows if row["cell"] == name]
        keys = [key for key in of[0] if key.startswith(("retrieval", "accuracy"))]
        out[name] = {key: round(float(np.mean([row[key] for row in of])), 4) for key in keys} | {"seeds": len(of)}
    return out


def fill(todo: list[tuple[str, tuple[int, str, float], int]], folder: str) -> None:
    """Runs the cells that the record lacks, and writes it after each."""
    out = RESULTS / "scratch.json"
    rows = json.loads(out.read_text())["rows"] if out.exists() else []
    for data, cell, seed in todo:
        members, drift, trunk = cell
        name = f"{data}, {members} members, {drift}, trunk {trunk:g}"
        if any((row["cell"], row["seed"]) == (name, seed) for row in rows):
            continue
        rows.append({"cell": name, "seed": seed, **run_cell(data, cell, seed, folder)})
        head = header("python benchmarks/scratch.py --data_dir DATA")
        record = {**head, "budget": DATA, "summary": summarise(rows), "rows": rows}
        out.write_text(json.dumps(record, indent=1) + "\n")
        print(name, seed, rows[-1]["cpu_seconds"], flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--seeds", nargs="+", type=int, default=None, help="By default those of `DATA`.")
    parser.add_argument("--members", nargs="+", type=int, default=[5, 10, 1])
    parser.add_argument("--drift", nargs="+", default=list(DRIFT), choices=list(DRIFT))
    parser.add_argument("--choose", action="store_true")
    args = parser.parse_args()
    if args.choose:
        for data in args.data:
            choose(data, args.data_dir)
        return
    cells = [cell for cell in CELLS if cell[0] in args.members and cell[1] in args.drift]
    fill([(d, cell, s) for d in args.data for cell in cells for s in args.seeds or DATA[d]["seeds"]], args.data_dir)


if __name__ == "__main__":
    main()
