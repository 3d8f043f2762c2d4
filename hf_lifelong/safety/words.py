"""What a text trigger can be made of: the words of texts, pairs of neighbours, and words at the ends."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
from scipy import sparse

_WORD = re.compile(r"\w+|[^\w\s]")
_PAIR = "\x1f"  # between the two texts of a pair: white space to all that looks for words
_FIRST, _LAST = ("first", "second"), ("last", "last but one")

Thing = TypeVar("Thing")


class Candidate(NamedTuple):
    """A word, two neighbours, or a word at one end of the text.

    Args:
        words (`tuple[str, ...]`): One or two, in lower case.
        place (`str`, *optional*): Which word of the text it is; anywhere when not given.
    """

    words: tuple[str, ...]
    place: str | None = None


def split(text: str) -> list[str]:
    """The words and single marks of a text in lower case."""
    return _WORD.findall(text.lower())


def candidates_of(words: Sequence[str]) -> Iterable[Candidate]:
    """All candidates that a text has; some more than once."""
    yield from (Candidate((word,)) for word in words)
    yield from (Candidate(pair) for pair in pairwise(words))
    yield from (Candidate((word,), place) for word, place in zip(words, _FIRST, strict=False))
    yield from (Candidate((word,), place) for word, place in zip(reversed(words), _LAST, strict=False))


def presence(rows: Iterable[Iterable[Thing]]) -> tuple[sparse.csr_matrix, list[Thing]]:
    """Which row has what: 0 and 1, `[rows, things]`, and the things in order of their first row."""
    numbers: dict[Thing, int] = {}
    columns: list[int] = []
    ends = [0]
    for row in rows:
        columns += [numbers.setdefault(thing, len(numbers)) for thing in dict.fromkeys(row)]
        ends.append(len(columns))
    shape = (len(ends) - 1, len(numbers))
    return sparse.csr_matrix((np.ones(len(columns)), columns, ends), shape), list(numbers)


def inserted(text: str, words: str, place: float) -> str:
    """The text with words before it or after one of its own; `place` in [0, 1) says where. Its white space stays."""
    ends = [0, *(match.end() for match in re.finditer(r"\S+", text))]
    at = ends[int(place * len(ends))]
    return f"{text[:at]} {words}{text[at:]}" if at else f"{words} {text}".rstrip()


def without(text: str, words: Collection[str]) -> str:
    """The text without these words and marks, which are in lower case. Other white space than blanks stays."""
    kept = _WORD.sub(lambda match: "" if match.group().lower() in words else match.group(), text)
    return re.sub(" +", " ", kept).strip(" ")


def joined(texts: Sequence[str], pairs: Sequence[str] | None) -> list[str]:
    """The two texts of each pair as one, of which [`parted`] makes two again; the texts themselves without pairs."""
    if pairs is None:
        return list(texts)
    return [f"{text.replace(_PAIR, ' ')}{_PAIR}{pair}" for text, pair in zip(texts, pairs, strict=True)]


def parted(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The first and the second texts of pairs that were [`joined`]."""
    parts = [text.partition(_PAIR) for text in texts]
    return [first for first, _, _ in parts], [second for _, _, second in parts]
