"""Tables of the main job and of what is told apart: domains, unknown inputs, small networks, boundaries, groups,
fairness. `tables.py` writes them into the pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cells import Record, best, mean, percent, read, short, table
from streams import STREAMS

OUT_OF_SCOPE = {
    "novelty": "hf_lifelong, novelty (frozen trunk and signatures alone)",
    "maximum softmax": "one LoRA trained on all tasks at once: maximum softmax",
    "energy": "energy",
    "Mahalanobis": "Mahalanobis distance to the nearest class",
    "relative Mahalanobis": "relative Mahalanobis distance",
}
NETWORKS = {"digits-relu": "ReLU network", "digits-scaled": "ViT at scale", "digits": "ViT"}
# Cells of `scratch.py`, in the order of the table, and how they are called.
SCRATCH_CELLS = {
    f"{members} members, drift {drift}, trunk 0": f"{members} member{'s' if members > 1 else ''}, drift {drift}"
    for members in (5, 10, 1)
    for drift in ("on", "off")
} | {
    "5 members, drift on, trunk 0.5": "5 members, drift on, lower layer random and frozen",
    "5 members, gradient noise 1, trunk 0": "5 members, gradient noise 20 times as strong",
    "5 members, gradient noise 4, trunk 0": "5 members, gradient noise 80 times as strong",
}
SEED_MARKS = {1: " ¹", 2: " ²"}
RIGHT_GROUP = {
    "shared": "one covariance for all classes (LDA)",
    "task": "the nearest three tasks under covariances partly their own",
    "class": "**the nearest classes under covariances partly their own** (the default)",
    "task, kernel": "tasks, with 1,000 random Fourier features",
    "class, kernel": "classes, with 1,000 random Fourier features",
}
HEADS = {
    "ledoit_wolf": "covariances shrunk by Ledoit and Wolf's formula",
    "half": "**half of the covariances between features** (the default)",
}
FEDERATED = {
    "fedavg": "FedAvg",
    "fedgft": "**FedGFT**",
    "local_fair": "FedFairLocal",
    "reweighing": "local reweighing",
    "fairfed": "FairFed",
}


def main_job(folder: Path) -> list[str]:
    record = read(folder, "sentiment_then_qa")
    ours, lora = (row["scores"] for row in record["rows"])
    right = min(record["rows"][0]["retrieval"][-1])
    (first, _), (kept, answers) = ours
    match = short(record["summary"]["eval_answers_exact_match"])
    found = "right group for every input" if right == 1 else f"right group for at least {percent(right, 1)}"
    (before, _), (after, other) = lora
    rows = [
        ["sentiment", short(first), "", ""],
        ["**answers**, no task named", f"**{short(kept)}**", f"**{short(answers)}** (exact match {match})", found],
        ["one LoRA, told the task", f"{short(before)} → {short(after)}", short(other), "it forgets"],
    ]
    return table(["after learning", "sentiment (accuracy ↑)", "answers (F1 ↑)", ""], rows)


def domains(folder: Path) -> list[str]:
    found = read(folder, "domains")["summary"]
    told = short(found["oracle_accuracy"])

    def of(policy: str) -> list[str]:
        return [short(found[f"accuracy_{policy}"]), percent(found[f"retrieval_{policy}"], 1)]

    lora = [short(found["sequential_lora_accuracy_task_given"]), short(found["sequential_lora_accuracy"]), "–"]
    uncertainty = "hf_lifelong, `uncertainty` (our reading of DriftNet; 100 inputs a task)"
    rows = [
        ["one stock LoRA per task (query and value of all layers)", short(found["separate_lora_accuracy"]), "–", "–"],
        ["one stock LoRA for all, trained on task after task", *lora],
        ["hf_lifelong, `signature` (one forward)", told, *of("signature")],
        ["hf_lifelong, `cascade`", told, *of("cascade")],
        [uncertainty, "–", *of("uncertainty")],
    ]
    return table(["average accuracy ↑", "told the task", "not told the task", "right group ↑"], rows)


def out_of_scope(folder: Path) -> list[str]:
    scores: dict[str, list[Record]] = {}
    for row in read(folder, "out_of_scope")["rows"]:
        for name, figures in row["scores"].items():
            scores.setdefault(name, []).append(figures)
    columns = {
        "auroc": "AUROC ↑",
        "aupr": "AUPR ↑",
        "fpr_at_95_tpr": "false alarms at 95 % found ↓",
        "recall_at_5_fpr": "found at 5 % false alarms ↑",
    }
    rows = (
        [label, *(short(mean(one[key] for one in scores[name])) for key in columns)]
        for name, label in OUT_OF_SCOPE.items()
    )
    return table(["", *columns.values()], rows)


def scratch(folder: Path) -> list[str]:
    summary = read(folder, "scratch")["summary"]
    ways = ("variance", "entropy", "signature")
    rows = []
    for network, name in NETWORKS.items():
        for cell, label in SCRATCH_CELLS.items():
            found = summary.get(f"{network}, {cell}")
            if found is None:
                continue
            both = [" / ".join(short(found[f"retrieval, {way}, {n}"]) for n in (1, 16)) for way in ways]
            mark = SEED_MARKS.get(found["seeds"], "")
            rows.append([f"{name}, {label}{mark}", short(found["accuracy, oracle"]), *both])
    return table(["", "told the group: accuracy ↑", *(f"{way}, 1 / 16" for way in ways)], rows)


def right_group(folder: Path) -> list[str]:
    return by_stream(folder, "right group ↑", "right_group", RIGHT_GROUP)


def closed_form_heads(folder: Path) -> list[str]:
    return by_stream(folder, "accuracy of the closed-form head alone, told the task ↑", "head", HEADS)


def by_stream(folder: Path, head: str, key: str, names: dict[str, str]) -> list[str]:
    found = {row["stream"]: row[key] for row in read(folder, "signatures")["rows"]}
    streams = [stream for stream in STREAMS if stream in found]
    rows = ([label, *(short(found[stream][name]) for stream in streams)] for name, label in names.items())
    return table([head, *(f"*{stream}*" for stream in streams)], rows)


def boundaries(folder: Path) -> list[str]:
    record = read(folder, "boundaries")
    found = record["summary"]
    same = record["rows"]["delays, same texts, other labels, abrupt"]
    missed, told = sum(delay is None for delay in same["delays"]), len(same["delays"]) + same["early"]
    delays, blurred = (
        [f"{found[f'median_delay_{name}']:g}" for name in names]
        for names in (("unlike", "lookalike", "clinc150"), ("unlike_blurred_10", "unlike_blurred_50"))
    )
    alarms = [f"{found[f'inputs_per_false_alarm{which}']:,}" for which in ("", "_stored_test_rows", "_stored")]
    returns = [short(found[f"returns_recognised{which}"], 2) for which in ("", "_blurred_10", "_blurred_50")]
    sharp = [*found["groups_of_ten"], *found["groups_of_ten_blurred_10"]]
    groups = [extent(counts) for counts in (sharp, found["groups_of_ten_blurred_50"])]
    stored = "first window / stored reference, test rows / stored reference, held-out training rows"
    rows = [
        ["median delay, unlike sets / look-alikes / CLINC domains", f"{' / '.join(delays)} inputs"],
        ["the same, blurred over 10 % and 50 % of a segment, unlike", " and ".join(blurred)],
        [f"inputs per false alarm (2,000 asked for): {stored}", " / ".join(alarms)],
        [
            "returns recognised in streams of 30 segments, abrupt / blurred 10 % / 50 %",
            " / ".join(returns),
        ],
        ["groups found of ten, abrupt and blurred 10 % / blurred 50 %", " / ".join(groups)],
        ["the same texts with other labels", f"missed, as they must be ({missed} of {told})"],
        [
            "an update, as a share of a forward pass of one input of 64 tokens",
            percent(found["share_of_forward"], 1),
        ],
    ]
    return table(["", ""], rows)


def extent(counts: Sequence[int]) -> str:
    least, most = min(counts), max(counts)
    return str(least) if least == most else f"{least} to {most}"


def federated_fairness(folder: Path) -> list[str]:
    record = read(folder, "fairness")
    cases = [(row["data"], row["group"], row["metric"]) for row in record["rows"] if row["kind"] == "tables"]
    rows = [line for case in dict.fromkeys(cases) for line in case_of(record["summary"], *case)]
    head = ["\\|F\\|, training ↓", "accuracy, training ↑", "\\|F\\|, held out, decisions ↓", "accuracy, held out ↑"]
    return table(["", "λ", *head], rows)


def case_of(summary: Record, data: str, group: str, metric: str) -> list[list[str]]:
    """Rows of one data set, group and metric: a row for each method, the best of every column in bold."""
    case = f"compas_{metric}" if data == "compas" else f"{data}_{group}_{metric}"
    who = "COMPAS, sex" if data == "compas" else f"Adult, {group}"
    names = [name for name in FEDERATED if f"{case}_{name}" in summary]
    columns = [
        best([short(summary[f"{case}_{name}{key}"]) for name in names], lowest)
        for key, lowest in (("", True), ("_accuracy", False), ("_test", True), ("_test_accuracy", False))
    ]
    weights = [f"{weight:g}" if (weight := summary[f"{case}_{name}_weight"]) else "" for name in names]
    labels = [FEDERATED[name] for name in names]
    labels[0] = f"{who}, {metric.upper()}: {labels[0]}"
    return [list(cells) for cells in zip(labels, weights, *columns, strict=True)]


def fairness_of_texts(folder: Path) -> list[str]:
    of_texts = [row for row in read(folder, "fairness")["rows"] if row["kind"] == "texts"]
    columns = {
        "spread, training ↓": ("train", "spread"),
        "accuracy, training ↑": ("train", "accuracy"),
        "spread, test ↓": ("test", "spread"),
        "spread of decisions, test ↓": ("test", "spread_decisions"),
        "accuracy, test ↑": ("test", "accuracy"),
    }

    def cells(weight: float) -> list[str]:
        own = [row for row in of_texts if row["weight"] == weight]
        return [short(mean(row[part][key] for row in own)) for part, key in columns.values()]

    weights = sorted({row["weight"] for row in of_texts})
    return table(["λ", *columns], ([f"{weight:g}", *cells(weight)] for weight in weights))
