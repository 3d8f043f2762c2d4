"""How far a fine-tuned model can be pruned: SAP, published and continuous, against three other rules.

    python benchmarks/pruning.py --data_dir DATA --model MODEL

Every (method, data set, seed) is a row of `benchmarks/results/pruning.json`, and so are the sizes, the speeds and the
lifelong stream; rows that are there are not run again. `pruning.png` shows the curves. Each method trains for the same
number of steps: six rounds of one epoch, or one run of six epochs that prunes after each but the last. The learning
rate was chosen among 1e-4, 3e-4, 6e-4 and 1e-3 on the validation part (dense model, one epoch, seed 0).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from ours import drift
from record import RESULTS, header
from rivals import encode
from streams import load_task
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from hf_lifelong.pruning import (
    SAP,
    Magnitude,
    Masks,
    OneShot,
    SAPCallback,
    Tail,
    model_index,
    prunable,
    prune,
    prune_iteratively,
    save_compact,
    shrink,
)
from hf_lifelong.utils.figures import drawn

ROUNDS = 5
BUDGET = {"train_texts": 500, "epochs_a_round": 1, "batch_size": 16, "learning_rate": 3e-4, "max_length": 64}
TEST_TEXTS = 500
DATA_SETS = ("sst2", "ag_news")
RULES = {
    "sap(.5,1)": SAP(scope="global"),
    "sap(1,2)": SAP(1.0, 2.0, scope="global"),
    "sap(1,2) per neuron": SAP(1.0, 2.0, scope="neuron"),
    "lottery ticket": Magnitude(0.3),
    "one shot": OneShot(0.3),
    "tail": Tail(0.15),
}
METHODS = {name: ("rounds", rule) for name, rule in RULES.items()} | {
    f"{name}, continuous": ("one run", rule) for name, rule in RULES.items() if name.startswith("sap")
}
FREE = {"tolerance": float("inf"), "rise": float("inf")}


class Curve(TrainerCallback):
    """Measures the model each time that it has been trained at one level of pruning."""

    def __init__(self, trainer: Trainer, test: Any, due: Any) -> None:
        self.trainer, self.test, self.due = trainer, test, due
        self.points: list[dict[str, float]] = []

    def measure(self) -> None:
        found = prunable(self.trainer.model)
        masks = Masks(found, {name: target.parameter == 0 for name, target in found.items()})
        scores = {
            part: self.accuracy(data)
            for part, data in (("validation", self.trainer.eval_dataset), ("test", self.test))
        }
        self.points.append({"remaining": masks.remaining, "pq_index": model_index(masks), **scores})

    def accuracy(self, data: Any) -> float:
        out = self.trainer.predict(data)
        return float((out.predictions.argmax(-1) == out.label_ids).mean())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.due is not None and self.due(state.global_step, state.max_steps):
            self.measure()
            self.trainer.model.train()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.measure()


def make_trainer(task: dict, name: str, seed: int, folder: str, epochs: int) -> tuple[Trainer, Any]:
    tokenizer = AutoTokenizer.from_pretrained(name)
    parts = {
        split: encode(task[split], task["columns"], tokenizer, BUDGET["max_length"])
        for split in ("train", "validation", "test")
    }
    classes = task["train"].features[task["columns"]["label"]].num_classes
    set_seed(seed)
    model = AutoModelForSequenceClassification.from_pretrained(name, dtype=torch.float32, num_labels=classes)
    args = TrainingArguments(
        folder,
        seed=seed,
        num_train_epochs=epochs,
        per_device_train_batch_size=BUDGET["batch_size"],
        per_device_eval_batch_size=64,
        learning_rate=BUDGET["learning_rate"],
        warmup_steps=0.1,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model,
        args,
        train_dataset=parts["train"],
        eval_dataset=parts["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    return trainer, parts["test"]


def run_method(method: str, data_set: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """One curve."""
    task = load_task(data_set, args.data_dir, seed, BUDGET["train_texts"], validation_share=0.4, test_size=TEST_TEXTS)
    way, rule = METHODS[method]
    start = time.time()
    with tempfile.TemporaryDirectory() as folder:
        trainer, test = make_trainer(task, args.model, seed, folder, 1 if way == "rounds" else ROUNDS + 1)
        if way == "rounds":
            trainer.add_callback(curve := Curve(trainer, test, None))
            prune_iteratively(trainer, ROUNDS, rule, **FREE)
        else:
            epoch = -(-len(trainer.train_dataset) // BUDGET["batch_size"])
            sap = SAPCallback(trainer, rule, start=epoch, every=epoch, end=ROUNDS * epoch, **FREE)
            trainer.add_callback(curve := Curve(trainer, test, sap.due))
            trainer.add_callback(sap)
            trainer.train()
    return {"seconds": round(time.time() - start, 1), "test": curve.points[-1]["test"], "points": curve.points}


def sizes(args: argparse.Namespace) -> dict[str, Any]:
    """Bytes of a model of which 50 to 95 % of the backbone's weights are zero, as a share of the dense ones."""
    out: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for share in (0.5, 0.8, 0.9, 0.95):
            model = AutoModel.from_pretrained(args.model, dtype=torch.float32)
            masks = prune(model, Magnitude(share))
            state = {name: target.parameter.detach() for name, target in masks.targets.items()}
            for what, tensors in (("pruned weights", state), ("whole model", model.state_dict())):
                path = Path(folder, "x.safetensors")
                save_compact(tensors, path)
                dense = sum(tensor.nbytes for tensor in tensors.values())
                out[f"{what} at {share:.0%}"] = round(path.stat().st_size / dense, 4)
    return out


