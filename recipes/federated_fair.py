"""Ten banks train one model of who pays back a loan; none shows its customers, and the model is fair over all of them.

    python recipes/federated_fair.py                          # both trainings in this process, about a minute

The banks have few customers of one group or few of the other, so no bank could see how unfair the model is over all.
`FedAvg` averages what they learn; `FairAvg` also adds up four sums of each bank and draws the groups together. Data is
drawn at random, so that nothing is downloaded: it shows how it works, not how people are.

As a Flower app, with Ray or with real nodes, the same file runs by `flwr run recipes` (`docs/guides/federated.md`).
"""

# ruff: noqa: E402 (notes of libraries are muted before they are imported)
from __future__ import annotations

from hf_lifelong.utils.console import mute_notes

mute_notes()

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from transformers import PrinterCallback, Trainer, TrainingArguments

from hf_lifelong.fairness import FairTrainerMixin, GroupFairness
from hf_lifelong.federated import FairAvg, InProcessGrid, client_app, load_trained, trained_tensors

BANKS, ROWS, INPUTS, ROUNDS, WEIGHT = 10, 6000, 6, 20, 20.0


class FairTrainer(FairTrainerMixin, Trainer):
    pass


class Logistic(torch.nn.Module):
    """Logistic regression in the form that `Trainer` takes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(INPUTS, 2)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.linear(inputs)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def customers(seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs, labels and groups. Group 1 has less of what pays loans back, and an input that tells the group besides;
    each customer belongs to a bank (-1: held out)."""
    rng = np.random.default_rng(seed)
    group = (rng.random(ROWS) < 0.35).astype(int)
    inputs = rng.normal(size=(ROWS, INPUTS))
    inputs[:, 0] -= 0.8 * group
    inputs[:, 1] += 1.5 * group
    chance = 1 / (1 + np.exp(-(1.2 * inputs[:, 0] - 0.5 * inputs[:, 1] + 0.8 * inputs[:, 2] + 0.4)))
    label = (rng.random(ROWS) < chance).astype(int)
    bank = np.full(ROWS, -1)
    training = rng.permutation(ROWS)[: int(0.7 * ROWS)]
    for cell in range(4):  # each group with each label is shared out by itself, unevenly
        rows = training[(2 * group + label)[training] == cell]
        ends = (rng.dirichlet(np.full(BANKS, 0.5)).cumsum() * len(rows)).astype(int)
        for i, part in enumerate(np.split(rows, ends[:-1])):
            bank[part] = i
    return {"inputs": inputs.astype(np.float32), "labels": label, "group": group, "bank": bank}


DATA = customers()


def rows_of(bank: int) -> dict[str, np.ndarray]:
    return {name: values[DATA["bank"] == bank] for name, values in DATA.items() if name != "bank"}


def make_trainer(context: Context) -> FairTrainer:
    """A bank's trainer: one epoch a round."""
    bank = int(context.node_config["partition-id"]) % BANKS
    args = TrainingArguments(
        str(Path(tempfile.gettempdir(), f"bank-{bank}")),
        num_train_epochs=1,
        per_device_train_batch_size=64,
        learning_rate=5e-3,
        lr_scheduler_type="constant",
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
    )
    rows = Dataset.from_dict(rows_of(bank))
    trainer = FairTrainer(Logistic(), args, train_dataset=rows, fairness=GroupFairness("sp"))
    trainer.remove_callback(PrinterCallback)  # a line a round and bank says little
    return trainer


client = client_app(make_trainer)
server = ServerApp()


@server.main()
def main_of_server(grid: Grid, context: Context) -> None:
    """What `flwr run` starts on the server."""
    settings = {"weight": WEIGHT, "rounds": ROUNDS, **context.run_config}
    learned = train(grid, float(settings["weight"]), int(settings["rounds"]))
    print(json.dumps(learned["rounds"][-1]))


def train(grid: Grid, weight: float, rounds: int) -> dict[str, Any]:
    """One federated training; after each round the decisions on customers of no bank are looked at."""
    model, held_out = Logistic(), rows_of(-1)
    found: list[dict[str, float]] = []

    def look(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if server_round == 0:
            return None
        load_trained(model, arrays.to_torch_state_dict())
        with torch.no_grad():
            scores = model.linear(torch.tensor(held_out["inputs"])).softmax(-1)
        decided = GroupFairness("sp", threshold=0.5)
        decided.update(scores, held_out["labels"], held_out["group"])
        accuracy = float((scores.argmax(1).numpy() == held_out["labels"]).mean())
        found.append({"held_out": abs(decided.value()), "accuracy": accuracy})
        return MetricRecord(found[-1])

    strategy = FairAvg("sp", weight)
    start = ArrayRecord(trained_tensors(model))
    result = strategy.start(grid, start, num_rounds=rounds, evaluate_fn=look)
    for server_round, metrics in result.evaluate_metrics_clientapp.items():
        found[server_round - 1]["training"] = abs(float(metrics["fairness_sp"]))
    return {"weight": weight, "rounds": found}


def draw(path: Path, runs: dict[str, dict[str, Any]]) -> None:
    """Accuracy and unfairness over the rounds."""
    from hf_lifelong.utils.figures import drawn

    titles = {
        "training": "gap between the groups, mean score\n(all banks' customers)",
        "held_out": "gap between the groups, decisions\n(customers of no bank)",
        "accuracy": "accuracy\n(customers of no bank)",
    }
    with drawn(path, (11, 3.4)) as figure:
        for axes, (key, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
            for name, run in runs.items():
                values = [entry[key] for entry in run["rounds"]]
                axes.plot(range(1, len(values) + 1), values, label=name, marker=".")
            axes.set_title(title, fontsize=10)
            axes.set_xlabel("round")
            axes.set_ylim(*((0, 0.5) if key != "accuracy" else (0.5, 1)))
            axes.grid(alpha=0.3)
        figure.axes[0].legend(loc="upper left")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--weight", type=float, default=WEIGHT, help="how much fairness counts, λ")
    parser.add_argument("--output_dir", default="out/federated_fair")
    args = parser.parse_args(argv)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    runs = {}
    for name, weight in {"FedAvg": 0.0, f"FairAvg, λ = {args.weight:g}": args.weight}.items():
        print(f"{name}: {args.rounds} rounds of {BANKS} banks …")
        runs[name] = train(InProcessGrid(client, BANKS), weight, args.rounds)
        last = runs[name]["rounds"][-1]
        gaps = f"{last['training']:.3f} (mean score, training), {last['held_out']:.3f} (decisions, held out)"
        print(f"  gap between the groups {gaps}; accuracy {last['accuracy']:.3f}")
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rounds.json").write_text(json.dumps(runs, indent=1) + "\n")
    draw(folder / "rounds.png", runs)
    print(f"{folder / 'rounds.png'} shows both, round by round.")


if __name__ == "__main__":
    main()
