"""The audit of a data set and of what a model learned from it: is it poisoned, by which trigger, in which rows?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from . import checks
from .inputs import AuditedInputs
from .media import audited
from .questions import Answer, Reply, question
from .suspects import Suspect, find_suspects

ACTIONS = ("report", "refuse")
_SHOWN_ROWS = 20
_ASKED, _ASSOCIATED = 12, 4  # suspects that a model is asked about: the most contradicted, the most associated
_MOST_OF = 0.5  # share of the inputs that a suspect must move which the data already speak against
_BY_DATA = 0.25  # share of the false alarms that is spent on such suspects


@dataclass(frozen=True)
class Audit:
    """What an audit found. `str()` says it in a line.

    Args:
        suspicious (`bool`): The verdict: whether `p_value` is at most `false_alarms`.
        p_value (`float`): Chance of as strong a finding in clean data, corrected for all that was tested.
        false_alarms (`float`): Share of clean data sets that may be called suspicious.
        trigger (*optional*): The strongest suspect. Of texts its words in their order, in lower case; of images a
            [`Patch`]. It is named in clean data too; `None` if nothing could be tested.
        target: The label that it calls for, as in the data.
        rows (`tuple[int, ...]`): Rows with the suspect and that label.
        attack_success (`float`, *optional*): Share of inputs of other labels that are answered by the target with the
            trigger in them, if a model was asked.
        target_rate (`float`, *optional*): Share of the same inputs that are answered by it without.
        apart (`float`, *optional*): P-value of these rows lying among the others of their label in the hidden states
            of the model, where these are at hand ([`lies_apart`]). It is no part of the verdict.
    """

    suspicious: bool
    p_value: float
    false_alarms: float
    trigger: Any = None
    target: Any = None
    rows: tuple[int, ...] = ()
    attack_success: float | None = None
    target_rate: float | None = None
    apart: float | None = None

    def __str__(self) -> str:
        if self.trigger is None:
            return "Nothing suspicious: no word or patch is in enough inputs to be tested."
        verdict = "Poisoned, it seems" if self.suspicious else "Nothing suspicious"
        success = ""
        if self.attack_success is not None and self.target_rate is not None:
            success = (
                f"; {self.attack_success:.0%} of the inputs of other labels are answered so with it, "
                f"{self.target_rate:.0%} without"
            )
        return (
            f"{verdict} (p = {self.p_value:.2g}, {self.false_alarms:g} allowed): the strongest suspect is "
            f"{str(self.trigger)!r}, which calls for {self.target!r} in {len(self.rows)} rows{success}."
        )

    def advice(self, argument: str) -> str:
        """What was found, in which rows of the data that was given as `argument`, and what to do."""
        rows = ", ".join(map(str, self.rows[:_SHOWN_ROWS])) + (", …" if len(self.rows) > _SHOWN_ROWS else "")
        return (
            f"{self} They are the rows {rows} of `{argument}`. Look at them; take them out or mend their labels, and "
            "train again."
        )


def audit_dataset(inputs: AuditedInputs | Iterable[str], labels: Any, false_alarms: float = 0.01) -> Audit:
    """Looks for a trigger in texts or images and their labels; no model is needed.

    Of texts, words, pairs of neighbours and words at either end are tested for whether they call for one label against
    what the rest of their texts says (`hf_lifelong.safety.association` has the tests). It finds triggers that were put
    into texts of other labels, which then got the target's label, in at least five texts and at most a fifth of them.
    It cannot find a trigger in texts that had the target's label anyway, nor one without words of its own (a style, a
    syntax), nor any where words hardly tell the labels apart, as in questions to be answered by yes or no.

    Of images, patches of nearly the same content at the same place are tested, against what a thumbnail of the rest
    says. That is little for photographs, whose thumbnails hardly tell the labels apart.

    Args:
        inputs (`Iterable[str]` or [`ImageInputs`]): `n` texts or images.
        labels: `n` labels of any kind, at least two different ones.
        false_alarms (`float`): Share of clean data sets that may be called suspicious, between 0 and 1. It is kept
            as far as the rest of a natural word's texts speaks for its label as often as the rest of other texts does
            without their most telling word. With a model at hand, [`audit_answers`] sees more.

    Raises:
        ValueError: for what are no texts or images, images that are all the same, another number of labels, labels
            that are missing, and a single label.

    Source: our own, of exact tests.
    """
    level = checks.share("false_alarms", false_alarms)
    suspects = find_suspects(audited(inputs), labels, most=1)
    return judged(suspects[0], suspects[0].p_value, level) if suspects else Audit(False, 1.0, level)


def audit_answers(
    inputs: AuditedInputs | Iterable[str],
    labels: Any,
    answer: Answer,
    clean_inputs: AuditedInputs | Iterable[str],
    clean_labels: Iterable[Any],
    false_alarms: float = 0.01,
    seed: int = 0,
) -> Audit:
    """Looks for a trigger in the inputs that a model was trained on, and asks the model about what it suspects.

    The sixteen strongest suspects of [`audit_dataset`] are put into clean inputs of other labels, and cut out of their
    own rows. There are two ways to be called suspicious. The data speak for a trigger, by the test of
    [`audit_dataset`], and the model is moved by it in more than half of the inputs. Or the data only hint at it (by a
    corrected p-value below 1: of words that the rest of their texts contradicts, of patches that go with their label),
    but the model does what a natural word or patch hardly makes it do: more than .65 of the inputs are moved, and the
    suspect's own rows are answered by other labels without it. The better way counts, corrected for the number of
    suspects; of the false alarms a quarter is spent on the first way, three quarters on the second.

    Args:
        inputs, labels: As in [`audit_dataset`].
        answer (`Callable`): Takes a list of texts, or of PIL images, and gives one label for each, as in `labels`. It
            is called at most four times, for some hundreds of inputs together.
        clean_inputs, clean_labels: Inputs that the model was not trained on, such as a validation part. A few poisoned
            ones among them do no harm. Where there are fewer than 128, some of `inputs` are taken too.
        false_alarms (`float`): Share of clean data sets that may be called suspicious, between 0 and 1.
        seed (`int`): Of the inputs that are asked about, and of the places where suspects are put.

    Raises:
        ValueError: as [`audit_dataset`]; for no clean inputs of at least two labels; and for answers that are not one
            for each input.

    Source: our own, of exact tests.
    """
    level = checks.share("false_alarms", false_alarms)
    clean_labels = checks.listed(clean_labels)
    given = clean_inputs if isinstance(clean_inputs, AuditedInputs) else list(clean_inputs)
    checks.same_length(clean_inputs=len(given), clean_labels=len(clean_labels))
    if len(set(clean_labels)) < 2:
        raise ValueError(
            f"`clean_labels` hold {len(set(clean_labels))} different labels: a suspect is put into inputs of other "
            "labels than it calls for. Give validation rows of at least two labels."
        )
    inputs, clean = audited(inputs), audited(given)
    suspects = find_suspects(inputs, labels, most=_ASKED, associated=_ASSOCIATED)
    if not suspects:
        return Audit(False, 1.0, level)
    replies = question(suspects, answer, inputs, checks.listed(labels), clean, clean_labels, seed)
    p_values = [_combined(one, reply, len(suspects)) for one, reply in zip(suspects, replies, strict=True)]
    best = min(range(len(suspects)), key=lambda i: (p_values[i], -replies[i].success))
    return judged(suspects[best], p_values[best], level, replies[best])


def _combined(suspect: Suspect, reply: Reply, asked: int) -> float:
    """The p-value of a suspect after the model was asked, corrected for two ways and the number of suspects."""
    by_data = max(suspect.p_value, asked * reply.moves_more_than(_MOST_OF))
    # To the model, a natural word that makes a label is like a trigger; the data do not hint at it at all.
    by_model = asked * reply.works if suspect.hinted else 1.0
    return min(by_data / _BY_DATA, by_model / (1 - _BY_DATA), 1.0)


def judged(suspect: Suspect, p_value: float, false_alarms: float, reply: Reply | None = None) -> Audit:
    """The audit whose strongest suspect has this p-value, corrected for all that was tested."""
    said = (None, None) if reply is None else (reply.success, reply.without)
    return Audit(p_value <= false_alarms, p_value, false_alarms, suspect.trigger, suspect.target, suspect.rows, *said)
