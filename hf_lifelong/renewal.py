"""Several trainings with one `Trainer`."""

from __future__ import annotations

from typing import Any

from transformers import TrainerControl
from transformers.trainer_callback import ExportableState


def renew(trainer: Any) -> None:
    """Makes everything anew that the next `train()` of a `Trainer` must not inherit from the one before.

    Left as they are, a second `train()` would go on with the optimizer's moments and schedule, the column names of the
    first data set, and the counters of callbacks such as early stopping.
    """
    trainer.optimizer = trainer.lr_scheduler = None
    trainer._signature_columns = None
    trainer.model_wrapped = trainer.model
    trainer.control = TrainerControl()
    for i, callback in enumerate(trainer.callback_handler.callbacks):
        if isinstance(callback, ExportableState):
            trainer.callback_handler.callbacks[i] = type(callback)(**callback.state()["args"])
