"""What fairness costs and keeps: federated tables, texts about people, and ten tasks one after another.

    python benchmarks/fairness.py tables --data_dir DATA
    python benchmarks/fairness.py texts --data_dir DATA --model MODEL
    python benchmarks/fairness.py tasks --data_dir DATA --model MODEL

`tables` are COMPAS (30 % held out) and Adult (official test), ten clients with a logistic regression; `texts` is
HateCheck, half of its sentences to train and half to test with; `tasks` is Adult as sentences, ten tasks by work
class. Every cell is a row of `benchmarks/results/fairness.json`; rows that are there are not run again, and several
processes may fill the file. `fairness.png` shows the trade.
Nothing is chosen by test data: λ is the smallest of the grid with which |F| of soft scores on the training data is at
most .02, or the one with the smallest |F|.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from fair_federation import METHODS
from fair_tables import BUDGETS, GROUPS, federation
from record import RESULTS, header

from hf_lifelong.utils.figures import drawn

FAIR_ENOUGH = 0.02
SEEDS = {"texts": (0, 1, 2), "tasks": (0,)}
WEIGHTS = {"texts": (0.0, 2.0, 5.0, 20.0), "tasks": (0.0, 20.0)}
Row = dict[str, Any]


def cells(args: argparse.Namespace) -> Iterator[tuple[Row, Callable[[], Row]]]:
    """What a command asks for: the key of each row, and how to get it."""
    if args.kind == "tables":
        for data in BUDGETS:
            for group in GROUPS[data]:
                for metric in ("sp", "eop"):
                    for method in METHODS:
                        key = {"data": data, "group": group, "metric": metric, "method": method}
                        yield key, lambda key=key: federation(**key, data_dir=args.data_dir)
        return
    if args.kind == "texts":
        from fair_texts import hate_speech as run
    else:
        from fair_tasks import over_tasks as run
    for seed in args.seeds or SEEDS[args.kind]:
        for weight in args.weights or WEIGHTS[args.kind]:
            key = {"weight": weight, "seed": seed}
            yield key, lambda key=key: run(**key, data_dir=args.data_dir, model=args.model)


def recorded(out: Path) -> list[Row]:
    return json.loads(out.read_text())["rows"] if out.exists() else []


def chosen(points: list[Row]) -> Row:
    """The smallest λ that is fair enough on the training data, or else the fairest."""
    enough = [point for point in points if point["train_soft"] <= FAIR_ENOUGH]
    return enough[0] if enough else min(points, key=lambda point: point["train_soft"])


def summarise(rows: list[Row]) -> Row:
    summary: Row = {}
    for row in (row for row in rows if row["kind"] == "tables"):
        point = chosen(row["points"])
        people = row["data"] if row["data"] == "compas" else f"{row['data']}_{row['group']}"
        name = f"{people}_{row['metric']}_{row['method']}"
        numbers = {"": "train_soft", "_accuracy": "train_accuracy"}
        numbers |= {"_test": "test_hard", "_test_soft": "test_soft", "_test_accuracy": "test_accuracy"}
        summary |= {f"{name}{suffix}": point[key] for suffix, key in numbers.items()}
        summary[f"{name}_weight"] = point["strength"]
        summary[f"{name}_fair_enough"] = point["train_soft"] <= FAIR_ENOUGH
    return summary | texts_summary(rows) | tasks_summary(rows)


def texts_summary(rows: list[Row]) -> Row:
    """Means over the seeds, by weight; `after` is the weight that halves the spread on the training half with the
    least loss of accuracy there."""
    by_weight: dict[float, list[Row]] = {}
    for row in (row for row in rows if row["kind"] == "texts"):
        by_weight.setdefault(row["weight"], []).append(row)

    def mean(weight: float, part: str, key: str) -> float:
        return round(float(np.mean([row[part][key] for row in by_weight[weight]])), 4)

    if 0.0 not in by_weight or len(by_weight) < 2:
        return {}
    halved = [w for w in by_weight if w and mean(w, "train", "spread") <= mean(0.0, "train", "spread") / 2]
    after = max(halved or [w for w in by_weight if w], key=lambda w: mean(w, "train", "accuracy"))
    summary: Row = {"hatecheck_weight": after, "hatecheck_seeds": len(by_weight[after])}
    for name, weight in (("before", 0.0), ("after", after)):
        for suffix, part, key in (
            ("spread", "test", "spread"),
            ("spread_decisions", "test", "spread_decisions"),
            ("spread_train", "train", "spread"),
            ("accuracy", "test", "accuracy"),
        ):
            summary[f"hatecheck_{suffix}_{name}"] = mean(weight, part, key)
    return summary


def tasks_summary(rows: list[Row]) -> Row:
    of_tasks = [row for row in rows if row["kind"] == "tasks"]
    if not of_tasks:
        return {}
    metrics = ("sp", "eop", "cal")
    off = {m: [abs(abs(row[f"stored_{m}"]) - abs(row[f"truth_{m}"])) for row in of_tasks] for m in metrics}
    inside = [off[m][i] <= row[f"bound_{m}"] for m in metrics for i, row in enumerate(of_tasks)]
    summary: Row = {"union_error": round(max(off["sp"]), 4), "union_bound_holds": all(inside)}
    for m in metrics:
        summary[f"union_error_{m}"] = round(max(off[m]), 4)
        summary[f"union_bound_{m}"] = round(max(row[f"bound_{m}"] for row in of_tasks), 4)
    for row in of_tasks:
        name = f"union_weight_{row['weight']:g}"
        summary[f"{name}_sp"], summary[f"{name}_test_sp"] = round(row["truth_sp"], 4), round(row["test_sp"], 4)
        summary[f"{name}_accuracy"] = round(row["accuracy"], 4)
    return summary


def draw(rows: list[Row], path: Path) -> None:
    """|F| against accuracy on held-out rows, by method and λ."""
    of_tables = [row for row in rows if row["kind"] == "tables"]
    panels = list(dict.fromkeys((row["data"], row["group"], row["metric"]) for row in of_tables))
    colours = dict(zip(METHODS, ("tab:gray", "tab:blue", "tab:orange", "tab:green", "tab:red"), strict=True))
    with drawn(path, (11, 3.4 * -(-len(panels) // 3))) as figure:
        axes = figure.subplots(-(-len(panels) // 3), 3, squeeze=False).flatten()
        for axis, panel in zip(axes, panels, strict=False):
            for row in of_tables:
                if (row["data"], row["group"], row["metric"]) != panel:
                    continue
                points, colour = row["points"], colours[row["method"]]
                x, y = ([point[key] for point in points] for key in ("test_soft", "test_accuracy"))
                axis.plot(x, y, "o-", color=colour, label=row["method"].replace("_", " "), markersize=4)
                for point in points if len(points) > 1 else []:
                    at = (point["test_soft"], point["test_accuracy"])
                    axis.annotate(
                        f"λ {point['strength']:g}", at, fontsize=7, xytext=(3, 3), textcoords="offset points"
                    )
            axis.set_title(f"{panel[0]}, {panel[1].lower()}, {panel[2].upper()}")
            axis.axvline(FAIR_ENOUGH, color="lightgray", linewidth=1, zorder=0)
            axis.set_xlabel("|F| of soft scores on held-out rows ↓")
            axis.set_ylabel("accuracy ↑")
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        axes[0].legend(fontsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["tables", "texts", "tasks"])
    parser.add_argument("--data_dir", required=True, help="folder with one data set a folder")
    parser.add_argument("--model", default="sentence-transformers/paraphrase-MiniLM-L3-v2")
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--weights", nargs="+", type=float)
    parser.add_argument("--out", default=str(RESULTS / "fairness.json"))
    args = parser.parse_args()
    datasets.disable_progress_bars()
    out = Path(args.out)
    for part, run in cells(args):
        key = {"kind": args.kind, **part}
        if any(all(row.get(k) == v for k, v in key.items()) for row in recorded(out)):
            continue
        start = time.process_time()
        row = {**key, **run(), "cpu_seconds": round(time.process_time() - start, 1)}
        rows = [*recorded(out), row]  # read again: another process may have measured other cells meanwhile
        rows.sort(key=lambda row: ["tables", "texts", "tasks"].index(row["kind"]))
        head = header("python benchmarks/fairness.py {tables,texts,tasks} --data_dir DATA --model MODEL", args.model)
        out.write_text(json.dumps({**head, "summary": summarise(rows), "rows": rows}, indent=1) + "\n")
        print(key, row["cpu_seconds"], flush=True)
    draw(recorded(out), out.with_suffix(".png"))


if __name__ == "__main__":
    main()
