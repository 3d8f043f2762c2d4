"""What a model that was trained on the inputs makes of suspects: it is asked with and without them.

A trigger that works moves nearly all inputs that it is put into, and what is left of its own rows when it is cut out
speaks for other labels. A natural word, or a natural patch of an image, moves fewer, or its rows keep their label
without it, or both. All suspects are asked about a few inputs first, and only those that move most of them about all:
most of what is natural moves few.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from scipy.stats import binom, hypergeom

from .inputs import AuditedInputs
from .suspects import Suspect

Answer = Callable[[list[Any]], Sequence[Any]]

_CLEAN, _FEW = 192, 128  # clean inputs at most; fewer than these are filled up with rows that it was trained on
_FIRST = 8  # of them for each suspect at first
_LEAST_MOVED = 0.5  # share of those from which on a suspect is asked about further
_KEPT = 3  # suspects that are, at most
_CUT, _BESIDE = 32, 64  # rows that a suspect is cut out of, and other rows of its label, at most
_WORTH = 0.05  # p-value of moving that many up to which cutting the suspect out can change the verdict
_NATURAL = 0.65  # share of answers that a natural word or patch may move


@dataclass(frozen=True)
class Reply:
    """What the model said of a suspect.

    Args:
        moved, free (`int`): Clean inputs that it moves to its target, of those that are not answered by it anyway.
        success (`float`): Share of the clean inputs of other labels that are answered by the target with it.
        without (`float`): Share of the clean inputs of other labels that are answered by the target as they are.
        left, cut (`int`): Rows of the suspect that are not answered by its target without it, of those asked about,
            which have enough words beside it: the sentence of a template is all of its texts.
        other_left, others (`int`): The same of other rows of the label, as they are.
    """

    moved: int
    free: int
    success: float
    without: float
    left: int = 0
    cut: int = 0
    other_left: int = 0
    others: int = 0

    def moves_more_than(self, natural: float) -> float:
        """P-value of something natural that moves at most a share `natural` of the answers moving this many."""
        return float(binom.sf(self.moved - 1, self.free, natural))

    @property
    def works(self) -> float:
        """P-value of something natural: it moves at most .65 of the answers, or without it its rows are answered by
        its label like other rows of the label."""
        hits = self.left + self.other_left
        rest = float(hypergeom.sf(self.left - 1, self.cut + self.others, hits, self.cut)) if self.cut else 1.0
        return max(self.moves_more_than(_NATURAL), rest)


def question(
    suspects: Sequence[Suspect],
    answer: Answer,
    inputs: AuditedInputs,
    labels: Sequence[Any],
    clean_inputs: AuditedInputs,
    clean_labels: Sequence[Any],
    seed: int,
) -> list[Reply]:
    """Asks a model about suspects, in four calls.

    Args:
        suspects (`list[Suspect]`): Those of `inputs` and `labels`.
        answer (`Callable`): Takes a list of inputs and gives one label for each.
        inputs, labels: What the model was trained on.
        clean_inputs, clean_labels: Others.
        seed (`int`): Of the inputs that are asked about, and of the places where suspects are put.

    Returns:
        `list[Reply]`: One for each suspect.
    """
    draw = np.random.default_rng(seed)
    rows = [draw.permutation(len(clean_labels))[:_CLEAN], draw.permutation(len(labels))]
    rows[1] = rows[1][: max(_FEW - len(rows[0]), 0)]
    clean = [*(clean_inputs[i] for i in rows[0]), *(inputs[i] for i in rows[1])]
    golds = np.concatenate([_objects(clean_labels)[rows[0]], _objects(labels)[rows[1]]])
    places = draw.random(len(clean))
    (before,) = _ask(answer, [clean])
    chosen = [_free_first(golds != suspect.target, before != suspect.target) for suspect in suspects]

    def put_into(numbers: Sequence[int], part: slice) -> list[np.ndarray]:
        """Which of its inputs each of these suspects brings to its target."""
        lists = [
            [inputs.inserted(clean[j], suspects[i].trigger, places[j]) for j in chosen[i][0][part]] for i in numbers
        ]
        said = _ask(answer, lists)
        return [found == suspects[i].target for i, found in zip(numbers, said, strict=True)]

    hits = put_into(range(len(suspects)), slice(_FIRST))
    shares = np.array([found.mean() if len(found) else 0.0 for found in hits])
    kept = [i for i in np.argsort(-shares, kind="stable")[:_KEPT].tolist() if shares[i] >= _LEAST_MOVED]
    for i, further in zip(kept, put_into(kept, slice(_FIRST, None)), strict=True):
        hits[i] = np.concatenate([hits[i], further])
    replies = [_reply(found, *of_suspect) for found, of_suspect in zip(hits, chosen, strict=True)]
    kept = [i for i in kept if replies[i].moves_more_than(_NATURAL) <= _WORTH]
    cut = _cut_out([suspects[i] for i in kept], answer, inputs, _objects(labels), draw)
    for i, (left, other_left) in zip(kept, cut, strict=True):
        sizes = {
            "left": int(left.sum()),
            "cut": len(left),
            "other_left": int(other_left.sum()),
            "others": len(other_left),
        }
        replies[i] = replace(replies[i], **sizes)
    return replies


def _free_first(others: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, int]:
    """The inputs of other labels than a target, those first that are not answered by it, and the number of these."""
    return np.concatenate([np.flatnonzero(others & free), np.flatnonzero(others & ~free)]), int((others & free).sum())


def _cut_out(
    suspects: Sequence[Suspect], answer: Answer, inputs: AuditedInputs, labels: np.ndarray, draw: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each suspect, which of its rows leave their label when it is cut out, and which of some other rows of the
    label are not answered by it as they are."""
    of_label = [draw.permutation(np.flatnonzero(labels == one.target)) for one in suspects]
    others = [rows[~np.isin(rows, one.rows)][:_BESIDE] for one, rows in zip(suspects, of_label, strict=True)]
    cut = [_without(one, inputs) for one in suspects]
    said = _ask(answer, [*cut, *([inputs[j] for j in rows] for rows in others)])
    left = [found != one.target for found, one in zip(said, [*suspects, *suspects], strict=True)]
    return list(zip(left[: len(suspects)], left[len(suspects) :], strict=True))


