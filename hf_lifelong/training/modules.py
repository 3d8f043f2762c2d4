"""A task's own metric as a module of the `evaluate` library: what it is given, and what of its result is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import starmap
from numbers import Real
from typing import Any

import evaluate
from datasets import Features

from .tasks import MODULES, Task


def with_module(
    scores: dict[str, float],
    task: Task,
    labels: Sequence[str],
    answers: Sequence[Any],
    references: Sequence[Any],
) -> dict[str, float]:
    """A task's scores, and beside them those of its module, if it has one. Where a name is taken, the module's own
    name comes in front, as `evaluate.combine` does it.

    Args:
        scores (`dict[str, float]`): What the task's objective gave.
        task (`Task`): The task.
        labels (`list[str]`): Its label names.
        answers (`list` of length E): As its objective's `score` takes them.
        references (`list` of length E): As its objective's `references` gives them.

    Raises:
        ValueError: when the module fails, or gives no dict; names the task.
    """
    module = task.compute_metrics
    if not isinstance(module, MODULES):
        return scores
    try:
        predictions, right = FORMS[task.kind](_options(module), answers, references, labels)
        results = module.compute(predictions=predictions, references=right)
    # A module is code of anybody, and may fail in any way.
    except Exception as error:
        raise ValueError(
            f"`compute_metrics` of task `{task.name}` failed on the answers of a {task.kind} task: {error!r}. "
            "Give a module that takes their form, or a function as `Trainer` takes it."
        ) from error
    if not isinstance(results, Mapping):
        raise ValueError(
            f"`compute_metrics` of task `{task.name}` gave {results!r:.60} and no dict; a module must give its "
            "numbers by name, and in every process (`num_process=1`), because each has all answers."
        )
    numbers = {str(key): float(value) for key, value in results.items() if _is_number(value)}
    prefix = getattr(module, "name", "combined")
    return {**scores, **{f"{prefix}_{key}" if key in scores else key: value for key, value in numbers.items()}}


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _options(module: Any) -> list[Features]:
    """The forms of inputs that a module takes; of several, those of the first: all are given the same."""
    first = module.evaluation_modules[0] if isinstance(module, evaluate.CombinedEvaluations) else module
    return list(first.features) if isinstance(first.features, list) else [first.features]


def _is_list(feature: Any) -> bool:
    return isinstance(feature, list) or hasattr(feature, "feature")


def _takes_ids(feature: Any) -> bool:
    """Whether labels are given as numbers."""
    while _is_list(feature):
        feature = feature[0] if isinstance(feature, list) else feature.feature
    return getattr(feature, "dtype", "string") not in ("string", "large_string")


def _label_forms(
    options: list[Features], answers: Sequence[Any], references: Sequence[str], labels: Sequence[str]
) -> tuple[list[Any], list[Any]]:
    """Label ids where the module takes numbers, else names. An answer that is none of the labels, because another
    group gave it, becomes the label after the right one: it is wrong, and adds no class that a mean would count."""
    index = {label: i for i, label in enumerate(labels)}

    def wrong(gold: str) -> str:
        return labels[(index[gold] + 1) % len(labels)]

    given = [
        answer if isinstance(answer, str) and answer in index else wrong(gold)
        for answer, gold in zip(answers, references, strict=True)
    ]
    if _takes_ids(options[0]["predictions"]):
        return [index[answer] for answer in given], [index[gold] for gold in references]
    return given, list(references)


def _tag_forms(
    options: list[Features], answers: Sequence[Any], references: Sequence[Sequence[str]], labels: Sequence[str]
) -> tuple[list[Any], list[Any]]:
    """`_label_forms` for the words of every row; an answer without a tag for each word is wrong for all of them."""

    def row(answer: Any, gold: Sequence[str]) -> tuple[list[Any], list[Any]]:
        fits = isinstance(answer, list) and len(answer) == len(gold)
        return _label_forms(options, answer if fits else [None] * len(gold), gold, labels)

    rows = list(starmap(row, zip(answers, references, strict=True)))
    return [given for given, _ in rows], [gold for _, gold in rows]


def _squad_forms(
    options: list[Features], answers: Sequence[Any], references: Sequence[Mapping[str, Any]], labels: Sequence[str]
) -> tuple[list[Any], list[Any]]:
    """The layout of `squad` and, for modules that ask for `no_answer_probability`, of `squad_v2`."""
    form = options[0]["predictions"]
    unsure = {"no_answer_probability": 0.0} if isinstance(form, Mapping) and "no_answer_probability" in form else {}
    texts = [answer if isinstance(answer, str) else "" for answer in answers]
    given = [{"id": str(row), "prediction_text": text, **unsure} for row, text in enumerate(texts)]
    return given, [{"id": str(row), "answers": dict(gold)} for row, gold in enumerate(references)]


def _text_forms(
    options: list[Features], answers: Sequence[Any], references: Sequence[Mapping[str, Any]], labels: Sequence[str]
) -> tuple[list[Any], list[Any]]:
    """Texts; all right answers where the module takes lists of references, else the first."""
    golds = [list(gold["text"]) or [""] for gold in references]
    texts = [answer if isinstance(answer, str) else "" for answer in answers]
    takes_lists = any(_is_list(option["references"]) for option in options)
    return texts, golds if takes_lists else [gold[0] for gold in golds]


FORMS: dict[str, Callable[..., tuple[list[Any], list[Any]]]] = {
    "text-classification": _label_forms,
    "token-classification": _tag_forms,
    "question-answering": _squad_forms,
    "text-generation": _text_forms,
}
