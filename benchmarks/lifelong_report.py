"""From the records of `lifelong.py` and `images.py` to the tables of `docs/results.md`, `docs/guides/images.md` and
`benchmarks/README.md`, and the pictures.

python benchmarks/lifelong_report.py            # writes the pictures and the tables
python benchmarks/lifelong_report.py --check    # only says whether the pages have the tables of the records
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import images
import numpy as np
from lifelong import MAIN
from record import RESULTS

from hf_lifelong.evaluation import AccuracyMatrix, plot_accuracy, plot_confusion, plot_costs, plot_matrix
from hf_lifelong.utils.files import read_json

MAIN_PAGE, DETAILS = RESULTS.parents[1] / "docs" / "results.md", RESULTS.parent / "README.md"
IMAGES_PAGE = RESULTS.parents[1] / "docs" / "guides" / "images.md"
BEGIN, END = "<!-- lifelong: begin -->", "<!-- lifelong: end -->"
NAMES = {
    "ours": "**hf_lifelong**, `signature` (the default)",
    "ours, cascade": "hf_lifelong, `cascade`",
    "ours, uncertainty": "hf_lifelong, `uncertainty` (our reading of DriftNet)",
    "sequential": "one LoRA, task after task",
    "ewc": "EWC",
    "olora": "O-LoRA",
    "osf": "OSF (PEFT)",
    "lwf": "LwF",
    "arrow": "Arrow (PEFT) over one LoRA a task",
    "ncm": "nearest class mean, frozen",
    "lda": "LDA, frozen",
    "lda_trunk": "LDA on the trunk's layers alone",
    "ridge": "ridge by sums (ACIL's solution), frozen",
    "ranpac": "RanPAC without its first phase, frozen",
    "ranpac_first": "RanPAC, backbone adapted to the first task",
    "klda": "KLDA, frozen",
    "klda_5": "KLDA, mean of five draws, frozen",
    "slao": "SLAO",
    "any_ssr": "hf_lifelong, group chosen by Any-SSR's router",
    "replay_1": "replay of 1 % (stores examples)",
    "replay_2": "replay of 2 % (stores examples)",
    "joint": "one LoRA, all tasks at once",
    "separate": "one LoRA a task, told the task",
    "ours, oracle": "hf_lifelong, told the task",
}
# Rows of the table of images.
IMAGE_NAMES = {
    "ours": NAMES["ours"],
    "ours_no_drift": "the same, no drift",
    "ours, members alone": "the same, without the closed-form head",
    "ours, closed form alone": "the same, the closed-form head alone",
    "ours, uncertainty": NAMES["ours, uncertainty"],
    "sequential": NAMES["sequential"],
    "ncm": NAMES["ncm"],
    "lda": NAMES["lda"],
    "klda": NAMES["klda"],
    "ranpac": NAMES["ranpac"],
    **{name: NAMES[name] for name in ("replay_2", "joint", "separate", "ours, oracle")},
}
# What sees more than a stream allows stands apart.
BOUNDS = ("joint", "separate", "ours, oracle")
# Names of rows where the task of every input is given.
TOLD = {**NAMES, "ours": "**hf_lifelong**", "separate": "one LoRA a task"}
# Other figures below a table: label, method, key.
FIGURES = (
    ("hf_lifelong: forgetting ↓", "ours", "forgetting"),
    ("LDA: forgetting ↓", "lda", "forgetting"),
    ("hf_lifelong: forward transfer ↑", "ours", "fwt"),
    ("hf_lifelong: right group chosen ↑", "ours", "retrieval_accuracy"),
)
# The same training of ours with another retrieval or answer, and trainings with one setting changed.
ABLATIONS = {
    "ours": "the default",
    "ours, ensemble": "mean of the members' probabilities",
    "ours, last member": "last weights only",
    "ours, members alone": "without the closed-form head",
    "ours, closed form alone": "the closed-form head alone",
    "ours, uncertainty": "`uncertainty`, of the mean probabilities (entropy)",
    "ours, variance": "`uncertainty`, between the members (variance)",
    "ours_members_1": "1 member",
    "ours_members_2": "2 members",
    "ours_members_10": "10 members",
    "ours_no_drift": "no drift",
    "ours_gradient_noise_alone": "gradient noise alone",
    "ours_input_noise_alone": "input noise alone",
    "ours_drift_dropout_alone": "dropout alone",
    "ours_cyclic_learning_rate_alone": "cyclic learning rate alone",
    "ours_from_fresh": "start afresh, also with labels that are known",
    "ours_from_previous": "start from the previous task",
    "ours_trunk_0.0": "no trunk",
    "ours_trunk_0.25": "trunk of a quarter",
    "ours_trunk_0.75": "trunk of three quarters (here the default's two layers)",
}


def results(folder: Path, script: str = "lifelong", streams: Iterable[str] = MAIN) -> dict[str, dict[str, Any]]:
    """The result file of every stream that ours was run on."""
    paths = {name: folder / f"{script}_{name}.json" for name in streams}
    found = {name: read_json(path) for name, path in paths.items() if path.exists()}
    return {name: result for name, result in found.items() if "ours" in result["summary"]}


def accuracies(result: dict[str, Any]) -> dict[str, list[float]]:
    """Average accuracy by row of a table, seed by seed: of every method, and what was scored of our own training."""
    found: dict[str, list[float]] = {}
    for row in listed(result):
        method = row["method"]
        found.setdefault(method, []).append(row["summary"]["average_accuracy"])
        if method == "ours":
            found.setdefault("ours, oracle", []).append(row["summary"]["oracle_accuracy"])
            for name, scored in row["beside"]["variants"].items():
                found.setdefault(f"ours, {name}", []).append(scored["average_accuracy"])
    return found


def told(result: dict[str, Any]) -> dict[str, list[float]]:
    """The same where the task of every input is given."""
    found: dict[str, list[float]] = {}
    for row in listed(result):
        key = {"ours": "oracle_accuracy", "separate": "average_accuracy"}.get(row["method"], "accuracy_task_given")
        if key in row["summary"]:
            found.setdefault(row["method"], []).append(row["summary"][key])
    return found


def listed(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells of a stream whose tasks come in the order that it is listed in."""
    return [row for row in result["rows"] if row["order"] == 0]


