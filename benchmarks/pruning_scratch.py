"""SAP where it was published: networks that are trained from scratch, pruned thirty times and rewound each time.

    python benchmarks/pruning_scratch.py --data_dir DATA

Every (network, data set, seed) is a cell: nine rules prune nine copies of one network, which train side by side as one
stacked network. Cells in `benchmarks/results/pruning_scratch.json` are not run again. `pruning_scratch.png` shows the
curves.

After Diao et al. (ICLR 2023): SGD with Nesterov momentum .9 from a rate of .1 by a cosine to 0, weight decay 5e-4,
gradients clipped at norm 1, every parameter rewound to its first value before each training. Other than there: fewer
images and epochs and, for the convolutional networks, smaller batches, which reach a training accuracy of almost 1 in
fewer passes (`CELLS`; there all images, 200 epochs, batches of 250); a convolutional network of 16, 32 and 64 channels
with strides (there 64 to 512), whose convolutions train in bf16 with weights in float32; and accuracies of each round
by themselves. Validation images, a part of the training images that is not trained on, decide what a rule keeps; test
images only measure it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from record import RESULTS, header
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from hf_lifelong.pruning import (
    SAP,
    Magnitude,
    Masks,
    OneShot,
    Step,
    Tail,
    choose,
    input_sizes,
    kept_step,
    model_index,
    output_change,
    prunable,
    stop_reason,
)
from hf_lifelong.utils.figures import drawn

ROUNDS = 30
CALIBRATION = 250  # training images on which outputs of layers are compared
RULES = {
    f"sap({name}) {scope}": SAP(p, q, scope=scope)
    for name, p, q in ((".5,1", 0.5, 1.0), ("1,2", 1.0, 2.0))
    for scope in ("neuron", "layer", "global")
} | {"lottery ticket": Magnitude(0.2), "one shot": OneShot(0.2), "tail": Tail(0.1)}
ORDERS = {"pq(.5,1)": (0.5, 1.0), "pq(1,2)": (1.0, 2.0)}
Q = 0.5  # of the l_q bound
TOLERANCE = 0.02
RISES = (0.02, 0.05, 0.1)
# Training images, validation images, and epochs and size of the batches of each training.
CELLS = {
    "mlp mnist": (4000, 1000, 12, 250),
    "cnn mnist": (2000, 500, 10, 100),
    "cnn cifar10": (2000, 500, 20, 100),
}

Stacked = dict[str, Tensor]


class Network(nn.Sequential):
    """Called as a transformers model is, with its inputs by name."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        return super().forward(pixel_values)


def make_network(kind: str, channels: int) -> Network:
    if kind == "mlp":
        return Network(
            nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 10)
        )
    convolutions = [
        layer
        for before, after in ((channels, 16), (16, 32), (32, 64))
        for layer in (nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU())
    ]
    return Network(*convolutions, nn.Flatten(), nn.Linear(64 * 16, 10))


