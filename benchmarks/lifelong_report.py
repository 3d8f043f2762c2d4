"""From the records of `lifelong.py` and `images.py` to the tables of `docs/results.md`, `docs/guides/images.md` and
`benchmarks/README.md`.

python benchmarks/lifelong_report.py                      # writes the tables, and the picture beside the first
python benchmarks/lifelong_report.py --check              # only says whether the pages have the tables of the records
python benchmarks/lifelong_report.py --pictures FOLDER    # draws matrices, scores, confusions and costs of each stream
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
from lifelong_pictures import draw, draw_comparison
from record import RESULTS
from stream_figures import ABLATIONS, BOUNDS, IMAGE_NAMES, NAMES, TOLD, accuracies, listed, mean_of, results, told
from stream_records import RECORDS

MAIN_PAGE, DETAILS = RESULTS.parents[1] / "docs" / "results.md", RESULTS.parent / "README.md"
PICTURE = RESULTS / "lifelong.png"
IMAGES_PAGE = RESULTS.parents[1] / "docs" / "guides" / "images.md"
BEGIN, END = "<!-- lifelong: begin -->", "<!-- lifelong: end -->"
# Other figures below a table: label, method, key.
FIGURES = (
    ("hf_lifelong: forgetting ↓", "ours", "forgetting"),
    ("LDA: forgetting ↓", "lda", "forgetting"),
    ("hf_lifelong: forward transfer ↑", "ours", "fwt"),
    ("hf_lifelong: right group chosen ↑", "ours", "retrieval_accuracy"),
)


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
        text = f"**{short(value)}**" if name in marked and value == best[stream] else short(value)
        return f"{text}¹" if len(scores[stream][name]) == 1 < most[stream] else text

    rows = [name for name in names if any(name in column for column in scores.values())]
    lines = [line(names[name], [cell(name, stream) for stream in scores]) for name in rows]
    return [line(head, [f"*{stream}*" for stream in scores]), "|---" * (len(scores) + 1) + "|", *lines]


def line(first: str, cells: Iterable[str]) -> str:
    return "| " + " | ".join([first, *cells]) + " |"


def short(value: float) -> str:
    return f"{value + 0.0:.3f}".replace("0.", ".", 1)


def shown(value: float | None) -> str:
    return "·" if value is None else short(value)


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
        values = [mean_of(listed(result), method, key) for result in found.values()]
        if any(value is not None for value in values):
            lines.append(line(f"*{label}*", map(shown, values)))
    return [*lines, "", f"{seeds_of(found)}; {models}; 3 epochs; {budgets_of(found, rows)}."]


def orders(found: dict[str, dict[str, Any]]) -> list[str]:
    """Lines of a table: average accuracy of ours by the order of the tasks."""
    numbers = sorted({row["order"] for result in found.values() for row in result["rows"]})
    lines = []
    for number in numbers:
        rows = [[row for row in result["rows"] if row["order"] == number] for result in found.values()]
        cells = [shown(mean_of(some, "ours", "average_accuracy")) for some in rows]
        lines.append(line(f"drawn, {number}" if number else "as listed", cells))
    head = line("order of the tasks, average accuracy ↑", [f"*{stream}*" for stream in found])
    return [head, "|---" * (len(found) + 1) + "|", *lines]


def tables(found: dict[str, dict[str, Any]], full: dict[str, dict[str, Any]]) -> dict[Path, list[list[str]]]:
    """The tables of each page: in the documentation the comparison with the full budget, all others beside the
    benchmarks."""
    scores = {stream: told(result) for stream, result in full.items()}
    others = [
        table(scores, TOLD, "told the task of every input, average accuracy ↑"),
        comparison(found, "average accuracy ↑, small budget"),
    ]
    ablated = set(ABLATIONS) - {"ours"}
    changed = {stream: accuracies(r) for stream, r in found.items() if ablated & {row["method"] for row in listed(r)}}
    if changed:
        others.append(table(changed, ABLATIONS, "one thing changed, average accuracy ↑"))
    drawn = {stream: result for stream, result in found.items() if len(listed(result)) < len(result["rows"])}
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


def pages(folder: Path) -> dict[Path, list[list[str]]]:
    """The tables of each page that the records in a folder give."""
    full, small = (results(folder / budget, MAIN) for budget in ("full", "small"))
    pictures = results(folder / "images", images.STREAMS)
    return tables(small, full) | {IMAGES_PAGE: [comparison(pictures, "average accuracy ↑", IMAGE_NAMES, "images")]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RECORDS)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a page has other figures")
    parser.add_argument("--pictures", type=Path, help="draw the pictures of every stream into this folder")
    args = parser.parse_args()
    for page, parts in pages(args.results).items():
        text = page.read_text()
        new = filled(text, parts)
        if not args.check:
            page.write_text(new)
        elif new != text:
            raise SystemExit(f"{page.name}: a table is not that of the records; run this again.")
    if args.check:
        return
    draw_comparison(results(args.results / "full", MAIN), PICTURE)
    if args.pictures:
        for budget in ("full", "small"):
            draw(results(args.results / budget, MAIN), args.pictures / budget)


if __name__ == "__main__":
    main()
