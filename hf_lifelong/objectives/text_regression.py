"""Text regression: one number for a text or a pair of texts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .base import NO_CONSTANTS
from .forms import PAIR, TEXT
from .head import HeadKind
from .inputs import are_tokenised_texts, encode_text_columns
from .module_forms import Forms
from .numeric import LOG_2, fit
from .rows import DataError, check_comparable, check_references, column_values, is_string
from .stock import MEAN_OF_TOKENS, TEXTS, StockUse
from .uncertainty import MemberAnswers, spread_of_numbers

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from transformers import PreTrainedTokenizerBase

MOST_NARROW = 1e5
"""Largest ratio of the targets' mean to their standard deviation: beyond it, float32 rounds answers visibly."""
LEAST_SPREAD = 1e-30
"""Smallest standard deviation of targets."""


class TextRegression(HeadKind):
    """A number for each text. Features of `encode(training=False)` carry `example`.

    The head learns standardised targets, by mean squared error; mean and standard deviation of the training rows are
    the task's constants, and answers are in the units of its targets. (A `compute_metrics` function in `Trainer`'s
    form sees standardised numbers, as training does.) `score` of an answer is `None`: a number has no probability.

    The uncertainty is how far the members that ran one by one differ: `s² / (1 + s²)` in [0, 1), where s² is the
    variance of their standardised answers. Merged members give one answer, whose uncertainty is 0.

    Metrics: `pearson` (primary), `spearman` and `r2` (the share of the variance that the answers explain), all in
    [0, 1], because what is negative counts as 0; and `rmse`, in the units of the targets, smaller is better. A
    correlation counts as 0 where all answers, or all right ones, are equal. Whether two tasks are the same is decided
    by `r2`, which unlike a correlation tells units apart.
    """

    kind = "text-regression"
    hub_task = "text-classification"  # where the Hub lists models with `problem_type="regression"`
    example = '"A joy from start to end."'
    forms = (TEXT, PAIR)
    stock = StockUse(
        batch=TEXTS,
        answers=f"{MEAN_OF_TOKENS}print(logits[:, 0].tolist())\n",
        reading="Averaged over the attention mask they are the answer, in the units of the training data.",
    )
    targets = ("labels",)
    per_token = False
    numeric = True
    metric = "pearson"
    likeness = "r2"
    columns = {"text": "text", "text_pair": "text_pair", "label": "label"}
    aliases = {"label": ("labels", "score")}
    optional = frozenset({"text_pair"})
    fixed_labels = ("value",)

    def recognise(self, dataset: Dataset) -> None:
        """See the base class; integers are taken for classes."""
        super().recognise(dataset)
        column = self._target(dataset, self.resolve_columns(dataset, {}))
        if not dataset.features[column].dtype.startswith("float"):
            raise ValueError(f"column {column!r} holds integers, which are taken for classes.")

    def is_tokenised(self, dataset: Dataset) -> bool:
        return are_tokenised_texts(dataset.column_names)

    def constants(self, dataset: Dataset, columns: Mapping[str, str]) -> dict[str, float]:
        """`{"mean": ..., "std": ...}` of the targets."""
        columns = self.resolve_columns(dataset, columns)
        values = np.array(self._numbers(dataset, columns))
        constants = {"mean": float(values.mean()), "std": float(values.std())}
        if not self._are_usable(constants):
            raise DataError(
                self._target(dataset, columns),
                f"its numbers have the mean {constants['mean']:g} and the standard deviation {constants['std']:g}, "
                "too little to tell them apart; subtract what they share, or check that they are the targets.",
            )
        return constants

    def check_constants(self, constants: Mapping[str, float]) -> None:
        if set(constants) != {"mean", "std"} or not self._are_usable(constants):
            raise ValueError(
                f"`constants` are {dict(constants)!r:.100}, but a {self.kind} task has `mean` and `std`, which is not "
                f"below {LEAST_SPREAD:g} or |mean| / {MOST_NARROW:g}."
            )

    def scaling(self, constants: Mapping[str, float]) -> tuple[float, float]:
        return constants.get("std", 1.0), constants.get("mean", 0.0)

    def loss(self, logits: Tensor, batch: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Mean squared error of the standardised targets."""
        return functional.mse_loss(logits[:, 0].float(), batch["labels"].float())

    def distributions(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """D = C = 1: the number itself."""
        numbers = logits[:, :1].float().unsqueeze(1)
        weights = torch.ones_like(numbers[:, :, 0])
        return numbers, weights, torch.full_like(weights, LOG_2)

    def uncertainty(self, answers: MemberAnswers, by_variance: bool = False) -> Tensor:
        """See the class."""
        return spread_of_numbers(answers)

    def sizes(self, tokens: int, labels: int) -> tuple[int, int]:
        return 1, 1

    def decode_rows(
        self,
        scores: np.ndarray,
        features: Mapping[str, Any],
        sources: Sequence[Any],
        labels: Sequence[str],
        constants: Mapping[str, float] = NO_CONSTANTS,
    ) -> list[dict[str, Any]]:
        """`{"answer": number, "score": None}`, the mean over an example's features if it has several."""
        example = np.asarray(features["example"], dtype=np.int64)
        sums = np.zeros(len(sources))
        np.add.at(sums, example, fit(scores, len(example), 1, 1)[:, 0, 0])
        means = sums / np.bincount(example, minlength=len(sources)).clip(min=1)
        return [{"answer": mean, "score": None} for mean in means.tolist()]

    def references(self, examples: Dataset, columns: Mapping[str, str], labels: Sequence[str]) -> list[float]:
        return self._numbers(examples, self.resolve_columns(examples, columns))

    def score(self, answers: Sequence[Any], references: Sequence[float]) -> dict[str, float]:
        """See the class. An answer that is no number counts as the mean of the right ones, which tells nothing."""
        from scipy.stats import rankdata

        check_comparable(answers, references)
        answered, right = np.array(_numbers_or_mean(answers, references)), np.array(references, dtype=float)
        squares, spread = np.square(answered - right).mean(), right.var()
        return {
            "pearson": _correlation(answered, right),
            "spearman": _correlation(rankdata(answered), rankdata(right)),
            "r2": max(0.0, float(1 - squares / spread)) if np.ptp(right) else 0.0,
            "rmse": math.sqrt(squares),
        }

    def majority(self, references_train: Sequence[float], references_test: Sequence[float]) -> float:
        """The primary metric of always giving the mean of the training rows."""
        check_references(references_train)
        mean = float(np.mean(references_train))
        return self.score([mean] * len(references_test), references_test)[self.metric]

    def module_forms(
        self, options: Sequence[Features], answers: Sequence[Any], references: Sequence[float], labels: Sequence[str]
    ) -> Forms:
        return _numbers_or_mean(answers, references), list(references)

    def encode_batch(
        self,
        batch: Mapping[str, list[Any]],
        rows: Sequence[int],
        columns: Mapping[str, str],
        labels: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        stride: int,
        constants: Mapping[str, float],
    ) -> dict[str, list[Any]]:
        label = columns["label"]
        check_numbers(batch[label], rows, label)
        return {
            **encode_text_columns(batch, rows, columns, tokenizer, max_length),
            "labels": self._standardised(batch[label], constants),
            "example": list(rows),
        }

    def expected_type(self, role: str, feature: Any) -> str | None:
        if role != "label":
            return None if is_string(feature) else "strings"
        is_number = getattr(feature, "dtype", "").startswith(("float", "int", "uint"))
        return None if is_number and type(feature).__name__ == "Value" else "one number per row (floats or integers)"

    def _tokenised_targets(
        self, dataset: Dataset, columns: Mapping[str, str], labels: Sequence[str], constants: Mapping[str, float]
    ) -> dict[str, list[Any]]:
        return {"labels": self._standardised(self._numbers(dataset, columns), constants)}

    def _standardised(self, values: Sequence[float], constants: Mapping[str, float]) -> list[float]:
        std, mean = self.scaling(constants)
        return [(value - mean) / std for value in values]

    def _target(self, dataset: Dataset, columns: Mapping[str, str]) -> str:
        return self.targets[0] if "labels" in dataset.column_names and self.is_tokenised(dataset) else columns["label"]

    def _numbers(self, dataset: Dataset, columns: Mapping[str, str]) -> list[float]:
        column = self._target(dataset, columns)
        values = column_values(dataset, column)
        check_numbers(values, range(len(values)), column)
        return [float(value) for value in values]

    @staticmethod
    def _are_usable(constants: Mapping[str, float]) -> bool:
        return constants["std"] >= max(LEAST_SPREAD, abs(constants["mean"]) / MOST_NARROW)


def check_numbers(values: Sequence[Any], rows: Sequence[int], column: str) -> None:
    """Raises a `DataError` that names the first row whose value is missing or not finite."""
    for value, row in zip(values, rows, strict=True):
        if value is None or not math.isfinite(value):
            raise DataError(column, f"{value!r} is no finite number; correct it or drop the row.", row)


def _numbers_or_mean(answers: Sequence[Any], references: Sequence[float]) -> list[float]:
    """Answers as numbers; those that are none, as another kind gives them, become the mean of the right ones."""
    mean = float(np.mean(references))
    return [float(answer) if isinstance(answer, Real) and not isinstance(answer, bool) else mean for answer in answers]


def _correlation(answered: np.ndarray, right: np.ndarray) -> float:
    """Pearson's r, in [0, 1]; 0 where it is negative, or one of the two does not vary."""
    if not np.ptp(answered) or not np.ptp(right):
        return 0.0
    return float(np.corrcoef(answered, right)[0, 1].clip(0, 1))


KIND = TextRegression()