def table(scores: dict[str, dict[str, list[float]]], names: dict[str, str], head: str) -> list[str]:
    """Lines of a table: means by row and stream, the best of what a stream allows in bold."""
    means = {stream: {n: round(float(np.mean(v)), 3) for n, v in column.items()} for stream, column in scores.items()}
    marked = [name for name in names if name not in BOUNDS]
    best = {stream: max((means[stream][n] for n in marked if n in means[stream]), default=None) for stream in scores}
    most = {stream: max(map(len, column.values()), default=0) for stream, column in scores.items()}

    def cell(name: str, stream: str) -> str:
        if name not in scores[stream]:
            return "·"
        value = means[stream][name]
        shown = f"**{short(value)}**" if name in marked and value == best[stream] else short(value)
        return f"{shown}¹" if len(scores[stream][name]) == 1 < most[stream] else shown

    rows = [name for name in names if any(name in column for column in scores.values())]
    lines = [line(names[name], [cell(name, stream) for stream in scores]) for name in rows]
    return [line(head, [f"*{stream}*" for stream in scores]), "|---" * (len(scores) + 1) + "|", *lines]


def line(first: str, cells: Iterable[str]) -> str:
    return "| " + " | ".join([first, *cells]) + " |"


def short(value: float) -> str:
    return f"{value + 0.0:.3f}".replace("0.", ".", 1)


def figures(found: dict[str, dict[str, Any]], label: str, method: str, key: str) -> str:
    """A line of the table with another figure of a method."""
    values = [result["summary"].get(method, {}).get(key) for result in found.values()]
    return line(f"*{label}*", ["·" if value is None else short(value) for value in values])


def seeds_of(found: dict[str, dict[str, Any]]) -> str:
    """How many seeds the figures are of, in words."""
    most = {max(map(len, accuracies(result).values())) for result in found.values()}
    if most == {1}:
        return "Of one seed"
    return f"Means of {' to '.join(map(str, sorted(most)))} seeds; ¹ of the first alone"


def budgets_of(found: dict[str, dict[str, Any]], rows: str) -> str:
    """How much each stream's tasks were trained on and tested with, in words."""
    sizes = {stream: (r["budget"]["train_texts"], r["budget"]["test_texts"]) for stream, r in found.items()}
    alike = {size: [stream for stream in sizes if sizes[stream] == size] for size in dict.fromkeys(sizes.values())}
    return "; ".join(
        f"{', '.join(streams)}: up to {train} training and {test} test {rows} a task"
        for (train, test), streams in alike.items()
    )


def comparison(
    found: dict[str, dict[str, Any]], head: str, names: dict[str, str] = NAMES, rows: str = "texts"
) -> list[str]:
    """Lines of the table of all methods, and how it was measured."""
    models = ", ".join(sorted({result["model"] for result in found.values()}))
    lines = table({stream: accuracies(result) for stream, result in found.items()}, names, head)
    for label, method, key in FIGURES:
        if any(key in result["summary"].get(method, {}) for result in found.values()):
            lines.append(figures(found, label, method, key))
    return [*lines, "", f"{seeds_of(found)}; {models}; 3 epochs; {budgets_of(found, rows)}."]


