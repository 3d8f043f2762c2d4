"""The causal check: what a suspected trigger does to a model's answers when it is put into clean inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binom

from . import checks
from .questions import answers_of
from .words import inserted


@dataclass(frozen=True)
class CausalCheck:
    """What putting a suspect into clean inputs of other labels did.

    Args:
        attack_success (`float`): Share of the inputs that are answered by the target with the suspect in them.
        target_rate (`float`): Share of them that are answered by it without.
        rows (`int`): Number of the inputs.
        p_value (`float`): Chance that a natural word would move as many.
    """

    attack_success: float
    target_rate: float
    rows: int
    p_value: float


def causal_check(
    answer: Callable[[list[str]], Sequence[Any]],
    trigger: str,
    texts: Iterable[str],
    labels: Iterable[Any],
    target: Any,
    natural: float = 0.5,
    seed: int = 0,
) -> CausalCheck:
    """Puts a suspected trigger into clean inputs of other labels, each at a random place, and asks the model.

    A natural word moves few answers, a trigger that works moves nearly all. The test is the exact binomial one among
    the inputs that are not answered by the target anyway: are more than a share `natural` of them moved to it?

    Args:
        answer (`Callable`): Takes a list of texts and gives one label for each. It is called twice.
        trigger (`str`): Words to put in, such as [`Audit`]'s `trigger`.
        texts (`Iterable[str]`): Clean texts, such as a validation part.
        labels: One for each text; rows of the target are left out.
        target: The label that the trigger is said to call for.
        natural (`float`): The largest share of answers that a natural word may move, between 0 and 1. Of the words
            of movie reviews the strongest move .42.
        seed (`int`): Of the places.

    Raises:
        ValueError: for no rows of another label, none that is not answered by the target anyway, a trigger without
            words, and answers that are not one for each text.
    """
    checks.trigger(trigger)
    texts, labels = list(texts), list(labels)
    checks.same_length(texts=len(texts), labels=len(labels))
    clean = [text for text, label in zip(texts, labels, strict=True) if label != target]
    if not clean:
        raise ValueError(
            f"There are no validation rows of another label than {target!r} to put the trigger into. Give some."
        )
    share = checks.share("natural", natural)
    places = np.random.default_rng(seed).random(len(clean))
    before = answers_of(answer, clean) == target
    after = (
        answers_of(answer, [inserted(text, trigger, place) for text, place in zip(clean, places, strict=True)])
        == target
    )
    free = int((~before).sum())
    if not free:
        raise ValueError(
            f"All {len(clean)} clean rows of other labels are answered by {target!r} without the trigger: the model "
            "knows no other answer, and nothing is left to move."
        )
    moved = int((after & ~before).sum())
    return CausalCheck(
        attack_success=float(after.mean()),
        target_rate=float(before.mean()),
        rows=len(clean),
        p_value=float(binom.sf(moved - 1, free, share)),
    )
