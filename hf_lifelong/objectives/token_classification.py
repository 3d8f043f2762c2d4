"""Token classification: one label for every word of a text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from .base import NO_CONSTANTS
from .forms import WORDS
from .head import HeadKind
from .inputs import check_words, tokenize_words
from .labels import (
    IGNORED,
    find_label_names,
    is_label,
    label_ids,
    label_index,
    label_scores,
    labels_of_rows,
    most_frequent,
    why_no_label,
)
from .module_forms import Forms, tag_forms
from .numeric import LOG_2, fit, mean_cross_entropy, padded
from .rows import (
    DataError,
    check_comparable,
    check_dataset,
    check_not_empty,
    check_references,
    column_values,
    is_string,
)
from .stock import TEXTS, StockUse

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from transformers import DataCollatorForTokenClassification, PreTrainedTokenizerBase

OUTSIDE = "O"
"""The tag of words that belong to no entity."""

_ENTITY_TAG = re.compile(r"O|[BIES]-.+", re.DOTALL)
_WRONG_ENTITY = "\N{REPLACEMENT CHARACTER}"


class TokenClassification(HeadKind):
    """One of C labels for each word; a word's label is that of its first token.

    Features of `encode(training=False)` carry `example` and `words` (per token the index of its word, -1 for special
    tokens). Words beyond `max_length` are answered with the tag `O`, or the first label if there is none.

    In a tokenised data set every token with a label counts as one word.

    Metrics: `f1` (primary) and `accuracy` over words. If the references are BIO tags, `f1` is that of whole entities
    (seqeval, micro-averaged), else that of words, macro-averaged over the labels in the references.
    """

    kind = "token-classification"
    hub_task = "token-classification"
    example = '{"tokens": ["Ada", "Lovelace", "lived", "in", "London", "."]}'
    forms = (WORDS,)
    stock = StockUse(
        batch=TEXTS,
        answers="print([[id2label[i] for i in row] for row in logits.argmax(-1).tolist()])\n",
        note="Its logits are the task's.",
    )
    targets = ("labels",)
    per_token = True
    metric = "f1"
    likeness = "f1"
    columns = {"tokens": "tokens", "tags": "tags"}
    aliases = {"tags": ("ner_tags", "pos_tags", "labels")}
    label_role = "tags"
    named_in = ("tags", "ner_tags", "pos_tags")
    extras = ("example", "words")

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> DataCollatorForTokenClassification:
        from transformers import DataCollatorForTokenClassification

        return DataCollatorForTokenClassification(tokenizer)

    def label_names(self, dataset: Dataset, columns: Mapping[str, str]) -> list[str]:
        check_dataset(dataset)
        check_not_empty(dataset)
        column = self.resolve_columns(dataset, columns)["tags"]
        return find_label_names(dataset, column, self._declared(dataset, column), nested=True)

    def loss(self, logits: Tensor, batch: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Mean cross entropy over the tokens that carry a label."""
        return mean_cross_entropy(logits.flatten(0, 1), batch["labels"].flatten())

    def distributions(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """D = T and C = W: the softmax over the labels of every token; padding has weight 0. A logit of -inf stands
        for a label that a row does not have, where rows of narrower heads are padded."""
        probabilities = logits.float().softmax(dim=-1)
        tokens = (mask != 0).to(probabilities.dtype)
        weights = tokens / tokens.sum(dim=1, keepdim=True).clamp(min=1)
        classes = (logits != float("-inf")).sum(dim=-1).to(weights.dtype)
        return probabilities, weights, classes.log().clamp(min=LOG_2)

    def sizes(self, tokens: int, labels: int) -> tuple[int, int]:
        return tokens, labels

    def decode_rows(
        self,
        scores: np.ndarray,
        features: Mapping[str, Any],
        sources: Sequence[Any],
        labels: Sequence[str],
        constants: Mapping[str, float] = NO_CONSTANTS,
    ) -> list[dict[str, Any]]:
        """`{"answer": one label per word, "score": mean probability of the labels of the words that were read}`."""
        words = padded(features["words"])
        example = np.asarray(features["example"], dtype=np.int64)
        fitted = fit(scores, len(example), words.shape[1], len(labels))
        best, probability = fitted.argmax(axis=-1), fitted.max(axis=-1)
        first = (words >= 0) & (
            words != np.pad(words[:, :-1], ((0, 0), (1, 0)), constant_values=-1)[:, : words.shape[1]]
        )
        unread = OUTSIDE if OUTSIDE in labels else labels[0]
        answers: list[dict[str, Any]] = [
            {"answer": [unread] * (len(source) if isinstance(source, list | tuple) else 0), "score": 0.0}
            for source in sources
        ]
        for i, at in enumerate(first):
            answer = answers[example[i]]
            tokens = np.flatnonzero(at & (words[i] < len(answer["answer"])))
            for word, label in zip(words[i, tokens], best[i, tokens], strict=True):
                answer["answer"][word] = labels[label]
            if len(tokens):
                answer["score"] = float(probability[i, tokens].mean())
        return answers

    def references(self, examples: Dataset, columns: Mapping[str, str], labels: Sequence[str]) -> list[list[str]]:
        columns = self.resolve_columns(examples, columns)
        tags_of_rows = labels_of_rows(self._named(examples, columns, labels), columns["tags"])
        if self.is_tokenised(examples):
            tags_of_rows = [[tag for tag in tags if tag != IGNORED] for tags in tags_of_rows]
        index = label_index(labels)
        for row, tags in enumerate(tags_of_rows):
            label_ids(tags, [row] * len(tags), columns["tags"], index, labels)
        return tags_of_rows

    def score(self, answers: Sequence[Any], references: Sequence[list[str]]) -> dict[str, float]:
        """See the class; with BIO tags, raises an `ImportError` if seqeval is not installed."""
        check_comparable(answers, references)
        tags = [_labels_of(answer, len(right)) for answer, right in zip(answers, references, strict=True)]
        flat = list(chain.from_iterable(references))
        if not flat:
            raise ValueError("references holds no words; give at least one example that has some.")
        scores = label_scores(list(chain.from_iterable(tags)), flat)
        if are_entity_tags(flat):
            scores["f1"] = entity_f1(tags, references)
        return scores

    def majority(self, references_train: Sequence[list[str]], references_test: Sequence[list[str]]) -> float:
        tags = list(chain.from_iterable(references_train))
        check_references(tags)
        tag = most_frequent(tags)
        return self.score([[tag] * len(right) for right in references_test], references_test)[self.metric]

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
        tokens, tags = columns["tokens"], columns["tags"]
        check_words(batch[tokens], rows, tokens)
        encoded = tokenize_words(tokenizer, batch[tokens], max_length)
        index = label_index(labels)
        targets = []
        for i, row in enumerate(rows):
            values = batch[tags][i]
            if values is None or len(values) != len(batch[tokens][i]):
                words = len(batch[tokens][i])
                problem = f"{len(values or [])} tags for {words} words in column {tokens!r}; give one tag per word."
                raise DataError(tags, problem, row)
            ids = label_ids(values, [row] * len(values), tags, index, labels)
            targets.append(first_token_labels(encoded["words"][i], ids))
        return {**encoded, "labels": targets, "example": list(rows)}

    def expected_type(self, role: str, feature: Any) -> str | None:
        entry = getattr(feature, "feature", None)
        if role == "tokens":
            return None if is_string(entry) else "a list of strings per row"
        wanted = f"a list of labels per row (ClassLabel, strings or integers){why_no_label(entry)}"
        return None if is_label(entry) else wanted

    def module_forms(
        self, options: Sequence[Features], answers: Sequence[Any], references: Sequence[Any], labels: Sequence[str]
    ) -> Forms:
        return tag_forms(options, answers, references, labels)

    def sources_of(self, examples: Dataset, columns: Mapping[str, str]) -> list[Any]:
        return self._tags(examples, columns["tags"])

    def _tags(self, examples: Dataset, column: str) -> list[list[Any]]:
        rows = labels_of_rows(column_values(examples, column), column)
        if not self.is_tokenised(examples):
            return rows
        return [[tag for tag in tags if tag != IGNORED] for tags in rows]

    def _tokenised_targets(
        self, dataset: Dataset, columns: Mapping[str, str], labels: Sequence[str], constants: Mapping[str, float]
    ) -> dict[str, list[Any]]:
        column, targets = columns["tags"], []
        index = {**label_index(labels), IGNORED: IGNORED}
        tokens = column_values(dataset, "input_ids")
        for row, tags in enumerate(labels_of_rows(self._named(dataset, columns, labels), column)):
            if len(tags) != len(tokens[row]):
                problem = (
                    f"{len(tags)} labels for {len(tokens[row])} tokens; give one per token ({IGNORED} where there is "
                    "none). Several labels for a whole text are multi-label, which is not supported."
                )
                raise DataError(column, problem, row)
            targets.append(label_ids(tags, [row] * len(tags), column, index, labels))
        return {"labels": targets}

    def _tokenised_extras(self, dataset: Dataset) -> dict[str, list[Any]]:
        words = []
        for tags in column_values(dataset, "labels"):
            labelled = np.array(tags) != IGNORED
            words.append(np.where(labelled, labelled.cumsum() - 1, -1).tolist())
        return {**super()._tokenised_extras(dataset), "words": words}


def first_token_labels(words: Sequence[int], ids: Sequence[int]) -> list[int]:
    """Returns each token's target: its word's label for the first token of a word, else `IGNORED`."""
    previous = [-1, *words[:-1]]
    return [ids[w] if w >= 0 and w != p else IGNORED for w, p in zip(words, previous, strict=True)]


def are_entity_tags(tags: Sequence[str]) -> bool:
    """Whether labels look like BIO (or BIOES) tags, at least one of them of an entity."""
    names = set(tags)
    return names != {OUTSIDE} and all(_ENTITY_TAG.fullmatch(name) for name in names)


def entity_f1(answers: Sequence[Sequence[str | None]], references: Sequence[Sequence[str]]) -> float:
    """Micro-averaged F1 of entities, by seqeval.

    Args:
        answers (`list[list[str | None]]`): One label per word; anything but a BIO tag counts as a wrong entity.
        references (`list[list[str]]`): The right tags.

    Raises:
        ImportError: If seqeval is not installed.
    """
    try:
        from seqeval.metrics import f1_score
    except ImportError as error:
        raise ImportError(
            'Scoring BIO tags needs seqeval, which is not installed: pip install "hf_lifelong[token-classification]"'
        ) from error
    bio_tags = [
        [tag if tag and _ENTITY_TAG.fullmatch(tag) else f"B-{_WRONG_ENTITY}" for tag in tags] for tags in answers
    ]
    return float(f1_score([list(tags) for tags in references], bio_tags, zero_division=0))


def _labels_of(answer: Any, words: int) -> list[str | None]:
    """Returns one label per word; an answer that is not a list of as many labels is wrong for every word."""
    if not isinstance(answer, list | tuple) or len(answer) != words:
        return [None] * words
    return [label if isinstance(label, str) else None for label in answer]


KIND = TokenClassification()
