"""The methods that `lifelong.py` compares, each a function of the tasks and of what it is given."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_lifelong.training.tasks import PreparedTask

from .ours import ours
from .sequential import joint, replay, separate, sequential
from .shared import Result, Setting

LEARNING_RATES = [5e-4, 2e-3]


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


ANY_LABELS = {"learning_rate": LEARNING_RATES, "labels": ["own", "seen"]}
NO_DRIFT = {"gradient_noise": 0.0, "input_noise": 0.0, "drift_dropout": False, "cyclic_learning_rate": False}

METHODS = {
    "ours": Method(ours),
    "sequential": Method(sequential, ANY_LABELS),
    "replay_2": Method(replay, fixed={"share": 0.02}),
    "joint": Method(joint),
    "separate": Method(separate),
    "replay_1": Method(replay, fixed={"share": 0.01}, main=False, like="replay_2"),
}
