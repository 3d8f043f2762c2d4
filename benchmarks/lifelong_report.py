"""From the records of `lifelong.py` to the README's table and the pictures.

python benchmarks/lifelong_report.py            # writes the pictures and the table in the README
python benchmarks/lifelong_report.py --check    # only says whether the README has the table of the records
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lifelong import MAIN
from methods import METHODS
from record import RESULTS

from hf_lifelong.evaluation import AccuracyMatrix, plot_accuracy, plot_costs, plot_matrix
from hf_lifelong.files import read_json

README = RESULTS.parents[1] / "README.md"
BEGIN, END = "<!-- lifelong: begin -->", "<!-- lifelong: end -->"
NAMES = {
    "ours": "**hf_lifelong**, `signature` (default)",
    "ours, cascade": "hf_lifelong, `cascade`",
    "ours, uncertainty": "hf_lifelong, `uncertainty` (DriftNet as published)",
    "ours, oracle": "hf_lifelong, told the task",
    "sequential": "one LoRA, task after task",
    "replay_2": "the same, 2 % of old examples replayed",
    "replay_1": "the same, 1 % of old examples replayed",
    "ewc": "EWC",
    "lwf": "LwF",
    "olora": "O-LoRA",
    "osf": "OSF (PEFT)",
    "arrow": "Arrow (PEFT) over one LoRA per task",
    "ncm": "nearest class mean, frozen",
    "lda": "LDA, frozen",
    "joint": "one LoRA, all tasks at once",
    "separate": "one LoRA per task, told the task",
}
# What sees more than a stream allows stands apart.
BOUNDS = ("joint", "separate", "ours, oracle")


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """The result file of every stream that was run."""
    paths = {name: folder / f"lifelong_{name}.json" for name in MAIN}
    return {name: read_json(path) for name, path in paths.items() if path.exists()}


def accuracies(result: dict[str, Any]) -> dict[str, float]:
    """Average accuracy by row of the table."""
    found: dict[str, float] = {}
    for method, summary in result["summary"].items():
        found[method] = summary["average_accuracy"]
        if method == "ours":
            found["ours, oracle"] = summary["oracle_accuracy"]
            for policy in ("cascade", "uncertainty"):
                found[f"ours, {policy}"] = summary[f"accuracy_{policy}"]
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """The README's table: average accuracy of every method on every stream, the best of a stream in bold."""
    scores = {stream: accuracies(result) for stream, result in found.items()}
    rows = [name for name in NAMES if any(name in column for column in scores.values())]
    best = {
        stream: max(round(value, 3) for name, value in column.items() if name not in BOUNDS)
        for stream, column in scores.items()
    }

    def cell(name: str, stream: str) -> str:
        value = scores[stream].get(name)
        if value is None:
            return "·"
        text = f"{value:.3f}".removeprefix("0")
        return f"**{text}**" if name not in BOUNDS and round(value, 3) == best[stream] else text

    def line(name: str) -> str:
        return f"| {NAMES[name]} | " + " | ".join(cell(name, stream) for stream in scores) + " |"

    head = "| average accuracy ↑ | " + " | ".join(f"*{stream}*" for stream in scores) + " |"
    kept = [name for name in rows if name not in BOUNDS]
    bounds = [name for name in BOUNDS if name in rows]
    return "\n".join(
        [
            head,
            "|---" * (len(scores) + 1) + "|",
            *map(line, kept),
            *map(line, bounds),
            figures(found, "forgetting of hf_lifelong ↓", "forgetting"),
            figures(found, "right group chosen ↑", "retrieval_accuracy"),
        ]
    )


def figures(found: dict[str, dict[str, Any]], label: str, key: str) -> str:
    """A line of the table with one of our own figures."""
    values = [result["summary"].get("ours", {}).get(key) for result in found.values()]
    return f"| *{label}* | " + " | ".join("·" if v is None else f"{v:.3f}" for v in values) + " |"


def seeds_of(found: dict[str, dict[str, Any]]) -> str:
    """How many seeds each stream's figures are means of, in words."""
    counts = {
        stream: {len(summary["cells"]) for summary in result["summary"].values()} for stream, result in found.items()
    }
    low, high = min(min(c) for c in counts.values()), max(max(c) for c in counts.values())
    return f"{low} seed{'s' * (low > 1)}" if low == high else f"{low} to {high} seeds"


def render(found: dict[str, dict[str, Any]]) -> str:
    """What stands between the README's marks."""
    models = ", ".join(sorted({result["model"] for result in found.values()}))
    return f"{BEGIN}\n{table(found)}\n\nMeans of {seeds_of(found)}; {models}.\n{END}"


def draw(found: dict[str, dict[str, Any]], folder: Path) -> None:
    """Pictures of every stream: our matrix beside sequential training, our scores over the stream, all costs."""
    for stream, result in found.items():
        first = {row["method"]: row for row in reversed(result["rows"])}
        if "ours" not in first:
            continue
        matrix = AccuracyMatrix.from_dict(first["ours"]["matrix"])
        beside = first.get("sequential")
        rows = None if beside is None else ("one LoRA, task after task", beside["matrix"]["scores"])
        plot_matrix(matrix, folder / f"lifelong_{stream}_matrix.png", rows)
        plot_accuracy(matrix, folder / f"lifelong_{stream}_accuracy.png")
        plot_costs(costs(first), folder / f"lifelong_{stream}_costs.png")


def costs(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Sequence[float]]]:
    """What each method stores and what an answer costs, by number of tasks learned."""
    return {
        method: {"bytes": row["bytes_stored"], "forwards": row["forwards"]}
        for method, row in rows.items()
        if method in METHODS
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where the README has other figures")
    args = parser.parse_args()
    found = results(args.results)
    text = README.read_text()
    new = re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: render(found), text, flags=re.DOTALL)
    if args.check:
        raise SystemExit(None if new == text else "README.md: the table is not that of the records; run this again.")
    README.write_text(new)
    draw(found, args.results)


if __name__ == "__main__":
    main()
