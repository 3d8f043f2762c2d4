"""`FairTrainerMixin`: any `Trainer` of a classifier, fair towards groups."""

from __future__ import annotations

from typing import Any, cast

import datasets
import numpy as np
import torch
from transformers.utils import logging

from .rows import NO_GROUP
from .running import HeldFairness, RunningFairness
from .state import GroupFairness
from .steps import FairSteps
from .term import check_trainable

logger = logging.get_logger(__name__)


class FairTrainerMixin(FairSteps):
    """Adds [`fairness_term`] to the loss of any `Trainer` of a classifier.

    ```python
    class FairTrainer(FairTrainerMixin, Trainer):
        pass


    trainer = FairTrainer(model, args, train_dataset=data, fairness=GroupFairness("eop", groups=7))
    ```

    The training data have a column with each row's group, which the model does not get to see. How fair the model is
    is summed over the last training steps of all processes, and goes to the log as `fairness_sp` (`_eop`, `_cal`) with
    the loss. A weight of 0 trains as without, to the bit, and logs it all the same. Losses of an evaluation are
    without the term.

    Args:
        args, kwargs: As the `Trainer` takes them.
        fairness ([`GroupFairness`]): Metric, groups and classes. What it holds is not used.
        fairness_weight (`float`): λ: `λ · F² / 2` is added to the mean loss. F is at most 1, and mostly far less, so
            values from 5 to 50 are common.
        group_column (`str`): The column of the groups: integers from 0, -100 for rows of no group.
        fairness_window (`int`): How many optimizer steps F is summed over; fewer follow the model sooner, more know
            small groups better.

    Raises:
        ValueError: for arguments out of range; at the start of training when the column lacks, holds other values, or
            only one group.
    """

    def __init__(
        self,
        *args: Any,
        fairness: GroupFairness,
        fairness_weight: float = 20.0,
        group_column: str = "group",
        fairness_window: int = 100,
        **kwargs: Any,
    ) -> None:
        if not isinstance(fairness, GroupFairness):
            raise ValueError(f"`fairness` is {fairness!r:.60}; give a `GroupFairness`, such as `GroupFairness('sp')`.")
        check_trainable(fairness, fairness_weight)
        if not isinstance(fairness_window, int) or isinstance(fairness_window, bool) or fairness_window < 1:
            raise ValueError(f"`fairness_window` is {fairness_window!r}; give a number of steps, at least 1.")
        self.fairness_weight, self.group_column = fairness_weight, group_column
        super().__init__(*args, **kwargs)
        self.watch_fairness(fairness, fairness_window)

    @property
    def fairness(self) -> GroupFairness:
        """The fairness of the model in training over its last steps."""
        return cast(RunningFairness, self._running).whole

    def hold_fairness(self, whole: GroupFairness, weight: float) -> None:
        """Trains towards the fairness of a whole that is measured elsewhere and stays as it is: of all clients of a
        federation, not of the rows that this trainer sees.

        Args:
            whole ([`GroupFairness`]): Its sums.
            weight (`float`): λ; replaces `fairness_weight`.

        Raises:
            ValueError: when `whole` differs from `fairness` in metric, groups or classes, or `weight` is out of range.
        """
        check_trainable(whole, weight)
        if whole.settings() != self.fairness.settings():
            raise ValueError(
                f"`whole` is of {whole.settings()}, but the `fairness` of this trainer of {self.fairness.settings()}; "
                "measure both alike."
            )
        self.fairness_weight = weight
        self.watch_fairness(None)
        self.add_callback(HeldFairness(whole))

    def measure_fairness(self) -> GroupFairness:
        """The fairness of the model as it is over all rows of the training data, in one pass over them."""
        measured = self.fairness.scaled(0.0)
        # Trainer's own loader of other data: in order, each row once, and with the group.
        loader = self.get_eval_dataloader(self.train_dataset)
        model: Any = self.model
        model.eval()
        with torch.no_grad():
            for batch in loader:
                inputs = self._prepare_inputs(batch)
                outputs = self.compute_loss(model, inputs, return_outputs=True)[1]
                rows = self.fairness_scores(outputs), inputs["labels"], inputs[self.group_column]
                measured.update(*self.accelerator.gather_for_metrics(rows))
        return measured

    def get_train_dataloader(self) -> Any:
        if isinstance(self.train_dataset, datasets.Dataset):
            check_groups(self.train_dataset, self.group_column, self.fairness.groups)
        return super().get_train_dataloader()


def check_groups(data: datasets.Dataset, column: str, groups: int) -> None:
    """Refuses training data from which no fairness between groups can be learned.

    Args:
        data (`datasets.Dataset`): The training data.
        column (`str`): The column of the groups.
        groups (`int`): How many groups there are.

    Raises:
        ValueError: when the column lacks, holds anything but groups, or one group only.
    """
    if column not in data.column_names:
        raise ValueError(
            f"`group_column` is {column!r}, but the training data have the columns {data.column_names}; name the one "
            "that holds each row's group."
        )
    values = np.unique(data.select_columns(column).with_format("numpy")[:][column])
    values = values[values != NO_GROUP]
    known = np.arange(groups)
    if values.dtype.kind not in "iub" or not np.isin(values, known).all():
        shown = ", ".join(map(repr, values[:5].tolist()))
        raise ValueError(
            f"The column `{column}` holds {shown}, but with {groups} groups it must hold integers from 0 to "
            f"{groups - 1}, or {NO_GROUP} for rows of no group. Encode names (`class_encode_column`), or make "
            "`fairness` with more `groups`."
        )
    if len(values) < 2:
        raise ValueError(
            f"The column `{column}` of the training data holds only the groups {values.tolist()}; fairness is between "
            "two or more. Give data of other groups, or train without."
        )
    if len(values) < groups:
        unseen = np.setdiff1d(known, values).tolist()
        logger.warning(f"The training data have no row of the groups {unseen}; nothing makes the model fair to them.")