def _without(suspect: Suspect, inputs: AuditedInputs) -> list[Any]:
    """Rows of the suspect without it, the first of those of which enough is left."""
    cut = (inputs.without(row, suspect.trigger) for row in suspect.rows)
    return list(islice((rest for rest in cut if rest is not None), _CUT))


def _reply(hits: np.ndarray, inputs: np.ndarray, free: int) -> Reply:
    return Reply(
        moved=int(hits[:free].sum()),
        free=min(free, len(hits)),
        success=float(hits.mean()) if len(hits) else 0.0,
        without=(len(inputs) - free) / max(len(inputs), 1),
    )


def _ask(answer: Answer, lists: Sequence[Sequence[Any]]) -> list[np.ndarray]:
    """The answers to several lists of inputs, in one call."""
    inputs = [given for of_list in lists for given in of_list]
    if not inputs:
        return [_objects([]) for _ in lists]
    return np.split(answers_of(answer, inputs), np.cumsum([len(of_list) for of_list in lists])[:-1])


def answers_of(answer: Answer, inputs: list[Any]) -> np.ndarray:
    """One answer of a model for each input, object `[n]` (`ValueError` for another number)."""
    found = answer(inputs)
    listed = found.tolist() if hasattr(found, "tolist") else list(found)
    if len(listed) != len(inputs):
        raise ValueError(
            f"`answer` gave {len(listed)} answers to {len(inputs)} inputs; it must give one label for each."
        )
    return _objects(listed)


def _objects(values: Sequence[Any]) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = list(values)
    return array