def load(name: str, folder: str, train: int, validation: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Images `[n, channels, height, width]` of mean 0 and variance 1, and classes, of three disjoint parts."""
    found = datasets.load_dataset(str(Path(folder, name)))

    def tensors(part: Any) -> tuple[Tensor, Tensor]:
        images = torch.from_numpy(np.stack([np.asarray(image, dtype=np.float32) for image in part["image"]]))
        images = images[:, None] if images.dim() == 3 else images.permute(0, 3, 1, 2)
        return images.contiguous(), torch.tensor(part["label"])

    known = found["train"].shuffle(seed=0).select(range(train + validation))
    parts = {
        "train": tensors(known.select(range(train))),
        "validation": tensors(known.select(range(train, train + validation))),
        "test": tensors(found["test"]),
    }
    deviation, mean = torch.std_mean(parts["train"][0], (0, 2, 3), keepdim=True)
    return {
        name: (((images - mean) / deviation).contiguous(memory_format=torch.channels_last), labels)
        for name, (images, labels) in parts.items()
    }


class Stack:
    """Copies of one network that train as one: parameters `[copies, …]`, by name."""

    def __init__(self, network: Network, copies: int) -> None:
        self.network = network
        self.convolves = any(isinstance(layer, nn.Conv2d) for layer in network)
        self.initial, _ = stack_module_state([network] * copies)
        self.initial = {name: value.detach() for name, value in self.initial.items()}

    def logits(self, parameters: Stacked, images: Tensor) -> Tensor:
        """`[copies, images, classes]`."""
        if self.convolves:
            # One after the other: `vmap` makes one grouped convolution of them, which takes twice the time.
            apart = zip(*(value.unbind() for value in parameters.values()), strict=True)
            copies = [dict(zip(parameters, own, strict=True)) for own in apart]
            return torch.stack([functional_call(self.network, own, (images,)) for own in copies])
        return vmap(lambda own: functional_call(self.network, own, (images,)))(parameters)

    def train(self, pruned: Stacked, images: Tensor, labels: Tensor, epochs: int, batch: int, seed: int) -> Stacked:
        """Every copy anew from its first values, without its pruned weights."""
        parameters = {name: value.clone() for name, value in self.initial.items()}
        for name, gone in pruned.items():
            parameters[name].masked_fill_(gone, 0.0)
        for value in parameters.values():
            value.requires_grad_()
        optimizer = torch.optim.SGD(parameters.values(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
        batches = len(images) // batch
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(epochs):
            for rows in torch.randperm(len(images), generator=generator)[: batches * batch].view(batches, batch):
                with torch.autocast("cpu", torch.bfloat16, enabled=self.convolves):
                    logits = self.logits(parameters, images[rows])
                targets = labels[rows].repeat(len(logits))
                losses = F.cross_entropy(logits.float().flatten(0, 1), targets, reduction="sum")
                (losses / batch).backward()
                self.clear_and_clip(parameters, pruned)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
        return {name: value.detach() for name, value in parameters.items()}

    @staticmethod
    def clear_and_clip(parameters: Stacked, pruned: Stacked) -> None:
        """No gradient for what is pruned, and a norm of at most 1 for each copy."""
        gradients = {name: value.grad for name, value in parameters.items() if value.grad is not None}
        for name, gone in pruned.items():
            gradients[name].masked_fill_(gone, 0.0)
        norms = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0).sqrt()
        scale = (1 / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients.values():
            gradient.mul_(scale.view(-1, *[1] * (gradient.dim() - 1)))

    @torch.no_grad()
    def accuracies(self, parameters: Stacked, images: Tensor, labels: Tensor) -> list[float]:
        right = torch.cat([self.logits(parameters, part).argmax(-1) for part in images.split(500)], 1) == labels
        return right.double().mean(1).tolist()

    def one(self, parameters: Stacked, copy: int) -> Network:
        """The network with the parameters of one copy."""
        self.network.load_state_dict({name: value[copy] for name, value in parameters.items()})
        return self.network


def change_of_layers(network: Network, pruned: Stacked, images: Tensor) -> dict[str, list[float]]:
    """How far the next pruning moves each linear layer: measured, and three bounds, as shares of its output.

    The bounds are of the root mean square over the images: from the exact l1 tail of each neuron, weighted with the
    root mean square of each input; from that tail and the largest of these; and from the l_q norm of the m weights
    before it, ‖w‖_q m^(1 - 1/q), and the largest. The last needs the kept weights to be the largest of the neuron.
    """
    batches = [{"pixel_values": images}]
    linear = {name for name, target in prunable(network, "weight").items() if isinstance(target.module, nn.Linear)}
    pattern = "|".join(sorted(linear))
    changes = output_change(network, {name: pruned[name] for name in linear}, batches, targets=pattern)
    targets = prunable(network, pattern)
    sizes = input_sizes(network, targets, batches)
    out: dict[str, list[float]] = {"measured": [], "bound": [], "bound_l1": [], "bound_lq": []}
    for change in changes:
        weight = targets[change.name].rows(targets[change.name].parameter.detach()).double().abs()
        lost = targets[change.name].rows(pruned[change.name])
        kept = (weight.masked_fill(lost, 0.0) > 0).sum(1)
        norm = weight.sum(1)
        lq_norms = weight.pow(Q).sum(1).pow(1 / Q)
        lq = torch.where(kept > 0, lq_norms * kept.clamp(min=1).double() ** (1 - 1 / Q), norm)
        own = ((weight * lost) * sizes[change.name]).sum(1).norm()
        unit = change.bound / float(own) if own > 0 else 0.0  # one over the layer's output
        largest = float(sizes[change.name].max())
        out["measured"].append(change.measured)
        out["bound"].append(change.bound)
        out["bound_l1"].append(unit * largest * float((weight * lost).sum(1).norm()))
        out["bound_lq"].append(unit * largest * float(lq.norm()))
    return {name: [round(value, 5) for value in values] for name, values in out.items()}


def run_cell(
    kind: str, data: dict[str, tuple[Tensor, Tensor]], seed: int, epochs: int, batch: int
) -> list[dict[str, Any]]:
    """Nine curves."""
    start = time.process_time()
    torch.manual_seed(seed)
    stack = Stack(make_network(kind, data["train"][0].shape[1]), len(RULES))
    names = list(prunable(stack.network, "weight"))
    pruned = {name: torch.zeros_like(stack.initial[name], dtype=torch.bool) for name in names}
    rows: list[dict[str, Any]] = [{"method": rule, "points": []} for rule in RULES]
    dense: Stacked = {}
    for number in range(ROUNDS + 1):
        trained = stack.train(pruned, *data["train"], epochs, batch, seed=1000 * seed + number)
        dense = dense or trained
        scores = {part: stack.accuracies(trained, *data[part]) for part in data}
        for i, rule in enumerate(RULES.values()):
            network = stack.one(trained, i)
            masks = Masks(prunable(network, "weight"), {name: pruned[name][i] for name in names})
            point: dict[str, Any] = {part: round(values[i], 4) for part, values in scores.items()}
            point["remaining"] = masks.remaining
            point |= {name: round(model_index(masks, p, q), 5) for name, (p, q) in ORDERS.items()}
            if number < ROUNDS:
                chosen = choose(rule, masks, {name: dense[name][i] for name in names} if rule.ranks_dense else None)
                point["change"] = change_of_layers(network, chosen, data["train"][0][:CALIBRATION])
                if rule.ranks_dense:  # what it keeps is not the largest, so that this is no bound
                    del point["change"]["bound_lq"]
                for name in names:
                    pruned[name][i] = chosen[name]
            rows[i]["points"].append(point)
    seconds = round(time.process_time() - start, 1)
    return [{"seed": seed, "cpu_seconds_of_all_rules": seconds, **row} for row in rows]


def steps_of(row: dict[str, Any], orders: str) -> list[Step]:
    return [Step(i, p["remaining"], p[orders], p["validation"]) for i, p in enumerate(row["points"])]


def stopped(row: dict[str, Any], rise: float) -> dict[str, float]:
    """Where a run would have ended by the validation score and a limit on the rise of the index, and what it keeps."""
    steps = steps_of(row, "pq(1,2)" if row["method"].startswith("sap(1,2)") else "pq(.5,1)")
    last = ROUNDS
    for end in range(len(steps)):
        before = steps[: end + 1]
        if stop_reason([s.pq_index for s in before], [s.score for s in before], True, TOLERANCE, rise):
            last = end
            break
    kept = row["points"][kept_step(steps[: last + 1], True, TOLERANCE)]
    return {"trainings": last + 1.0, "remaining": kept["remaining"], "test": kept["test"]}


def first_rise(row: dict[str, Any], rise: float) -> int | None:
    """Round at which the index alone would have stopped the run."""
    steps = steps_of(row, "pq(1,2)" if row["method"].startswith("sap(1,2)") else "pq(.5,1)")
    indices = [s.pq_index for s in steps]
    return next((i for i in range(len(steps)) if stop_reason(indices[: i + 1], [], True, TOLERANCE, rise)), None)


def course(row: dict[str, Any]) -> dict[str, Any]:
    """The hypothesis in numbers: the index falls to a valley, rises to a peak and falls again; `[round, index]`."""
    out: dict[str, Any] = {}
    for orders in ORDERS:
        values = [point[orders] for point in row["points"]]
        peak = max(range(len(values)), key=lambda i: values[i] - min(values[: i + 1]))
        valley = min(range(peak + 1), key=lambda i: values[i])
        places = {"first": 0, "valley": valley, "peak": peak, "last": len(values) - 1}
        out[orders] = {name: [place, values[place]] for name, place in places.items()}
        out[orders]["test_at_peak"] = row["points"][peak]["test"]
    return out


def mean(rows: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> float:
    return round(float(np.mean([value(row) for row in rows])), 4)


CHANGES = ("measured", "bound", "bound_l1", "bound_lq")


def changes_by_round(rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    """How far each pruning moves a linear layer, and the bounds of it: medians over rules, seeds and layers."""
    medians = {}
    for key in CHANGES:
        found = [[v for row in rows for v in row["points"][i]["change"].get(key, [])] for i in range(ROUNDS)]
        medians[key] = [round(float(np.median(values)), 4) for values in found]
    return medians


def underfits_from(row: dict[str, Any]) -> int | None:
    """First round after a pruning in which the network no longer learns its training images."""
    return next((i for i, point in enumerate(row["points"]) if i and point["train"] < 0.99), None)


def by_limit(of: list[dict[str, Any]]) -> dict[str, Any]:
    """What runs of one rule keep by the validation score and a limit on the rise, and by the limit alone."""
    out: dict[str, Any] = {}
    for limit in ("inf", *RISES):
        ends = [stopped(row, float(limit)) for row in of]
        alone = [first_rise(row, float(limit)) for row in of]
        points = [row["points"][ROUNDS if end is None else end] for row, end in zip(of, alone, strict=True)]
        kept = {key: round(float(np.mean([p[key] for p in points])), 4) for key in ("remaining", "test")}
        out[f"rise_{limit}"] = {key: round(float(np.mean([e[key] for e in ends])), 4) for key in ends[0]}
        out[f"rise_{limit}"]["by_index_alone"] = {"rounds": alone, **kept}
    return out


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, by cell and rule."""
    out: dict[str, Any] = {}
    for cell in dict.fromkeys(row["cell"] for row in rows):
        out[cell] = {"changes by round": changes_by_round([row for row in rows if row["cell"] == cell])}
        for rule in RULES:
            of = [row for row in rows if (row["cell"], row["method"]) == (cell, rule)]
            entry: dict[str, Any] = {
                "seeds": len(of),
                "dense_test": mean(of, lambda r: r["points"][0]["test"]),
                "dense_train": mean(of, lambda r: r["points"][0]["train"]),
                "last_train": mean(of, lambda r: r["points"][-1]["train"]),
                "last_test": mean(of, lambda r: r["points"][-1]["test"]),
                "last_remaining": mean(of, lambda r: r["points"][-1]["remaining"]),
                "underfits_from": [underfits_from(row) for row in of],
                **by_limit(of),
                "course": [course(row) for row in of],
            }
            changes = [point["change"] for row in of for point in row["points"][:-1]]
            for key in CHANGES:
                found = [value for change in changes for value in change.get(key, [])]
                entry[f"change_{key}"] = round(float(np.median(found)), 4) if found else None
            out[cell][rule] = entry
    return out


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    colours = dict(zip(RULES, ("#440154", "#31688e", "#35b779") * 2 + ("#d95f02", "#7f7f7f", "#e7298a"), strict=True))
    with drawn(path, (5.2 * len(cells), 12.5)) as figure:
        axes = figure.subplots(4, len(cells), squeeze=False)
        for column, cell in enumerate(cells):
            for rule in RULES:
                of = [row["points"] for row in rows if (row["cell"], row["method"]) == (cell, rule)]
                style = {"color": colours[rule], "ls": "--" if rule.startswith("sap(1,2)") else "-", "lw": 1.4}
                curve = {k: np.mean([[p[k] for p in points] for points in of], 0) for k in ("remaining", "test")}
                index = np.mean([[p["pq(.5,1)"] for p in points] for points in of], 0)
                axes[0][column].plot(curve["remaining"], curve["test"], label=rule, **style)
                axes[1][column].plot(index, **style)
                axes[2][column].plot(index, curve["test"], marker=".", ms=3, **style)
            axes[0][column].set(xscale="log", title=cell, xlabel="remaining weights")
            axes[0][column].invert_xaxis()
            axes[1][column].set(xlabel="round")
            axes[2][column].set(xlabel="PQ Index (.5, 1) of the trained model")
            changes = changes_by_round([row for row in rows if row["cell"] == cell])
            for (key, values), name in zip(changes.items(), ("measured", "exact tail", "l1 tail", "l_q"), strict=True):
                axes[3][column].plot(values, label=name if key == "measured" else f"bound: {name}")
            axes[3][column].set(yscale="log", xlabel="round")
        axes[3][0].legend(frameon=False, fontsize=7)
        labels = ("test accuracy", "PQ Index (.5, 1)", "test accuracy", "change of a linear layer's output (share)")
        for row, label in enumerate(labels):
            axes[row][0].set_ylabel(label)
        axes[0][0].legend(frameon=False, fontsize=7)
        for panel in axes.flat:
            panel.grid(alpha=0.3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--cells", nargs="+", default=list(CELLS), choices=list(CELLS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3])
    args = parser.parse_args()
    out = RESULTS / "pruning_scratch.json"
    rows = json.loads(out.read_text())["rows"] if out.exists() else []
    for cell in args.cells:
        kind, name = cell.split()
        train, validation, epochs, batch = CELLS[cell]
        data = load(name, args.data_dir, train, validation)
        for seed in args.seeds:
            if any((row["cell"], row["seed"]) == (cell, seed) for row in rows):
                continue
            budget = {"train_images": train, "epochs": epochs, "batch": batch}
            rows += [{"cell": cell, **budget, **row} for row in run_cell(kind, data, seed, epochs, batch)]
            head = header("python benchmarks/pruning_scratch.py --data_dir DATA")
            record = {**head, "summary": summarise(rows), "rows": rows}
            out.write_text(json.dumps(record) + "\n")
            draw(rows, RESULTS / "pruning_scratch.png")
            print(f"{cell} seed {seed}: {rows[-1]['cpu_seconds_of_all_rules']} CPU s", flush=True)


if __name__ == "__main__":
    main()
