"""Resets a `Trainer` between trainings, so that none inherits anything from the previous one."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any

from transformers import TrainerControl
from transformers.utils import logging

from ..compat import ExportableState, forget_training

logger = logging.get_logger(__name__)


class Renewal:
    """Resets a `Trainer`, except for its model, to its state before the first training.

    Without this, a second `train()` would continue with the optimizer's moments and schedule, the column names of the
    first data set, its validation data (with persistent workers), the batch size that was found to fit, the scale of
    half-precision gradients, and the counters of callbacks such as early stopping.

    Args:
        trainer (`Trainer`): A trainer that has not trained yet.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        scaler = trainer.accelerator.scaler
        self._scale = deepcopy(scaler.state_dict()) if scaler is not None else None
        self._states: dict[tuple[type, int], dict[str, Any]] = {}

    def begin(self) -> None:
        """Prepares for a training. A callback's state returns to the one it had when this method first saw it. The
        callback object stays, and so do attributes that are not part of its state."""
        trainer, accelerator = self.trainer, self.trainer.accelerator
        forget_training(trainer)
        trainer.model_wrapped = trainer.model
        trainer.control = TrainerControl()
        trainer.gather_function = functools.partial(
            accelerator.gather_for_metrics, use_gather_object=trainer.args.eval_use_gather_object
        )
        noise = vars(trainer).pop("neftune_hook_handle", None)
        if noise is not None:
            noise.remove()  # a failed training leaves it in the model
        handler = trainer.callback_handler
        handler.optimizer = handler.lr_scheduler = handler.train_dataloader = handler.eval_dataloader = None
        accelerator.gradient_state.dataloader_references = [None]  # loaders that were not exhausted stay in the list
        if self._scale is not None:
            accelerator.scaler.load_state_dict(self._scale)
        for key, callback in _stateful(handler.callbacks):
            first = self._states.setdefault(key, deepcopy(callback.state()))
            set_state(callback, deepcopy(first))


def load_states(callbacks: Iterable[Any], stored: Mapping[str, Any]) -> None:
    """Restores the states of callbacks from a checkpoint, in place.

    Args:
        callbacks: The callbacks in use; several of one class must be in the same order as when they were saved.
        stored (`dict`): `TrainerState.stateful_callbacks`.
    """
    restored = set()
    for (kind, position), callback in _stateful(callbacks):
        states = stored.get(kind.__name__, [])
        states = states if isinstance(states, list) else [states]
        if position < len(states):
            restored.add(kind.__name__)
            set_state(callback, states[position])
    if lost := sorted(stored.keys() - restored):
        logger.warning(
            f"The checkpoint holds the state of {lost}, but there is no such callback; add it to resume exactly."
        )


def set_state(holder: ExportableState, state: Mapping[str, Any]) -> None:
    """Sets what `holder.state()` returned: attributes, and constructor arguments that are also attributes."""
    current = vars(holder)
    arguments = {name: value for name, value in state.get("args", {}).items() if name in current}
    for name, value in {**arguments, **state.get("attributes", {})}.items():
        setattr(holder, name, value)


def _stateful(callbacks: Iterable[Any]) -> Iterator[tuple[tuple[type, int], ExportableState]]:
    """The callbacks that have a state, each with its class and its position among those of that class."""
    positions: Counter[type] = Counter()
    for callback in callbacks:
        if isinstance(callback, ExportableState):
            yield (type(callback), positions[type(callback)]), callback
            positions[type(callback)] += 1