def orders(found: dict[str, dict[str, Any]]) -> list[str]:
    """Lines of a table: average accuracy of ours by the order of the tasks."""
    by_order = {
        stream: {"as listed": result["summary"], **{f"drawn, {k}": v for k, v in result["drawn_orders"].items()}}
        for stream, result in found.items()
    }
    names = list(dict.fromkeys(name for summaries in by_order.values() for name in summaries))
    scores = [
        [summaries.get(name, {}).get("ours", {}).get("average_accuracy") for summaries in by_order.values()]
        for name in names
    ]
    cells = [["·" if score is None else short(score) for score in row] for row in scores]
    head = line("order of the tasks, average accuracy ↑", [f"*{stream}*" for stream in found])
    return [head, "|---" * (len(found) + 1) + "|", *map(line, names, cells)]


def tables(found: dict[str, dict[str, Any]], full: dict[str, dict[str, Any]]) -> dict[Path, list[list[str]]]:
    """The tables of each page: in the documentation the comparison with the full budget, all others beside the
    benchmarks."""
    scores = {stream: told(result) for stream, result in full.items()}
    others = [
        table(scores, TOLD, "told the task of every input, average accuracy ↑"),
        comparison(found, "average accuracy ↑, small budget"),
    ]
    ablated = set(ABLATIONS) - {"ours"}
    changed = {stream: accuracies(r) for stream, r in found.items() if ablated & set(r["summary"])}
    if changed:
        others.append(table(changed, ABLATIONS, "one thing changed, average accuracy ↑"))
    drawn = {stream: result for stream, result in found.items() if result["drawn_orders"]}
    if drawn:
        others.append(orders(drawn))
    return {MAIN_PAGE: [comparison(full, "average accuracy ↑")], DETAILS: others}


def filled(text: str, parts: list[list[str]]) -> str:
    """A page with these tables, each between the next two marks."""
    pieces = re.split(f"({re.escape(BEGIN)}.*?{re.escape(END)})", text, flags=re.DOTALL)
    if len(pieces) != 2 * len(parts) + 1:
        raise SystemExit(f"a page has {len(pieces) // 2} pairs of marks `{BEGIN}` for {len(parts)} tables.")
    pieces[1::2] = ["\n".join([BEGIN, *lines, END]) for lines in parts]
    return "".join(pieces)


def draw(found: dict[str, dict[str, Any]], folder: Path) -> None:
    """Pictures of every stream: our matrix beside sequential training, our scores over the stream, where our answers
    came from, all costs."""
    for stream, result in found.items():
        first = {row["method"]: row for row in reversed(result["rows"])}
        if "ours" not in first:
            continue
        matrix = AccuracyMatrix.from_dict(first["ours"]["matrix"])
        beside = first.get("sequential")
        rows = None if beside is None else (NAMES["sequential"], beside["matrix"]["scores"])
        pictures = folder / "lifelong" / stream
        plot_matrix(matrix, pictures / "matrix.png", rows)
        plot_accuracy(matrix, pictures / "accuracy.png")
        plot_confusion(matrix, pictures / "confusion.png")
        plot_costs(costs(first), pictures / "costs.png")


def costs(rows: dict[str, dict[str, Any]]) -> dict[str, list[tuple[int, float, float]]]:
    """Per method its points: tasks learned, bytes stored, forwards of an answer."""
    found = {
        NAMES[method].replace("*", "").replace("`", ""): [
            (i + 1, size, row["summary"]["forwards"]) for i, size in enumerate(row["bytes_stored"])
        ]
        for method, row in rows.items()
        if method in NAMES and method not in BOUNDS
    }
    ours = rows["ours"]
    trunk, members = (ours["beside"][key] for key in ("trunk", "members"))
    found["hf_lifelong, uncertainty"] = [
        (i + 1, size, trunk + (1 - trunk) * members * (i + 1)) for i, size in enumerate(ours["bytes_stored"])
    ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a page has other figures")
    args = parser.parse_args()
    found, full = results(args.results), results(args.results / "full")
    shown = results(args.results, "images", images.STREAMS)
    pages = tables(found, full) | {IMAGES_PAGE: [comparison(shown, "average accuracy ↑", IMAGE_NAMES, "images")]}
    for page, parts in pages.items():
        text = page.read_text()
        new = filled(text, parts)
        if not args.check:
            page.write_text(new)
        elif new != text:
            raise SystemExit(f"{page.name}: a table is not that of the records; run this again.")
    if args.check:
        return
    draw(found, args.results)
    draw(full, args.results / "full")


if __name__ == "__main__":
    main()
