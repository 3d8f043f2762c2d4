"""Rows of a classifier that treats groups differently, and their metrics as the definitions say."""

import numpy as np


def random_rows(rows=400, groups=2, classes=2, seed=0):
    """`scores`, `labels` and `groups` of random rows; of more than two classes `[N, C]` scores that add up to 1."""
    draw = np.random.default_rng(seed)
    members, labels = draw.integers(0, groups, rows), draw.integers(0, classes, rows)
    if classes == 2:
        scores = np.clip(0.5 + 0.2 * (members == 0) - 0.1 * labels + draw.normal(0, 0.3, rows), 0, 1)
    else:
        scores = draw.dirichlet(np.ones(classes), rows)
    return {"scores": scores, "labels": labels, "groups": members}


def part(rows, which):
    return {name: values[which] for name, values in rows.items()}


def rate(metric, scores, positive):
    """Of one group and one class."""
    if metric == "sp":
        return scores.mean()
    return scores[positive].mean() if metric == "eop" else scores[positive].sum() / scores.sum()


def rates(metric, rows, groups):
    """`[groups]`, or `[groups, classes]` of scores `[N, C]`."""
    scores, labels, members = rows["scores"], rows["labels"], rows["groups"]
    if scores.ndim == 1:
        return np.array([rate(metric, scores[members == g], labels[members == g] == 1) for g in range(groups)])
    columns = range(scores.shape[1])
    return np.array(
        [[rate(metric, scores[members == g, c], labels[members == g] == c) for c in columns] for g in range(groups)]
    )
