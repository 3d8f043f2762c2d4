"""One label for each input: what text and image classification have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .base import NO_CONSTANTS
from .head import HeadKind
from .labels import find_label_names, is_label, label_ids, label_index, label_scores, most_frequent, why_no_label
from .module_forms import Forms, label_forms
from .numeric import LOG_2, fit, mean_cross_entropy
from .rows import check_comparable, check_dataset, check_not_empty, check_references

if TYPE_CHECKING:
    from datasets import Dataset, Features


class Classification(HeadKind):
    """One of C labels for each input. Features of `encode(training=False)` carry `example`.

    Metrics: `accuracy` (primary) and `f1`, macro-averaged over the labels that occur in the references.
    """

    targets = ("labels",)
    per_token = False
    metric = "accuracy"
    likeness = "accuracy"
    aliases = {"label": ("labels",)}
    label_role = "label"
    named_in = ("label",)
    one_label = True
    extras = ("example",)

    def label_names(self, dataset: Dataset, columns: Mapping[str, str]) -> list[str]:
        check_dataset(dataset)
        check_not_empty(dataset)
        column = self.resolve_columns(dataset, columns)["label"]
        return find_label_names(dataset, column, self._declared(dataset, column), nested=False)

    def loss(self, logits: Tensor, batch: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        return mean_cross_entropy(logits, batch["labels"])

    def distributions(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """D = 1 and C = W: the softmax over the labels. A logit of -inf stands for a label that a row does not have,
        where rows of narrower heads are padded."""
        probabilities = logits.float().softmax(dim=-1)[:, None, :]
        weights = torch.ones_like(probabilities[:, :, 0])
        classes = (logits != float("-inf")).sum(dim=-1, keepdim=True).to(weights.dtype)
        return probabilities, weights, classes.log().clamp(min=LOG_2)

    def sizes(self, tokens: int, labels: int) -> tuple[int, int]:
        return 1, labels

    def decode_rows(
        self,
        scores: np.ndarray,
        features: Mapping[str, Any],
        sources: Sequence[Any],
        labels: Sequence[str],
        constants: Mapping[str, float] = NO_CONSTANTS,
    ) -> list[dict[str, Any]]:
        """`{"answer": label name, "score": probability}`, the mean over an example's features if it has several."""
        example = np.asarray(features["example"], dtype=np.int64)
        sums = np.zeros((len(sources), len(labels)))
        np.add.at(sums, example, fit(scores, len(example), 1, len(labels))[:, 0])
        means = sums / np.bincount(example, minlength=len(sources)).clip(min=1)[:, None]
        best = means.argmax(axis=1)
        return [{"answer": labels[k], "score": float(row[k])} for k, row in zip(best, means, strict=True)]

    def references(self, examples: Dataset, columns: Mapping[str, str], labels: Sequence[str]) -> list[str]:
        return [labels[i] for i in self._ids(examples, self.resolve_columns(examples, columns), labels)]

    def score(self, answers: Sequence[Any], references: Sequence[str]) -> dict[str, float]:
        check_comparable(answers, references)
        return label_scores([a if isinstance(a, str) else None for a in answers], references)

    def majority(self, references_train: Sequence[str], references_test: Sequence[str]) -> float:
        check_references(references_train)
        return self.score([most_frequent(references_train)] * len(references_test), references_test)[self.metric]

    def expected_type(self, role: str, feature: Any) -> str | None:
        if role == "label":
            wanted = f"one label per row (ClassLabel, string or integer){why_no_label(feature)}"
            return None if is_label(feature) else wanted
        return self.expected_input(role, feature)

    @abstractmethod
    def expected_input(self, role: str, feature: Any) -> str | None:
        """`expected_type` for a role that is not the label."""

    def module_forms(
        self, options: Sequence[Features], answers: Sequence[Any], references: Sequence[Any], labels: Sequence[str]
    ) -> Forms:
        return label_forms(options, answers, references, labels)

    def _ids(self, dataset: Dataset, columns: Mapping[str, str], labels: Sequence[str]) -> list[int]:
        names = self._named(dataset, columns, labels)
        return label_ids(names, range(len(names)), columns["label"], label_index(labels), labels)
