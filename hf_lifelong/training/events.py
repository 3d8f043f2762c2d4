"""What callbacks are told of a stream that does not say where a task ends."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import CallbackHandler

from .reading import Boundary


class StreamCallback(TrainerCallback):
    """A callback of [`DriftTrainer`] that is also told what happens in its `stream`. Override what you need.

    After a kill the inputs since the last checkpoint are read again, so what a callback is told of them comes again,
    too; positions say of which inputs it is.
    """

    def on_boundary(self, boundary: Boundary) -> None:
        """A segment of the stream is complete, and is learned next.

        Args:
            boundary ([`Boundary`]): Where it ends, and what comes after it.
        """

    def on_answers(self, answers: list[dict[str, Any]]) -> None:
        """Inputs without a label were answered.

        Args:
            answers (`list[dict]`): For each input its answer, as [`LifelongPipeline`] gives it with `abstain=True`,
                and its position in the stream as `input`.
        """


def tell(handler: CallbackHandler, event: str, what: Any) -> None:
    """Calls a method of all callbacks that have it."""
    for callback in handler.callbacks:
        if isinstance(callback, StreamCallback):
            getattr(callback, event)(what)
