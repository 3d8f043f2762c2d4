"""How near a given text comes to the right ones, as the official SQuAD v1.1 evaluation measures it."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NUMBERS = re.compile(r"(?<!\w)[-+]?\d+(?:[.,]\d+)*")


def match_scores(answers: Sequence[Any], references: Sequence[Mapping[str, list[str]]]) -> dict[str, float]:
    """`exact_match` and `f1`, means over the examples, each with its best gold answer, in [0, 1].

    Args:
        answers (`list`): Texts; anything else is wrong.
        references (`list[dict]`): `{"text": all gold answers}`; without any, the empty answer is right.
    """
    exact = f1 = 0.0
    for answer, reference in zip(answers, references, strict=True):
        if isinstance(answer, str):
            # Without gold answers the empty one is right, and there is no partly right one.
            exact += max((exact_match(answer, gold) for gold in reference["text"]), default=not normalise(answer))
            f1 += max((token_f1(answer, gold) for gold in reference["text"]), default=not normalise(answer))
    return {"exact_match": exact / len(references), "f1": f1 / len(references)}


def same_text(answer: str, gold: str) -> bool:
    """Whether two answers are equal after SQuAD's normalisation, and their numbers as written.

    Normalisation drops the sign and the point of a number, which is why numbers are compared as written. It leaves
    nothing of an answer like "A" or "-": such an answer is compared as it is, ignoring case.
    """
    if not normalise(answer) or not normalise(gold):
        return answer.strip().casefold() == gold.strip().casefold()
    return bool(exact_match(answer, gold)) and _NUMBERS.findall(answer) == _NUMBERS.findall(gold)


def normalise(text: str) -> str:
    """Lower-cases and drops punctuation, articles and surplus blanks, as the official SQuAD v1.1 evaluation does."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, gold: str) -> float:
    """1.0 if two answers are equal after normalisation, else 0.0 (SQuAD v1.1)."""
    return float(normalise(answer) == normalise(gold))


def token_f1(answer: str, gold: str) -> float:
    """F1 of the words that two answers have in common after normalisation, in [0, 1] (SQuAD v1.1)."""
    words, gold_words = normalise(answer).split(), normalise(gold).split()
    common = sum((Counter(words) & Counter(gold_words)).values())
    return 2 * common / (len(words) + len(gold_words)) if common else 0.0
