"""`FairSteps`: what makes the training of a `Trainer` fair, from where it is turned on."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import Trainer

from .running import RunningFairness
from .state import GroupFairness
from .term import fairness_term

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object


class FairSteps(_Base):
    """The hooks of a fair training, for a `Trainer` that turns it on and off by itself (`watch_fairness`); anybody
    else takes [`FairTrainerMixin`]. While it is off, everything is as `Trainer` does it.

    Attributes:
        fairness_weight (`float`): λ; with 0 fairness is only watched.
        group_column (`str`): The column of the groups in the training data.
    """

    fairness_weight = 0.0
    group_column = "group"

    def watch_fairness(self, fairness: GroupFairness | None, window: int = 1) -> None:
        """Turns fairness on, with sums of no rows yet, or off.

        Args:
            fairness ([`GroupFairness`], *optional*): Metric, groups and classes; `None` turns it off.
            window (`int`): As `fairness_window` of [`FairTrainerMixin`].
        """
        if self._running is not None:
            self.remove_callback(self._running)
        if fairness is not None:
            self.add_callback(RunningFairness(fairness.metric, fairness.groups, fairness.classes, window))

    @property
    def fairness(self) -> GroupFairness | None:
        """The fairness of the model in training over its last steps; `None` while it is off."""
        return self._running.whole if self._running is not None else None

    def whole_fairness(self, running: GroupFairness) -> tuple[GroupFairness, float]:
        """What is to become fair, and how many of its rows are those that batches are drawn from. Override it where
        other rows count too, such as those of earlier tasks.

        Args:
            running ([`GroupFairness`]): As `fairness`.
        """
        return running, running.rows

    def fairness_scores(self, outputs: Any) -> Tensor:
        """Probabilities of what the model gave for a batch, `[N]` or `[N, classes]`. Override it for a model whose
        output has no `logits` of the shape `[N, classes]`, or `[N, 1]` for one logit of class 1."""
        logits = (outputs["logits"] if isinstance(outputs, dict) else outputs[1]).float()
        return logits[:, 0].sigmoid() if logits.shape[1:] == (1,) else logits.softmax(-1)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        loss_of = functools.partial(super().compute_loss, model, num_items_in_batch=num_items_in_batch)
        running = self._running
        if running is None or not model.training:
            return loss_of(self._without_groups(inputs), return_outputs=return_outputs)
        lacking = [name for name in (self.group_column, "labels") if inputs.get(name) is None]
        if lacking:
            raise ValueError(
                f"A training batch has no `{lacking[0]}`, but {sorted(inputs)}; `group_column` and labels must be in "
                "the training data and pass the data collator."
            )
        groups, labels = inputs[self.group_column], inputs["labels"]
        loss, outputs = loss_of(self._without_groups(inputs), return_outputs=True)
        scores = self.fairness_scores(outputs)
        running.observe(scores, labels, groups)
        if self.fairness_weight:
            whole, rows = self.whole_fairness(running.whole)
            term = fairness_term(scores, labels, groups, whole, self.fairness_weight, rows)
            loss = loss + (term / self._batches_of_loss(num_items_in_batch)).to(loss.dtype)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._running is not None and self.accelerator.sync_gradients:
            self._running.end_step(functools.partial(self.accelerator.reduce, reduction="sum"))
        return loss

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        return super().prediction_step(model, self._without_groups(inputs), *args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self.fairness is not None:
            whole, _ = self.whole_fairness(self.fairness)
            if whole.is_known:
                logs[f"fairness_{whole.metric}"] = whole.value()
        super().log(logs, *args, **kwargs)

    @property
    def _running(self) -> RunningFairness | None:
        # Trainer puts new callbacks in place of those that it restores from a checkpoint.
        return next((held for held in self.callback_handler.callbacks if isinstance(held, RunningFairness)), None)

    def _without_groups(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if self._running is None:
            return inputs
        return {name: value for name, value in inputs.items() if name != self.group_column}

    def _batches_of_loss(self, num_items_in_batch: Any) -> int:
        """By how many batches the loss is divided already: Trainer adds up those of an accumulated step, and divides
        their sum unless the loss counts the items of all of them."""
        scaled = self.loss_is_scaled_for_ga
        if scaled is None:
            counts = self.model_accepts_loss_kwargs and num_items_in_batch is not None
            scaled = counts or self.compute_loss_func is not None
        return self.current_gradient_accumulation_steps if scaled else 1

    def _set_signature_columns_if_needed(self) -> None:
        # The one place where Trainer decides which columns of a data set it keeps.
        super()._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        if self._running is not None and self.group_column not in columns:
            columns.append(self.group_column)
