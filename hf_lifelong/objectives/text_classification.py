"""Text classification: one label for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .classification import Classification
from .forms import PAIR, TEXT
from .inputs import are_tokenised_texts, encode_text_columns
from .labels import label_ids, label_index
from .rows import is_string
from .stock import MEAN_OF_TOKENS, TEXTS, StockUse

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


class TextClassification(Classification):
    """One of C labels for each text."""

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
    columns = {"text": "text", "text_pair": "text_pair", "label": "label"}
    optional = frozenset({"text_pair"})

    def is_tokenised(self, dataset: Dataset) -> bool:
        return are_tokenised_texts(dataset.column_names)

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

    def expected_input(self, role: str, feature: Any) -> str | None:
        return None if is_string(feature) else "strings"

    def _tokenised_targets(
        self, dataset: Dataset, columns: Mapping[str, str], labels: Sequence[str], constants: Mapping[str, float]
    ) -> dict[str, list[Any]]:
        return {"labels": self._ids(dataset, columns, labels)}


KIND = TextClassification()
