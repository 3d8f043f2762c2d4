"""Pictures of what `lifelong.py` recorded: of the whole comparison, and of each stream.

python benchmarks/lifelong_pictures.py           # the comparison with the full budget: results/lifelong.png
python benchmarks/lifelong_pictures.py FOLDER    # beside it matrices, scores, confusions and costs of each stream
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from lifelong import MAIN
from record import RESULTS
from stream_figures import BOUNDS, NAMES, accuracies, results
from stream_records import RECORDS

from hf_lifelong.evaluation import AccuracyMatrix, plot_accuracy, plot_confusion, plot_costs, plot_matrix
from hf_lifelong.utils.figures import drawn

# The methods of the picture of all streams, from the top: ours, those that store no examples, those that do.
SHOWN = {
    "ours": "hf_lifelong",
    "lda": "LDA",
    "klda": "KLDA",
    "ranpac": "RanPAC",
    "ridge": "ridge (ACIL)",
    "ncm": "class means",
    "sequential": "one LoRA",
    "ewc": "EWC",
    "olora": "O-LoRA",
    "osf": "OSF",
    "replay_2": "replay of 2 %*",
    "joint": "all at once*",
}
OURS, OTHERS, WITH_EXAMPLES = "#1f5fa8", "#9a9a9a", "#d9d9d9"


def draw_comparison(found: dict[str, dict[str, Any]], path: Path) -> None:
    """Average accuracy by method, a panel for each stream; narrow enough to be read on a phone."""
    colours = [OURS if m == "ours" else WITH_EXAMPLES if m in ("replay_2", "joint") else OTHERS for m in SHOWN]
    rows = (len(found) + 1) // 2
    with drawn(path, (4.0, 2.3 * rows)) as figure:
        panels = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).ravel()
        for axes in panels[len(found) :]:
            axes.set_visible(False)
        for axes, (stream, result) in zip(panels, found.items(), strict=False):
            scores = accuracies(result)
            means = [float(np.mean(scores[method])) if method in scores else None for method in SHOWN]
            axes.barh(range(len(SHOWN)), [mean or 0.0 for mean in means], color=colours, height=0.75)
            for row, mean in enumerate(means):
                text, colour = ("not run", OTHERS) if mean is None else (f"{mean:.3f}".lstrip("0"), "black")
                axes.text((mean or 0.0) + 0.02, row, text, va="center", fontsize=9, color=colour)
            axes.set_title(stream, fontsize=10)
            axes.set_yticks(range(len(SHOWN)), list(SHOWN.values()), fontsize=9)
            axes.set(xlim=(0, 1.3), ylim=(len(SHOWN) - 0.5, -0.5), xticks=[])
            axes.tick_params(length=0)
            axes.spines[["top", "right", "bottom"]].set_visible(False)
        figure.supxlabel("average accuracy; * also trains on examples of earlier tasks", fontsize=9)


def draw(found: dict[str, dict[str, Any]], folder: Path) -> None:
    """Pictures of every stream: our matrix beside sequential training, our scores over the stream, where our answers
    came from, all costs."""
    for stream, result in found.items():
        first = {row["method"]: row for row in reversed(result["rows"])}
        matrix = AccuracyMatrix.from_dict(first["ours"]["matrix"])
        beside = first.get("sequential")
        rows = None if beside is None else (NAMES["sequential"], beside["matrix"]["scores"])
        pictures = folder / stream
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
    parser.add_argument("folder", nargs="?", type=Path, help="where to draw the pictures of each stream")
    folder = parser.parse_args().folder
    draw_comparison(results(RECORDS / "full", MAIN), RESULTS / "lifelong.png")
    if folder is not None:
        for budget in ("full", "small"):
            draw(results(RECORDS / budget, MAIN), folder / budget)


if __name__ == "__main__":
    main()