def speeds(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a forward pass before and after half of the feed-forward neurons are gone, measured in turns."""
    gpt2 = AutoConfig.for_model("gpt2")
    models = {
        "all-minilm-l6": lambda: AutoModel.from_pretrained(args.model, dtype=torch.float32),
        "gpt2 (random weights)": lambda: AutoModelForCausalLM.from_config(gpt2, dtype=torch.float32),
    }
    out = {}
    for name, make in models.items():
        torch.manual_seed(0)
        pair = (make().eval(), shrink(make().eval(), 0.5))
        ids = torch.randint(1000, 20000, (8, 128))
        seconds: list[list[float]] = [[], []]
        with torch.no_grad():
            for turn in range(12):
                for i, model in enumerate(pair):
                    start = time.perf_counter()
                    model(input_ids=ids)
                    if turn >= 2:
                        seconds[i].append(time.perf_counter() - start)
        before, after = (float(np.median(s)) for s in seconds)
        out[name] = {
            "seconds_before": before,
            "seconds_after": after,
            "ratio": round(float(np.median(np.divide(seconds[1], seconds[0]))), 4),
            "parameters_before": sum(p.numel() for p in pair[0].parameters()),
            "parameters_after": sum(p.numel() for p in pair[1].parameters()),
            "batch": list(ids.shape),
            "threads": torch.get_num_threads(),
        }
    return out


def stream(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """A lifelong stream on the dense base, and on one that lost half of its weights before the first task."""
    tasks = [load_task(name, args.data_dir, seed, 1000, test_size=TEST_TEXTS) for name in DATA_SETS]
    budget = {"epochs": 3, "batch_size": 16, "learning_rate": 2e-3, "max_length": 64}
    out = {}
    for kind in ("dense", "pruned"):
        with tempfile.TemporaryDirectory() as folder:
            base = AutoModel.from_pretrained(args.model, dtype=torch.float32)
            if kind == "pruned":
                prune(base, Magnitude(0.5))
            base.save_pretrained(folder)
            AutoTokenizer.from_pretrained(args.model).save_pretrained(folder)
            save_compact(base, Path(folder, "compact"))
            result = drift(tasks, folder, seed, budget)
            out[kind] = {key: result[key] for key in ("accuracy", "retrieval_signature")}
            out[kind] |= {"oracle_accuracy": result["summary"]["oracle_accuracy"]}
            out[kind] |= {"base_bytes": os.path.getsize(Path(folder, "compact")), "adapter_bytes": result["bytes"]}
    return out


def at(points: list[dict[str, float]], remaining: float) -> float | None:
    """Test accuracy where a curve crosses a share of remaining weights; `None` where it does not get there."""
    left = [p["remaining"] for p in points]
    if min(left) > remaining:
        return None
    order = np.argsort(left)
    return float(np.interp(remaining, np.array(left)[order], np.array([p["test"] for p in points])[order]))


def whole_curves(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The curves of the seeds that every method has run with, so that means compare like with like."""
    curves = [row for row in rows if row["kind"] == "curve"]
    seeds = [row["seed"] for row in curves]
    return [row for row in curves if seeds.count(row["seed"]) == len(METHODS) * len(DATA_SETS)]


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    curves = whole_curves(rows)
    dense = {(r["data_set"], r["seed"]): r["points"][0]["test"] for r in curves if r["method"] == "lottery ticket"}
    summary: dict[str, Any] = {}
    for share in (50, 80):
        for method in METHODS:
            own = [r for r in curves if r["method"] == method and (r["data_set"], r["seed"]) in dense]
            found = [(dense[r["data_set"], r["seed"]], at(r["points"], 1 - share / 100)) for r in own]
            reached = [before - after for before, after in found if after is not None]
            value = round(float(np.mean(reached)), 4) if reached and len(reached) == len(found) else None
            summary.setdefault(f"accuracy_lost_at_{share}", {})[method] = value
    summary["dense_accuracy"] = {
        name: round(float(np.mean([v for (d, _), v in dense.items() if d == name])), 4)
        for name in DATA_SETS
        if any(d == name for d, _ in dense)
    }
    for row in rows:
        if row["kind"] == "sizes":
            summary["compact_bytes_ratio_at_90"] = row["pruned weights at 90%"]
            summary["compact_bytes_ratio_at_90_whole_model"] = row["whole model at 90%"]
        if row["kind"] == "speeds":
            summary["shrink_seconds_ratio_at_50"] = row["all-minilm-l6"]["ratio"]
            summary["shrink_seconds_ratio_at_50_gpt2"] = row["gpt2 (random weights)"]["ratio"]
    streams = [row for row in rows if row["kind"] == "stream"]
    if streams:
        for key in ("accuracy", "oracle_accuracy", "base_bytes"):
            values = {kind: float(np.mean([row[kind][key] for row in streams])) for kind in ("dense", "pruned")}
            summary[f"stream_{key}"] = {kind: round(value, 4) for kind, value in values.items()}
    return summary


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy and PQ Index against remaining weights, means over the seeds."""
    curves = whole_curves(rows)
    colours = dict(zip(RULES, ("#440154", "#31688e", "#35b779", "#e69f00", "#d55e00", "#777777"), strict=True))
    with drawn(path, (11, 7)) as figure:
        axes = figure.subplots(2, len(DATA_SETS), sharex=True, squeeze=False)
        for column, data_set in enumerate(DATA_SETS):
            for method, (way, _) in METHODS.items():
                own = [r["points"] for r in curves if (r["method"], r["data_set"]) == (method, data_set)]
                if not own:
                    continue
                style = {"color": colours[method.removesuffix(", continuous")], "marker": "o", "ms": 4}
                style |= {"ls": "-" if way == "rounds" else "--", "label": method}
                for panel, key in ((axes[0][column], "test"), (axes[1][column], "pq_index")):
                    mean = {k: np.mean([[p[k] for p in points] for points in own], axis=0) for k in ("remaining", key)}
                    panel.plot(mean["remaining"], mean[key], **style)
            axes[0][column].set_title(data_set)
            axes[0][column].set_ylabel("test accuracy ↑")
            axes[1][column].set_ylabel("PQ Index (.5, 1) of the survivors")
            axes[1][column].set_xlabel("remaining weights of the backbone")
            for panel in axes[:, column]:
                panel.grid(alpha=0.3)
        axes[0][0].invert_xaxis()  # all panels share it
        figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="folder with one data set a folder; without it they come from the Hub")
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", default=str(RESULTS / "pruning.json"))
    args = parser.parse_args()
    datasets.disable_progress_bars()
    out = Path(args.out)
    rows = json.loads(out.read_text())["rows"] if out.exists() else []
    cells = [({"kind": "sizes"}, lambda: sizes(args)), ({"kind": "speeds"}, lambda: speeds(args))]
    for seed in args.seeds:
        for name in DATA_SETS:
            cells += [
                (
                    {"kind": "curve", "method": m, "data_set": name, "seed": seed},
                    lambda m=m, n=name, s=seed: run_method(m, n, s, args),
                )
                for m in METHODS
            ]
    cells += [({"kind": "stream", "seed": seed}, lambda s=seed: stream(s, args)) for seed in args.seeds]
    for key, run in cells:
        if any(all(row.get(k) == v for k, v in key.items()) for row in rows):
            continue
        start = time.time()
        rows.append(key | run())
        result = {
            **header("python benchmarks/pruning.py --data_dir DATA --model MODEL", args.model),
            "budget": {**BUDGET, "rounds": ROUNDS, "test_texts": TEST_TEXTS, "bf16_autocast": True},
            "seeds": sorted({row["seed"] for row in whole_curves(rows)}),
            "rules": {name: str(rule) for name, rule in RULES.items()},
            "summary": summarise(rows),
            "rows": rows,
        }
        out.write_text(json.dumps(result, indent=1) + "\n")
        draw(rows, out.with_suffix(".png"))
        print(key, f"{time.time() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
