"""The methods that `lifelong.py` compares, each a function of the tasks and of what it is given."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_lifelong.training import PreparedTask

from . import any_ssr, arrow, frozen, osf, ours, random_features, regularised, sequential, slao
from .shared import Result, Setting

LEARNING_RATES = [2e-3, 5e-4]


@dataclass(frozen=True)
class Method:
    """A method of the comparison.

    Args:
        run (`Callable`): Learns and scores a stream.
        grid (`dict[str, list]`): Values that are tried of each hyperparameter.
        fixed (`dict`): Hyperparameters that are not chosen.
        main (`bool`): Whether it belongs to every stream's table.
        like (`str`, *optional*): The method whose chosen hyperparameters it takes.
    """

    run: Callable[[Sequence[PreparedTask], Setting], Result]
    grid: dict[str, list[Any]] = field(default_factory=lambda: {"learning_rate": LEARNING_RATES})
    fixed: dict[str, Any] = field(default_factory=dict)
    main: bool = True
    like: str | None = None

    def candidates(self) -> list[dict[str, Any]]:
        """All combinations of the grid."""
        return [
            {**dict(zip(self.grid, values, strict=True)), **self.fixed}
            for values in itertools.product(*self.grid.values())
        ]

    def settings(self, chosen: dict[str, Any]) -> dict[str, Any]:
        """What it runs with: the first of its grid where nothing was chosen."""
        return {**{key: values[0] for key, values in self.grid.items()}, **chosen, **self.fixed}


def changed(**settings: dict[str, Any]) -> Method:
    """Ours with some settings of the adapter or of the training changed."""
    return Method(ours.ours, fixed={**settings, "variants": False}, main=False, like="ours")


# A row's label competes among those of its own task, or among those of all tasks so far.
LABELS = ["own", "seen"]
# The learning rate that was chosen for sequential training, for methods that are it but for a term in the loss.
SEQUENTIAL = {"learning_rate": 2e-3}
OFF = {"gradient_noise": 0.0, "input_noise": 0.0, "drift_dropout": False, "cyclic_learning_rate": False}
LAYERS = ["all", "last"]
SHRINKAGES = [0.01, 0.1, 0.5]
GAMMAS = [0.1, 0.3, 1.0]
KERNELS = {"gamma": [0.03, 0.1, 0.3], "shrinkage": SHRINKAGES}
RIDGES = [0.1, 1e3, 1e5, 1e6]
# All layers, as was chosen for class means and discriminants. The cost of solving is the cube of the width: that of
# RanPAC, 10,000 as published, would be eight times as much.
RANDOM = {"layers": "all", "width": 5_000}

METHODS = {
    "ours": Method(ours.ours),
    "sequential": Method(sequential.sequential, {"learning_rate": LEARNING_RATES, "labels": LABELS}),
    "replay_2": Method(sequential.replay, fixed={"labels": "seen", "share": 0.02}),
    "ewc": Method(regularised.ewc, {"strength": [1e1, 1e3, 1e5], "labels": LABELS}, SEQUENTIAL),
    "olora": Method(regularised.olora, {"strength": [0.5, 5.0, 50.0], "labels": LABELS}, SEQUENTIAL),
    "osf": Method(osf.osf, {"learning_rate": LEARNING_RATES, "effective_rank": [0.5, 0.9], "labels": LABELS}),
    "ncm": Method(frozen.ncm, {"layers": LAYERS}),
    "lda": Method(frozen.lda, {"layers": LAYERS, "shrinkage": SHRINKAGES}),
    "joint": Method(sequential.joint, fixed={"labels": "seen"}, like="replay_2"),
    "separate": Method(sequential.separate),
    "replay_1": Method(sequential.replay, fixed={"labels": "seen", "share": 0.01}, main=False, like="replay_2"),
    "lwf": Method(regularised.lwf, {"strength": [1.0, 4.0], "labels": LABELS}, SEQUENTIAL, main=False),
    "arrow": Method(arrow.arrow, {"top_k": [1, 3], "labels": LABELS}, SEQUENTIAL, main=False),
    "ridge": Method(random_features.ridge, {"penalty": RIDGES}, RANDOM, main=False),
    "ranpac": Method(random_features.ranpac, {}, RANDOM, main=False),
    "ranpac_first": Method(random_features.ranpac_first, {}, {**SEQUENTIAL, **RANDOM}, main=False),
    "klda": Method(random_features.klda, KERNELS, RANDOM, main=False),
    "klda_5": Method(random_features.klda, KERNELS, {**RANDOM, "draws": 5}, main=False, like="klda"),
    "klda_trunk": Method(random_features.klda, KERNELS, {**RANDOM, "layers": "trunk"}, main=False, like="klda"),
    "any_ssr": Method(any_ssr.any_ssr, main=False, like="ours"),
    "slao": Method(slao.slao, {"learning_rate": LEARNING_RATES, "labels": LABELS}, main=False),
    "lda_trunk": Method(frozen.lda, {"shrinkage": SHRINKAGES}, {"layers": "trunk"}, main=False, like="lda"),
    "ours_no_drift": changed(training=OFF),
    **{f"ours_{source}_alone": changed(training={k: v for k, v in OFF.items() if k != source}) for source in OFF},
    **{f"ours_from_{start}": changed(training={"start_from": start}) for start in ("fresh", "previous")},
    **{f"ours_members_{count}": changed(adapter={"members": count}) for count in (1, 2, 10)},
    **{f"ours_trunk_{depth}": changed(adapter={"trunk_depth": depth}) for depth in (0.0, 0.25, 0.75)},
}
