"""Inputs that arrive without a task, as the model takes them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ..utils.texts import without_panics
from .forms import InputForm
from .head import HeadKind
from .inputs import check_unicode
from .modality import TEXT, Modality
from .register import get_kind, head_kind, kinds_on


def kinds_by_form(modality: Modality = TEXT) -> dict[InputForm, tuple[str, ...]]:
    """The forms of input that heads answer on bases of a modality, each with the kinds of task that do."""
    kinds: dict[InputForm, tuple[str, ...]] = {}
    for name in kinds_on(HeadKind.task_type, modality.name):
        for form in head_kind(name).forms:
            kinds[form] = (*kinds.get(form, ()), name)
    return kinds


def answer_columns(kinds: Iterable[str]) -> set[str]:
    """The names of columns that hold the answer in data of these kinds of task, such as `label`."""
    found = set()
    for kind in map(get_kind, kinds):
        *_, answer = kind.columns
        found |= {kind.columns[answer], *kind.aliases.get(answer, ())}
    return found


@without_panics()
def encode_inputs(
    inputs: Sequence[Any],
    tokenizer: Any,
    max_length: int,
    stride: int,
    start: int = 0,
    modality: Modality = TEXT,
) -> tuple[dict[str, list[Any]], list[Any]]:
    """Tokenises inputs that arrive without a task, whatever their forms. Images stay as they are.

    An input gets the same `input_ids` as it would as a row of a task's data set.

    Args:
        inputs (`list` of length E): Strings, `{"text": ..., "text_pair": ...}` (`text_pair` may be left out),
            `{"question": ..., "context": ...}`, `{"tokens": [...]}`, or any form that a registered kind answers, in
            any mixture. A row of labelled data may keep its answer (`label`, `answers`, …), which is not looked at.
        tokenizer: The backbone's tokenizer, or its image processor.
        max_length (`int`): Longest feature, in tokens, special tokens included.
        stride (`int`): Tokens of context that neighbouring windows share.
        start (`int`): Position of the first input, for the error message.
        modality ([`~objectives.modality.Modality`]): What the base takes.

    Returns:
        `tuple[dict[str, list], list]`: The columns of F features in the order of their inputs, and what each of the E
        inputs' answers is cut from. The columns are the tokenizer's model inputs (unpadded), `example` (the input),
        `kinds` (those that answer its form) and the `extras` of all kinds, `[]` where they do not apply.

    Raises:
        ValueError: If an input has none of the forms; the message names its index.
    """
    kinds = kinds_by_form(modality)
    answers = answer_columns(name for names in kinds.values() for name in names)
    fitted = [_fitted(entry, start + i, kinds, answers) for i, entry in enumerate(inputs)]
    forms, inputs = [form for form, _ in fitted], [entry for _, entry in fitted]
    extras = dict.fromkeys(extra for names in kinds.values() for n in names for extra in head_kind(n).extras)
    features: list[dict[str, Any]] = []
    for form in dict.fromkeys(forms):
        rows = [i for i, other in enumerate(forms) if other is form]
        encoded = form.encode([inputs[i] for i in rows], tokenizer, max_length, stride)
        positions = encoded.pop("example", range(len(encoded[modality.inputs[0]])))
        for position, *values in zip(positions, *encoded.values(), strict=True):
            feature = dict(zip(encoded, values, strict=True))
            features.append({**feature, "example": rows[position], "kinds": kinds[form]})
    features.sort(key=lambda feature: feature["example"])
    model_inputs = [name for name in modality.inputs if name in tokenizer.model_input_names]
    names = dict.fromkeys([*model_inputs, "example", "kinds", *extras])
    table = {name: [feature.get(name, []) for feature in features] for name in names}
    return table, [form.source(entry) for form, entry in zip(forms, inputs, strict=True)]


def _fitted(entry: Any, index: int, forms: Mapping[InputForm, Any], answers: Collection[str]) -> tuple[InputForm, Any]:
    """The form of an input, and the input in it: a row of labelled data without its answer."""
    check_unicode(entry, index)
    asked = entry
    if isinstance(entry, Mapping):
        asked = {name: value for name, value in entry.items() if name not in answers}
    for given in (entry, asked):
        for form in forms:
            if form.fits(given):
                return form, given
    *words, last = [form.words for form in forms]
    known = f"{', '.join(words)} or {last}" if words else last
    raise ValueError(f"inputs[{index}] is {entry!r:.200}, which is no known form of input; give {known}.")
