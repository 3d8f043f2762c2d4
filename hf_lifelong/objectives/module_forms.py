"""Answers in the forms that modules of the `evaluate` library take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import starmap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Features

Forms = tuple[list[Any], list[Any]]


def label_forms(
    options: Sequence[Features], answers: Sequence[Any], references: Sequence[str], labels: Sequence[str]
) -> Forms:
    """Label ids where the module takes numbers, else names. An answer that is none of the labels, because another
    group gave it, becomes the label after the right one: it is wrong, and adds no class that a mean would count."""
    index = {label: i for i, label in enumerate(labels)}

    def wrong(gold: str) -> str:
        return labels[(index[gold] + 1) % len(labels)]

    predictions = [
        answer if isinstance(answer, str) and answer in index else wrong(gold)
        for answer, gold in zip(answers, references, strict=True)
    ]
    if _takes_ids(options[0]["predictions"]):
        return [index[answer] for answer in predictions], [index[gold] for gold in references]
    return predictions, list(references)


def tag_forms(
    options: Sequence[Features], answers: Sequence[Any], references: Sequence[Sequence[str]], labels: Sequence[str]
) -> Forms:
    """`label_forms` for the words of every row; an answer without a tag for each word is wrong for all of them."""

    def row(answer: Any, gold: Sequence[str]) -> Forms:
        fits = isinstance(answer, list) and len(answer) == len(gold)
        return label_forms(options, answer if fits else [None] * len(gold), gold, labels)

    rows = list(starmap(row, zip(answers, references, strict=True)))
    return [predictions for predictions, _ in rows], [gold for _, gold in rows]


def squad_forms(options: Sequence[Features], answers: Sequence[Any], references: Sequence[Mapping[str, Any]]) -> Forms:
    """The layout of `squad` and, for modules that ask for `no_answer_probability`, of `squad_v2`."""
    form = options[0]["predictions"]
    unsure = {"no_answer_probability": 0.0} if isinstance(form, Mapping) and "no_answer_probability" in form else {}
    texts = [answer if isinstance(answer, str) else "" for answer in answers]
    predictions = [{"id": str(row), "prediction_text": text, **unsure} for row, text in enumerate(texts)]
    return predictions, [{"id": str(row), "answers": dict(gold)} for row, gold in enumerate(references)]


def text_forms(options: Sequence[Features], answers: Sequence[Any], references: Sequence[Mapping[str, Any]]) -> Forms:
    """Texts; all right answers where the module takes lists of references, else the first."""
    golds = [list(gold["text"]) or [""] for gold in references]
    texts = [answer if isinstance(answer, str) else "" for answer in answers]
    takes_lists = any(_is_list(option["references"]) for option in options)
    return texts, golds if takes_lists else [gold[0] for gold in golds]


def _is_list(feature: Any) -> bool:
    return isinstance(feature, list) or hasattr(feature, "feature")


def _takes_ids(feature: Any) -> bool:
    """Whether labels are given as numbers."""
    while _is_list(feature):
        feature = feature[0] if isinstance(feature, list) else feature.feature
    return getattr(feature, "dtype", "string") not in ("string", "large_string")
