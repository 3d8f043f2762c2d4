"""Several trainings with one `Trainer`, none of which inherits anything of the one before."""

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
    """Makes a `Trainer` before each of its trainings what it was before the first, all but its model.

    Left as it is, a second `train()` goes on with the optimizer's moments and schedule, the column names of the first
    data set and, where workers are persistent, its validation data, the batch size that was found to fit, the scale of
    half-precision gradients, and the counters of callbacks such as early stopping.

    Args:
        trainer (`Trainer`): As it is before its first training.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        scaler = trainer.accelerator.scaler
        self._scale = deepcopy(scaler.state_dict()) if scaler is not None else None
        self._states: dict[tuple[type, int], dict[str, Any]] = {}

    def begin(self) -> None:
        """Makes ready for a training. The state of a callback goes back to what it was when it was first seen here;
        the object, and what it does not call its state, stay."""
        trainer, accelerator = self.trainer, self.trainer.accelerator
        forget_training(trainer)
        trainer.model_wrapped = trainer.model
        trainer.control = TrainerControl()
        trainer.gather_function = functools.partial(
            accelerator.gather_for_metrics, use_gather_object=trainer.args.eval_use_gather_object
        )
        noise = vars(trainer).pop("neftune_hook_handle", None)
        if noise is not None:
            noise.remove()  # a training that failed leaves it in the model
        handler = trainer.callback_handler
        handler.optimizer = handler.lr_scheduler = handler.train_dataloader = handler.eval_dataloader = None
        accelerator.gradient_state.dataloader_references = [None]  # one that was not read to its end is left there
        if self._scale is not None:
            accelerator.scaler.load_state_dict(self._scale)
        for key, callback in _stateful(handler.callbacks):
            first = self._states.setdefault(key, deepcopy(callback.state()))
            set_state(callback, deepcopy(first))


def load_states(callbacks: Iterable[Any], stored: Mapping[str, Any]) -> None:
    """Gives callbacks the states that a checkpoint holds, without new objects in their place.

    Args:
        callbacks: Those in use; several of a class in the order in which they were.
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
            f"The checkpoint holds the state of {lost}, but there is no such callback; add it to go on alike."
        )


def set_state(holder: ExportableState, state: Mapping[str, Any]) -> None:
    """Sets what `holder.state()` tells: its attributes, and arguments of its constructor that are attributes too."""
    held = vars(holder)
    arguments = {name: value for name, value in state.get("args", {}).items() if name in held}
    for name, value in {**arguments, **state.get("attributes", {})}.items():
        setattr(holder, name, value)


def _stateful(callbacks: Iterable[Any]) -> Iterator[tuple[tuple[type, int], ExportableState]]:
    """Callbacks that have a state, each with its class and its position among those of that class."""
    seen: Counter[type] = Counter()
    for callback in callbacks:
        if isinstance(callback, ExportableState):
            yield (type(callback), seen[type(callback)]), callback
            seen[type(callback)] += 1
