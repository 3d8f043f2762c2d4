"""The audit of the training data of any `Trainer`: before training, and of what the trained model makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from ..statistics import TaskRefused
from . import checks
from .audit import ACTIONS, Audit, audit_answers, audit_dataset

logger = logging.get_logger(__name__)


class IntakeAuditCallback(TrainerCallback):
    """Audits the data of a text classifier that any `Trainer` trains.

    When training begins, texts and labels are audited as in [`audit_dataset`]. When it ends, the trained model is
    asked about the suspects, if there are clean rows to put them into ([`audit_answers`]).

    ```python
    trainer.add_callback(IntakeAuditCallback(train, clean=validation, action="refuse"))
    ```

    Args:
        train (`datasets.Dataset` or mapping): The rows that the trainer trains on, before they are tokenised.
        clean (*optional*): Rows to ask about, such as the validation part, in the same columns. Without them the
            model is not asked.
        text, label (`str`): Columns of the texts and of the labels. Labels are the class numbers of the model, or
            their names in its configuration.
        action (`str`): `"report"` logs what is found. `"refuse"` also raises [`~statistics.TaskRefused`] for data that
            are suspicious: at the end of training where there are `clean` rows, or else before it begins.
        false_alarms (`float`): Share of clean data sets that may be called suspicious.

    Attributes:
        audit ([`Audit`], *optional*): What was found; `None` before training begins.

    Raises:
        ValueError: for missing columns, an unknown action, and rows that [`audit_dataset`] refuses.
    """

    def __init__(
        self,
        train: Mapping[str, Sequence[Any]] | Any,
        clean: Mapping[str, Sequence[Any]] | Any = None,
        *,
        text: str = "text",
        label: str = "label",
        action: Literal["report", "refuse"] = "report",
        false_alarms: float = 0.01,
    ) -> None:
        if action not in ACTIONS:
            raise ValueError(f"`action` is {action!r:.60}; choose one of {list(ACTIONS)}.")
        self.action, self.false_alarms = action, checks.share("false_alarms", false_alarms)
        self.train = checks.columns("train", train, text, label)
        self.clean = None if clean is None else checks.columns("clean", clean, text, label)
        self.audit: Audit | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._conclude(audit_dataset(*self.train, self.false_alarms), final=self.clean is None)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.clean is None:
            return
        model, tokenizer = kwargs["model"], kwargs["processing_class"]
        answer = answering(model, tokenizer, args.eval_batch_size, names=isinstance(self.train[1][0], str))
        self._conclude(audit_answers(*self.train, answer, *self.clean, self.false_alarms), final=True)

    def _conclude(self, found: Audit, final: bool) -> None:
        self.audit = found
        if final and found.suspicious and self.action == "refuse":
            raise TaskRefused(f"The training data is refused. {found.advice('train')}")
        logger.log(logging.WARNING if found.suspicious else logging.INFO, str(found))


def answering(model: nn.Module, tokenizer: Any, batch_size: int, names: bool) -> Callable[[list[str]], list[Any]]:
    """A function from texts to the classes that a classifier of transformers answers: numbers, or `names`."""

    config: Any = model.config

    def answer(texts: list[str]) -> list[Any]:
        found: list[int] = []
        with evaluating(model):
            for start in range(0, len(texts), batch_size):
                batch = tokenizer(
                    texts[start : start + batch_size], padding=True, truncation=True, return_tensors="pt"
                )
                found += model(**batch.to(next(model.parameters()).device)).logits.argmax(-1).tolist()
        return [config.id2label[number] for number in found] if names else found

    return answer


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Keeps a model in eval mode and without gradients, then puts it back."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
