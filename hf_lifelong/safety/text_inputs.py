"""Texts as an audit sees them: a trigger is made of words."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .association import Tested, association_test
from .inputs import AuditedInputs
from .words import candidates_of, inserted, joined, parted, presence, split, without

# A word is taken for a part of the trigger if most of the suspected rows have it, and few of the others.
_MOST, _FEW = 0.8, 0.2
_LEFT = 0.5  # share of its words that a row must keep to say anything when the suspect is cut out


class TextInputs(AuditedInputs):
    """Texts. A trigger is a string of words in the order of the texts, in lower case.

    Args:
        texts (`Iterable[str]`): `n` texts.
        paired (`bool`): Whether they are pairs that were [`~words.joined`].

    Raises:
        ValueError: for what are no texts, and for none.
    """

    roles = ("text", "text_pair")
    mark = ""

    def __init__(self, texts: Iterable[str], paired: bool = False) -> None:
        self.texts, self.paired = _texts(texts), paired

    @classmethod
    def of_columns(cls, columns: Mapping[str, Sequence[Any]]) -> TextInputs:
        return cls(joined(columns["text"], columns.get("text_pair")), "text_pair" in columns)

    def as_columns(self, inputs: Sequence[str]) -> dict[str, list[Any]]:
        if not self.paired:
            return {"text": list(inputs)}
        return dict(zip(("text", "text_pair"), parted(inputs), strict=True))

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, row: int) -> str:
        return self.texts[row]

    def tested(self, classes: np.ndarray) -> Tested:
        self._tokens = [split(text) for text in self.texts]
        self._words, self._vocabulary = presence(self._tokens)
        self._candidates, self._things = presence(candidates_of(row) for row in self._tokens)
        sizes = np.array([len(thing.words) for thing in self._things], dtype=np.int64)
        return association_test(self._candidates, self._words, sizes, classes)

    def holding(self, column: int) -> np.ndarray:
        return np.flatnonzero(self._candidates[:, [column]].toarray().ravel() > 0)

    def trigger(self, column: int, rows: np.ndarray) -> Hashable:
        """All words that most of its rows have, and few others, in their order."""
        suspect = self._things[column].words
        inside = np.asarray(self._words[rows].sum(0)).ravel()
        outside = np.asarray(self._words.sum(0)).ravel() - inside
        typical = (inside >= _MOST * len(rows)) & (outside <= _FEW * (len(self) - len(rows)))
        parts = {*suspect, *(self._vocabulary[word] for word in np.flatnonzero(typical))}
        row = next((self._tokens[row] for row in rows if parts <= set(self._tokens[row])), list(suspect))
        return " ".join(dict.fromkeys(word for word in row if word in parts))

    def inserted(self, given: str, trigger: str, place: float) -> str:
        return inserted(given, trigger, place)

    def without(self, row: int, trigger: str) -> str | None:
        rest = without(self.texts[row], set(split(trigger)))
        return rest if len(split(rest)) >= _LEFT * len(split(self.texts[row])) else None

    @classmethod
    def read(cls, text: str) -> str:
        return text


def _texts(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise ValueError("`inputs` must be a list of texts, one for each label, not a single text.")
    listed = list(texts)
    if not listed:
        raise ValueError("`inputs` must be a list of texts, one for each label, but it is empty.")
    wrong = [row for row, text in enumerate(listed) if not isinstance(text, str)]
    if wrong:
        raise ValueError(f"`inputs` must be a list of texts, but row {wrong[0]} is {listed[wrong[0]]!r:.40}.")
    return listed
