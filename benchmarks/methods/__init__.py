"""The methods that `lifelong.py` compares, each a function of the tasks and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hf_lifelong.training.tasks import PreparedTask

from . import arrow, frozen, osf, regularised, sequential
from .shared import Result, Setting


@dataclass(frozen=True)
class Method:
    """A method and what may be chosen for it.

    Args:
        run (`Callable`): Learns a stream and scores it.
        grid (`dict[str, list]`): Values of each of its hyperparameters; what is chosen is one of each.
    """

    run: Callable[[Sequence[PreparedTask], Setting], Result]
    grid: dict[str, list[Any]]


RATES: dict[str, list[Any]] = {"learning_rate": [5e-4, 2e-3]}
TRAINED: dict[str, list[Any]] = {**RATES, "labels": ["own", "seen"]}
LAYERS: dict[str, list[Any]] = {"layers": ["all", "last"]}

METHODS: dict[str, Method] = {
    "sequential": Method(sequential.sequential, TRAINED),
    "replay_2": Method(sequential.replay, {**RATES, "labels": ["seen"], "share": [0.02]}),
    "replay_1": Method(sequential.replay, {**RATES, "labels": ["seen"], "share": [0.01]}),
    "ewc": Method(regularised.ewc, {**TRAINED, "strength": [1e3, 1e5]}),
    "lwf": Method(regularised.lwf, {**TRAINED, "strength": [1.0, 4.0]}),
    "olora": Method(regularised.olora, {**TRAINED, "strength": [0.5, 5.0]}),
    "osf": Method(osf.osf, {**TRAINED, "effective_rank": [0.5, 0.9]}),
    "arrow": Method(arrow.arrow, {**RATES, "labels": ["own"], "top_k": [1, 3]}),
    "ncm": Method(frozen.ncm, LAYERS),
    "lda": Method(frozen.lda, {**LAYERS, "shrinkage": [0.01, 0.1]}),
    "joint": Method(sequential.joint, {**RATES, "labels": ["seen"]}),
    "separate": Method(sequential.separate, RATES),
}
