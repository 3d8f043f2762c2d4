"""Text classification: one label for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .base import NO_CONSTANTS
from .forms import PAIR, TEXT
from .head import HeadKind
from .inputs import are_tokenised_texts, encode_text_columns
from .labels import find_label_names, is_label, label_ids, label_index, label_scores, most_frequent, why_no_label
from .module_forms import Forms, label_forms
from .numeric import LOG_2, fit, mean_cross_entropy
from .rows import check_comparable, check_dataset, check_not_empty, check_references, is_string
from .stock import MEAN_OF_TOKENS, TEXTS, StockUse

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from transformers import PreTrainedTokenizerBase


class TextClassification(HeadKind):
    """One of C labels for each text. Features of `encode(training=False)` carry `example`.

    Metrics: `accuracy` (primary) and `f1`, macro-averaged over the labels that occur in the references.
    """

    kind = "text-classification"
    hub_task = "text-classification"
    example = '"A joy from start to end."'
    forms = (TEXT, PAIR)
    stock = StockUse(
        batch=TEXTS,
        answers=f"{MEAN_OF_TOKENS}print([id2label[i] for i in logits.argmax(-1).tolist()])\n",
        reading="Averaged over the attention mask they are the logits of the text, as the members see it; the "
        "closed-form head, which counts beside them in `hf_lifelong`, is no part of a LoRA.",
    )
    targets = ("labels",)
    per_token = False
    metric = "accuracy"
    likeness = "accuracy"
    columns = {"text": "text", "text_pair": "text_pair", "label": "label"}
    aliases = {"label": ("labels",)}
    optional = frozenset({"text_pair"})
    label_role = "label"
    named_in = ("label",)
    one_label = True
    extras = ("example",)

    def label_names(self, dataset: Dataset, columns: Mapping[str, str]) -> list[str]:
        check_dataset(dataset)
        check_not_empty(dataset)
        column = self.resolve_columns(dataset, columns)["label"]
        return find_label_names(dataset, column, self._declared(dataset, column), nested=False)

    def is_tokenised(self, dataset: Dataset) -> bool:
        return are_tokenised_texts(dataset.column_names)

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
        return {
            **encode_text_columns(batch, rows, columns, tokenizer, max_length),
            "labels": label_ids(batch[label], rows, label, label_index(labels), labels),
            "example": list(rows),
        }

    def expected_type(self, role: str, feature: Any) -> str | None:
        if role == "label":
            wanted = f"one label per row (ClassLabel, string or integer){why_no_label(feature)}"
            return None if is_label(feature) else wanted
        return None if is_string(feature) else "strings"

    def module_forms(
        self, options: Sequence[Features], answers: Sequence[Any], references: Sequence[Any], labels: Sequence[str]
    ) -> Forms:
        return label_forms(options, answers, references, labels)

    def _tokenised_targets(
        self, dataset: Dataset, columns: Mapping[str, str], labels: Sequence[str], constants: Mapping[str, float]
    ) -> dict[str, list[Any]]:
        return {"labels": self._ids(dataset, columns, labels)}

    def _ids(self, dataset: Dataset, columns: Mapping[str, str], labels: Sequence[str]) -> list[int]:
        names = self._named(dataset, columns, labels)
        return label_ids(names, range(len(names)), columns["label"], label_index(labels), labels)


KIND = TextClassification()
