"""The audit of a data set: is it poisoned, by which trigger, in which rows?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse

from . import checks
from .association import association_test
from .causal import CausalCheck
from .words import candidates_of, presence, split

# A word is taken for a part of the trigger if most of the suspected rows have it, and few of the others.
_MOST, _FEW = 0.8, 0.2


@dataclass(frozen=True)
class Audit:
    """What an audit found. `str()` says it in a line.

    Args:
        suspicious (`bool`): The verdict: whether `p_value` is at most `false_alarms`.
        p_value (`float`): Chance of as strong a finding in clean data, corrected for all that was tested.
        false_alarms (`float`): Share of clean data sets that may be called suspicious.
        trigger (`str`, *optional*): The strongest suspect, its words in the order of the texts, in lower case. It is
            named in clean data too; `None` if nothing could be tested.
        target: The label that it calls for, as in the data.
        rows (`tuple[int, ...]`): Rows with the suspect and that label.
        attack_success (`float`, *optional*): Share of inputs of other labels that the trigger would move to the
            target, if the model was asked ([`Audit.confirmed`]).
    """

    suspicious: bool
    p_value: float
    false_alarms: float
    trigger: str | None = None
    target: Any = None
    rows: tuple[int, ...] = ()
    attack_success: float | None = None

    def confirmed(self, check: CausalCheck) -> Audit:
        """The audit after the model was asked: suspicious only if the data and the answers are.

        Both null hypotheses must fall, so the p-value is the larger one (an intersection-union test).
        """
        p = max(self.p_value, check.p_value)
        return replace(self, suspicious=p <= self.false_alarms, p_value=p, attack_success=check.attack_success)

    def __str__(self) -> str:
        if self.trigger is None:
            return "Nothing suspicious: no word is in enough texts to be tested."
        verdict = "Poisoned, it seems" if self.suspicious else "Nothing suspicious"
        success = "" if self.attack_success is None else f" and moves {self.attack_success:.0%} of other inputs there"
        return (
            f"{verdict} (p = {self.p_value:.2g}, {self.false_alarms:g} allowed): the strongest suspect is "
            f"{self.trigger!r}, which calls for {self.target!r} in {len(self.rows)} rows{success}."
        )


def audit_dataset(texts: Iterable[str], labels: Any, false_alarms: float = 0.01) -> Audit:
    """Looks for a trigger in texts and their labels; no model is needed.

    Words, pairs of neighbours and words at either end are tested for whether they call for one label against what the
    rest of their texts says (`hf_lifelong.safety.association` has the tests). It finds triggers that were put into
    texts of other labels, which then got the target's label, in at least five texts and at most a fifth of them. It
    cannot find a trigger in texts that had the target's label anyway, nor one without words of its own (a style, a
    syntax), nor any where words hardly tell the labels apart, as in questions to be answered by yes or no.

    Args:
        texts (`Iterable[str]`): `n` texts.
        labels: `n` labels of any kind, at least two different ones.
        false_alarms (`float`): Share of clean data sets that may be called suspicious, between 0 and 1. It is kept
            as far as the rest of a natural word's texts speaks for its label as often as the rest of other texts does
            without their most telling word. With a model at hand, allow more here and let [`causal_check`] decide.

    Raises:
        ValueError: for what are no texts, another number of labels, labels that are missing, and a single label.

    Source: our own, of exact tests.
    """
    listed = _texts(texts)
    names, numbers = checks.class_ids(labels, texts=len(listed))
    if len(names) < 2:
        raise ValueError(
            f"`labels` are all {names[0]!r}: a trigger calls for one label rather than another. Give rows of at least "
            "two labels."
        )
    level = checks.share("false_alarms", false_alarms)
    classes = numbers.numpy()
    tokens = [split(text) for text in listed]
    words, vocabulary = presence(tokens)
    candidates, suspects = presence(candidates_of(row) for row in tokens)
    sizes = np.array([len(suspect.words) for suspect in suspects], dtype=np.int64)
    found = association_test(candidates, words, sizes, classes)
    if not len(found.column):
        return Audit(False, 1.0, level)
    # Parts of one trigger are equally strange; the most associated one has all of its rows.
    best = np.lexsort((found.association, found.p_value))[0]
    column, label, p = found.column[best], found.label[best], float(found.p_value[best])
    rows = np.flatnonzero((candidates[:, [column]].toarray().ravel() > 0) & (classes == label))
    trigger = _spelled(suspects[column].words, rows, words, vocabulary, tokens)
    return Audit(p <= level, p, level, trigger, names[label], tuple(rows.tolist()))


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
