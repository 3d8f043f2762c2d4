"""COMPAS and Adult as tables: ten clients train a logistic regression together, fair or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import load_dataset
from fair_federation import STRENGTH_MATTERS, Budget, People, counted, dirichlet_split, gaps, simulate
from torch import Tensor

CLIENTS, ALPHA = 10, 0.5
STRENGTHS = [0.0, 5.0, 20.0, 50.0]
# Of the published runs: three epochs a round at .01 on COMPAS, one at .002 on Adult.
BUDGETS = {"compas": Budget(50, 3, 256, 0.01), "adult": Budget(50, 1, 256, 0.002)}
REPEATS = {"compas": 10, "adult": 3}
GROUPS = {"compas": ("Female",), "adult": ("sex", "race")}


def tables(data: str, group: str, data_dir: str) -> tuple[People, People]:
    """Training and test rows; 30 % of COMPAS are held out, Adult has its official test."""
    found = load_dataset(str(Path(data_dir, data)))
    frames = [part.to_pandas() for part in found.values()]
    whole = pd.concat(frames, ignore_index=True)
    if data == "compas":
        held_out = np.random.default_rng(0).permutation(len(whole)) < 0.3 * len(whole)
        labels, groups = whole.pop("Two_yr_Recidivism") == 1, whole["Female"] == 1
    else:
        held_out = np.arange(len(whole)) >= len(frames[0])
        labels, groups = whole.pop("income") == ">50K", whole[group] == {"sex": "Male", "race": "White"}[group]
        whole = pd.get_dummies(whole.drop(columns="fnlwgt"), dummy_na=True)
    table = whole.to_numpy(float)
    scale = table[~held_out].std(0)
    table = (table - table[~held_out].mean(0)) / np.where(scale > 0, scale, 1)
    inputs = torch.tensor(np.column_stack([table, np.ones(len(table))])).float()
    truth, members = (torch.tensor(column.to_numpy()) for column in (labels, groups))

    def part(rows: np.ndarray) -> People:
        which = torch.tensor(rows)
        return People(inputs[which], truth[which], members[which])

    return part(~held_out), part(held_out)


def measured(weights: Tensor, people: People, metric: str) -> dict[str, Tensor]:
    """|F| of soft scores and of decisions, and accuracy: `[R, L]` each."""
    scores = (weights @ people.inputs.T).sigmoid()
    decided, relevant = (scores >= 0.5).float(), counted(metric, people)
    return {
        "soft": gaps(scores, relevant).abs(),
        "hard": gaps(decided, relevant).abs(),
        "accuracy": (decided == people.labels).float().mean(-1),
    }


def federation(data: str, group: str, metric: str, method: str, data_dir: str) -> dict[str, Any]:
    """One method: for each λ the means over the repeats and their standard deviation."""
    train, test = tables(data, group, data_dir)
    owners = torch.stack([dirichlet_split(train, CLIENTS, ALPHA, seed) for seed in range(REPEATS[data])])
    strengths = STRENGTHS[1:] if method in STRENGTH_MATTERS else [0.0]
    weights = simulate(train, metric, method, torch.tensor(strengths), owners, BUDGETS[data])
    by_part = {"train": measured(weights, train, metric), "test": measured(weights, test, metric)}
    points = [
        {
            "strength": strength,
            **{
                f"{part}_{name}{suffix}": round(float(of(values[:, i])), 4)
                for part, found in by_part.items()
                for name, values in found.items()
                for suffix, of in (("", torch.mean), ("_sd", torch.std))
            },
        }
        for i, strength in enumerate(strengths)
    ]
    return {"repeats": REPEATS[data], "points": points}
