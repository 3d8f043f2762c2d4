"""Pruning inside one run of a `Trainer`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import IntervalStrategy
from transformers.utils import logging

from .calibration import Batches
from .masks import Masks
from .once import check_rule, prune_further
from .progress import Step, check_limits, check_trainer, draw_steps, metric_of, model_index, orders_of, stop_reason
from .rules import SAP, Rule
from .targets import Target, prunable

logger = logging.get_logger(__name__)
_INDEX, _REMAINING = "pruning/pq_index", "pruning/remaining"


class SAPCallback(TrainerCallback):
    """Prunes every few steps while one training goes on, and keeps what is pruned at zero.

    This is a variant of the published SAP, which trains to the end, prunes, rewinds the survivors and trains again
    ([`prune_iteratively`]). Here one run trains and prunes at once: it costs a single training, and
    nothing is rewound.

    ```python
    trainer.add_callback(SAPCallback(trainer, SAP(p=0.5, q=1.0)))
    ```

    PQ Index and remaining weights go to `report_to` at each pruning, and with the validation metric into `pruning.png`
    in `output_dir`. The masks are saved in the optimizer's state, so that a resumed run goes on with them.

    Args:
        trainer (`Trainer`): The trainer that it is added to. Any subclass; one process or DDP.
        rule (*optional*, defaults to `SAP()`): What goes at each pruning.
        start, every, end (`int` or `float`): First step at which to prune, distance to the next, and last; floats up
            to 1 are shares of all steps.
        targets (`str`, *optional*): As in [`prunable`]: by default the backbone, or the adapter of a PEFT model.
        calibration (iterable of batches, *optional*): For rules that weigh by inputs.
        tolerance (`float`): Pruning ends when the validation metric (`metric_for_best_model`) has fallen by more than
            this, in its own unit, below its best. Infinity: no limit.
        rise (`float`): Pruning ends when the PQ Index has risen by more than this above its lowest.

    Raises:
        ValueError: for arguments out of range, at once; for a setting in which masks cannot hold, at the start of
            training.
    """

    def __init__(
        self,
        trainer: Any,
        rule: Rule | None = None,
        *,
        start: float = 0.1,
        every: float = 0.1,
        end: float = 0.8,
        targets: str | None = None,
        calibration: Batches | None = None,
        tolerance: float = 0.02,
        rise: float = 0.1,
    ) -> None:
        check_trainer(trainer)
        for name, value in (("start", start), ("every", every), ("end", end)):
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or value < 0
                or (name == "every" and not value)
            ):
                raise ValueError(
                    f"`{name}` must be a number of steps, or as a float up to 1 a share of all, not {value!r}."
                )
        check_limits(tolerance, rise)
        self.trainer, self.rule = trainer, rule if rule is not None else SAP()
        check_rule(self.rule, calibration)
        if self.rule.ranks_dense:
            raise ValueError(
                "`OneShot` ranks by the trained dense model, which one run does not have; give `Magnitude`."
            )
        self.start, self.every, self.end = start, every, end
        self.targets, self.calibration = targets, calibration
        self.tolerance, self.rise = tolerance, rise
        self.masks: Masks | None = None
        self._hooks: list[Any] = []
        self._warned = self._training = False

    def due(self, step: int, steps: int) -> bool:
        """Whether a run of `steps` is pruned after this step."""
        places = (self.start, self.every, self.end)
        start, every, end = (round(x * steps) if isinstance(x, float) and x <= 1 else int(x) for x in places)
        return max(start, 1) <= step <= end and (step - max(start, 1)) % max(every, 1) == 0

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, optimizer: Any = None, **kwargs: Any
    ) -> None:
        check_trainer(self.trainer)
        self._check_arguments(args, state)
        self._release()
        targets = prunable(self.trainer.model, self.targets)
        aborted = self._training and state.global_step == 0  # a search for the batch size starts training again
        if not (aborted and self.masks is not None and _same_weights(self.masks.targets, targets)):
            self.masks = Masks.of_zeros(targets)
        if not self.masks.restore(optimizer) and any(_INDEX in entry for entry in state.log_history):
            raise ValueError(
                "The checkpoint was saved without the optimizer (`save_only_model`), which carries the masks; "
                "training on would undo the pruning. Resume from one with the optimizer's state."
            )
        self.masks.apply()
        self._hooks = self.masks.hold(optimizer)
        self._training, self._warned = True, False

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, optimizer: Any = None, **kwargs: Any
    ) -> None:
        if self.masks is None or not self.due(state.global_step, state.max_steps):
            return
        index = model_index(self.masks, *orders_of(self.rule))
        reason = self._reason(args, state, index)
        if reason is None:
            prune_further(self.trainer.model, self.masks, self.rule, self.calibration)
            self.masks.apply()
            self.masks.clear_moments(optimizer)
        elif not self._warned:
            logger.warning(f"Pruning has ended with {self.masks.remaining:.1%} of the weights: {reason}.")
            self._warned = True
        self._log(index, control)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._release()
        self._training = False
        if self.masks is None or not any(_INDEX in entry for entry in state.log_history):
            return
        self._log(model_index(self.masks, *orders_of(self.rule)), control)
        if state.is_world_process_zero:
            metric = metric_of(args, self.tolerance)[0]
            draw_steps(logged_steps(state.log_history, metric), Path(args.output_dir), metric)

    def _check_arguments(self, args: Any, state: TrainerState) -> None:
        """Refuses trainer arguments under which pruning would be undone, or could not begin or end as asked."""
        if args.load_best_model_at_end:
            raise ValueError(
                "`load_best_model_at_end` would bring back weights from before they were pruned. Leave it out; "
                "`tolerance` ends the pruning in time."
            )
        metric_of(args, self.tolerance)
        if math.isfinite(self.tolerance) and args.eval_strategy == IntervalStrategy.NO:
            raise ValueError(
                '`tolerance` limits how far a validation metric may fall, but `eval_strategy` is "no". Set it, or '
                "give `tolerance=float('inf')`."
            )
        if not any(self.due(step, state.max_steps) for step in range(state.max_steps + 1)):
            raise ValueError(
                f"`start` = {self.start}, `every` = {self.every} and `end` = {self.end} leave no step to prune at in "
                f"a run of {state.max_steps} steps."
            )

    def _log(self, index: float, control: TrainerControl) -> None:
        due = control.should_log
        self.trainer.log({_INDEX: index, _REMAINING: self.masks.remaining if self.masks is not None else 1.0})
        control.should_log = due  # `log` clears it, and Trainer would leave out a log of its own that is due

    def _reason(self, args: Any, state: TrainerState, index: float) -> str | None:
        """Why pruning has ended; read off the log, which a checkpoint restores, so that it holds after a resume."""
        metric, greater = metric_of(args, self.tolerance)
        indices: list[float] = []
        scores: list[float] = []
        for entry in [*state.log_history, {_INDEX: index}]:
            if _INDEX in entry:
                scores = scores if indices else scores[-1:]  # pruning is not to blame for what came before it
                indices.append(entry[_INDEX])
            elif metric in entry:
                scores.append(entry[metric])
            else:
                continue
            if indices and (reason := stop_reason(indices, scores, greater, self.tolerance, self.rise)):
                return reason
        return None

    def _release(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def logged_steps(history: list[dict[str, float]], metric: str) -> list[Step]:
    """The levels of a run, read off its log: the dense model, then one after each pruning.

    A line of the log states the PQ Index of a level at its end, and what remains for the next; its score is the last
    one before that line (NaN where there was none).
    """
    steps: list[Step] = []
    start, remaining, score = 0, 1.0, float("nan")
    for entry in history:
        if _INDEX in entry:
            if not steps or remaining != entry[_REMAINING] or entry is history[-1]:
                steps.append(Step(start, remaining, entry[_INDEX], score))
                start, remaining, score = int(entry["step"]), entry[_REMAINING], float("nan")
        elif metric in entry:
            score = entry[metric]
    return steps


def _same_weights(first: dict[str, Target], second: dict[str, Target]) -> bool:
    return first.keys() == second.keys() and all(first[n].parameter is t.parameter for n, t in second.items())
