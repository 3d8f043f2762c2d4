"""What the records of streams say: figures by row of a table, and how the rows are called."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from stream_records import read_record

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
    "klda_trunk": "KLDA on the trunk's layers alone",
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


def results(folder: Path, streams: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The record of every stream in a folder that ours was run on."""
    found = {name: read_record(folder / f"{name}.json") for name in streams}
    return {name: result for name, result in found.items() if "ours" in {row["method"] for row in listed(result)}}


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


def mean_of(rows: Iterable[dict[str, Any]], method: str, key: str) -> float | None:
    """The mean of a figure over the cells of a method that have it."""
    values = [row["summary"][key] for row in rows if row["method"] == method and key in row["summary"]]
    return round(float(np.mean(values)), 6) if values else None  # .0175 may be a little less in binary
