"""The fairness of the model in training, from the rows that it is trained on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.utils import logging

from ..compat import ExportableState
from . import measures
from .rows import arrange, strays
from .state import GroupFairness

logger = logging.get_logger(__name__)


class RunningFairness(TrainerCallback, ExportableState):
    """Sums over the last steps of a training, older ones with less and less weight: measured in passing, so they cost
    no pass of their own. They travel in the checkpoints, and each training starts without any.

    Args:
        metric, groups, classes: As in [`GroupFairness`].
        window (`int`): How many steps the sums reach back; a step's weight is that of the next times
            `1 - 1 / window`.

    Attributes:
        whole ([`GroupFairness`]): The sums up to the last optimizer step, of all processes.
    """

    def __init__(self, metric: str, groups: int, classes: int, window: int) -> None:
        self.whole = GroupFairness(metric, groups, classes=classes)
        self.window = window
        self._step: Tensor | None = None

    def state(self) -> dict[str, Any]:
        of = self.whole
        arguments = {"metric": of.metric, "groups": of.groups, "classes": of.classes, "window": self.window}
        return {"args": arguments, "attributes": {"sums": self.sums}}

    @property
    def sums(self) -> dict[str, Any]:
        """`whole` as JSON knows it."""
        return self.whole.to_dict()

    @sums.setter
    def sums(self, data: Any) -> None:
        whole = GroupFairness.from_dict(data)
        if whole.settings() != self.whole.settings():
            raise ValueError(
                f"The checkpoint was trained with the fairness {whole.settings()}, not with {self.whole.settings()}; "
                "resume with the same, or start anew."
            )
        self.whole = whole

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.whole, self._step = self.whole.scaled(0.0), None
        # As the checkpoint holds it: Trainer itself restores callbacks only if it is told to.
        stored = vars(state)["stateful_callbacks"].get(type(self).__name__)
        if state.global_step and stored:
            self.sums = stored["attributes"]["sums"]

    def observe(self, scores: Tensor, labels: Tensor, groups: Tensor) -> None:
        """Adds a batch of this process to the step that is under way; never waits for a GPU."""
        sizes = {"group_count": self.whole.groups, "classes": self.whole.classes}
        sums = measures.group_sums(self.whole.metric, *arrange(scores.detach(), labels, groups, **sizes))
        stray = strays(labels, groups, **sizes).sum(1).to(sums.device, sums.dtype)
        batch = torch.cat([sums.flatten(), stray, sums.new_tensor([len(labels)])])
        self._step = batch if self._step is None else self._step + batch

    def end_step(self, reduce: Callable[[Tensor], Tensor]) -> None:
        """Takes a whole optimizer step into the sums.

        Args:
            reduce: Gives the sum of a tensor over all processes.

        Raises:
            ValueError: when one of its rows was of an unknown group or class.
        """
        if self._step is None:
            return
        step = reduce(self._step).to("cpu", torch.float64)
        self._step = None
        stray_labels, stray_groups, rows = step[-3:].tolist()
        limits = {"label": (stray_labels, self.whole.classes), "group": (stray_groups, self.whole.groups)}
        for name, (count, limit) in limits.items():
            if count:
                raise ValueError(
                    f"{int(count)} of the {int(rows)} rows of a training step have a {name} that is no integer from 0 "
                    f"to {limit - 1}. Encode it so, or make `fairness` with more (`groups`, `classes`)."
                )
        if not step.isfinite().all():
            logger.warning("A training step gave scores that are not finite; the sums of fairness leave it out.")
            return
        fresh = self.whole.of(step[:-3].reshape(self.whole.sums.shape), rows)
        self.whole = fresh + self.whole.scaled(1 - 1 / self.window)


class HeldFairness(RunningFairness):
    """The fairness of a whole that is measured elsewhere, such as over all clients of a federation. Training follows
    it and does not change it.

    Args:
        whole ([`GroupFairness`]): The sums.
    """

    def __init__(self, whole: GroupFairness) -> None:
        super().__init__(whole.metric, whole.groups, whole.classes, window=1)
        self.whole = whole

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        pass

    def observe(self, scores: Tensor, labels: Tensor, groups: Tensor) -> None:
        pass
