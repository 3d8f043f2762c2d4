"""Suspects: what in the texts of a data set could be a trigger, the most suspicious first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from . import checks
from .association import association_test
from .words import candidates_of, presence, split

# A word is taken for a part of the trigger if most of the suspected rows have it, and few of the others.
_MOST, _FEW = 0.8, 0.2


@dataclass(frozen=True)
class Suspect:
    """Words that may be a trigger.

    Args:
        trigger (`str`): The words in the order of the texts, in lower case.
        target: The label that they call for, as in the data.
        rows (`tuple[int, ...]`): Rows with them and that label.
        p_value (`float`): Of the association, corrected for all that was tested.
    """

    trigger: str
    target: Any
    rows: tuple[int, ...]
    p_value: float


def find_suspects(texts: Iterable[str], labels: Any, most: int, associated: int = 0) -> list[Suspect]:
    """The suspects of a data set, the strongest first; none of them need be a trigger.

    Args:
        texts (`Iterable[str]`): `n` texts.
        labels: `n` labels of any kind, at least two different ones.
        most (`int`): How many at most, of those that the rest of their texts contradicts most.
        associated (`int`): How many more at most, of those that go most with their label: where words hardly tell the
            labels apart, nothing is contradicted.

    Raises:
        ValueError: for what are no texts, another number of labels, labels that are missing, and a single label.
    """
    listed = _texts(texts)
    names, numbers = checks.class_ids(labels, texts=len(listed))
    if len(names) < 2:
        raise ValueError(
            f"`labels` are all {names[0]!r}: a trigger calls for one label rather than another. Give rows of at least "
            "two labels."
        )
    classes = numbers.numpy()
    tokens = [split(text) for text in listed]
    words, vocabulary = presence(tokens)
    candidates, things = presence(candidates_of(row) for row in tokens)
    sizes = np.array([len(thing.words) for thing in things], dtype=np.int64)
    found = association_test(candidates, words, sizes, classes)
    suspects: dict[tuple[str, int], Suspect] = {}
    # Parts of one trigger are equally strange; the most associated one has all of its rows.
    rankings = (
        (np.lexsort((found.association, found.contradiction)), most),
        (np.argsort(found.association), associated),
    )
    for ranking, count in rankings:
        full = len(suspects) + count
        for i in ranking.tolist():
            if len(suspects) == full:
                break
            column, label = found.column[i], found.label[i]
            rows = np.flatnonzero((candidates[:, [column]].toarray().ravel() > 0) & (classes == label))
            trigger = _spelled(things[column].words, rows, words, vocabulary, tokens)
            p = min(float(found.contradiction[i]) * len(found.column), 1.0)
            suspects.setdefault((trigger, label), Suspect(trigger, names[label], tuple(rows.tolist()), p))
    return list(suspects.values())


def _texts(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise ValueError("`texts` must be a list of texts, one for each label, not a single text.")
    listed = list(texts)
    if not listed:
        raise ValueError("`texts` must be a list of texts, one for each label, but it is empty.")
    wrong = [row for row, text in enumerate(listed) if not isinstance(text, str)]
    if wrong:
        raise ValueError(f"`texts` must be a list of texts, but row {wrong[0]} is {listed[wrong[0]]!r:.40}.")
    return listed


def _spelled(
    suspect: Sequence[str], rows: np.ndarray, words: sparse.csr_matrix, vocabulary: list[str], tokens: list[list[str]]
) -> str:
    """The trigger that a suspect is part of: all words that most of its rows have, and few others, in their order."""
    inside = np.asarray(words[rows].sum(0)).ravel()
    outside = np.asarray(words.sum(0)).ravel() - inside
    typical = (inside >= _MOST * len(rows)) & (outside <= _FEW * (len(tokens) - len(rows)))
    parts = {*suspect, *(vocabulary[word] for word in np.flatnonzero(typical))}
    row = next((tokens[row] for row in rows if parts <= set(tokens[row])), list(suspect))
    return " ".join(dict.fromkeys(word for word in row if word in parts))
