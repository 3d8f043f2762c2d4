"""Boundaries in the data of any training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.utils import logging

from .detector import BoundaryDetector, Verdict

logger = logging.get_logger(__name__)
Features = Callable[[Mapping[str, Any]], Tensor]


class BoundaryCallback(TrainerCallback):
    """Finds the places where the training data of a `Trainer` begins to be of another task.

    It sees the training batches as the model gets them, so their order must be that of the data: an `IterableDataset`,
    or a sampler that does not shuffle. Every boundary is logged, with the number of rows before it
    (`boundary_since`). Under several processes each watches its own rows. A resumed training starts with a new
    detector.

    ```python
    trainer.add_callback(BoundaryCallback(trainer, stop=True))
    ```

    Args:
        trainer (`Trainer`): The trainer that it is added to.
        features (`Callable`, *optional*): `features(batch)` gives a row of features for each row of a training batch,
            `[n, D]`, which must not change as the model learns. By default the mean of the word embeddings of each row
            (`input_ids`), by a copy made when training begins.
        detector ([`BoundaryDetector`], *optional*): By default a new one.
        stop (`bool`): Whether training ends at the first boundary.

    Attributes:
        boundaries (`list[Verdict]`): What was found; `since` counts the rows that were trained on.

    Raises:
        ValueError: when training begins without `features` and the model has no word embeddings, or when a batch gives
            no features.
    """

    def __init__(
        self,
        trainer: Any,
        features: Features | None = None,
        detector: BoundaryDetector | None = None,
        stop: bool = False,
    ) -> None:
        self.trainer, self.features, self.stop = trainer, features, stop
        self.detector = detector if detector is not None else BoundaryDetector()
        self.boundaries: list[Verdict] = []
        self._new: list[Verdict] = []
        self._hook: Any = None

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        features = self.features if self.features is not None else MeanEmbedding(model)

        def look(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            if module.training:  # evaluations are of other data
                self._watch(features(named))

        self._release()
        self._hook = model.register_forward_pre_hook(look, with_kwargs=True)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        for verdict in self._new:
            self.trainer.log({"boundary_since": verdict.since, "boundary_evidence": verdict.evidence})
            what = "a new task" if verdict.group is None else f"task `{verdict.group}` again"
            logger.info(f"From row {verdict.since} on the training data shows {what}")
        if self._new and self.stop:
            control.should_training_stop = True
        self._new = []

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._release()

    def _watch(self, features: Tensor) -> None:
        for row in features.detach().float().cpu():
            verdict = self.detector.update(row)
            if verdict.outcome != "same":
                self.detector.begin(verdict.group)
                self.boundaries.append(verdict)
                self._new.append(verdict)

    def _release(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


class MeanEmbedding:
    """The mean of the word embeddings of each row of a batch, by a copy that training does not change.

    Args:
        model (`nn.Module`): A model of `transformers` that takes `input_ids`.
    """

    def __init__(self, model: Any) -> None:
        # A plain module lacks the method, and a model without word embeddings (audio) has one that raises.
        try:
            embeddings = model.get_input_embeddings()
        except (AttributeError, NotImplementedError):
            embeddings = None
        if not isinstance(embeddings, nn.Module):
            raise ValueError(
                f"`features` of `BoundaryCallback` is missing, and `{type(model).__name__}` has no word embeddings to "
                "take their place; give a function from a batch to its features `[n, D]`."
            )
        self.embeddings = copy.deepcopy(embeddings).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Any]) -> Tensor:
        """`[n, D]`, float32."""
        if not isinstance(batch.get("input_ids"), Tensor):
            raise ValueError(
                f"A training batch has no `input_ids`, only {sorted(batch)}; give `features` to `BoundaryCallback`."
            )
        words = self.embeddings(batch["input_ids"]).float()
        mask = batch.get("attention_mask")
        mask = torch.ones(words.shape[:2], device=words.device) if mask is None else mask.to(words.dtype)
        return (words * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
