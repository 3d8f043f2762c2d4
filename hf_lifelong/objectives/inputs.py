"""From texts to model inputs: the tokenising that data sets and single inputs share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from ..utils.texts import is_unicode
from .modality import MODEL_INPUTS
from .rows import DataError

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

NO_OFFSET = [-1, -1]
"""Offset of a token that is not part of the context."""


def tokenize_texts(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
) -> dict[str, list[Any]]:
    """Tokenises texts, or pairs of texts, and cuts off what is too long (from the longer text of a pair first).

    Returns:
        `dict[str, list]`: Model inputs, one feature per text.
    """
    check_lengths(tokenizer, max_length, pair=pairs is not None)
    second = list(pairs) if pairs is not None else None
    return _model_inputs(tokenizer(list(texts), second, truncation=True, max_length=max_length))


def encode_text_columns(
    batch: Mapping[str, Sequence[Any]],
    rows: Sequence[int],
    columns: Mapping[str, str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> dict[str, list[Any]]:
    """Tokenises the column of the role `text`, with that of `text_pair` where `columns` names one; see
    `tokenize_texts`. `rows` are the positions of the batch's rows in the data set.

    Raises:
        DataError: names the first row that holds no text.
    """
    parts = [columns[role] for role in ("text", "text_pair") if role in columns]
    for column in parts:
        check_texts(batch[column], rows, column)
    return tokenize_texts(tokenizer, batch[parts[0]], batch[parts[1]] if len(parts) > 1 else None, max_length)


def tokenize_windows(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[str], contexts: Sequence[str], max_length: int, stride: int
) -> dict[str, list[Any]]:
    """Tokenises questions with their contexts, which are cut into overlapping windows where they are too long.

    Special tokens and overlap leave some room in a window. A question is cut to three quarters of it, so that every
    window moves on by at least the last quarter.

    Returns:
        `dict[str, list]`: Model inputs, one feature per window, `example` (index of the question) and `offsets` (per
        token its `[start, end]` in characters of the context, `[-1, -1]` for tokens outside the context).
    """
    check_fast(tokenizer)
    check_lengths(tokenizer, max_length, pair=True, stride=stride)
    free = max_length - tokenizer.num_special_tokens_to_add(pair=True) - stride
    encoded = tokenizer(
        _cut(tokenizer, questions, max(1, free * 3 // 4)),
        list(contexts),
        truncation="only_second",
        max_length=max_length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    offsets = []
    for i, window in enumerate(encoded["offset_mapping"]):
        sequences = encoded.sequence_ids(i)
        offsets.append([list(o) if s == 1 else NO_OFFSET for o, s in zip(window, sequences, strict=True)])
    return {
        **_model_inputs(encoded),
        "example": [int(i) for i in encoded["overflow_to_sample_mapping"]],
        "offsets": offsets,
    }


def tokenize_words(
    tokenizer: PreTrainedTokenizerBase, words: Sequence[Sequence[str]], max_length: int
) -> dict[str, list[Any]]:
    """Tokenises texts that are split into words, and cuts off what is too long.

    Returns:
        `dict[str, list]`: Model inputs, one feature per text, and `words` (per token the index of its word, -1 for
        special tokens).
    """
    check_fast(tokenizer)
    check_lengths(tokenizer, max_length)
    encoded = tokenizer(
        [list(text) for text in words], is_split_into_words=True, truncation=True, max_length=max_length
    )
    indices = [[-1 if word is None else word for word in encoded.word_ids(i)] for i in range(len(words))]
    return {**_model_inputs(encoded), "words": indices}


def check_lengths(tokenizer: PreTrainedTokenizerBase, max_length: int, pair: bool = False, stride: int = 0) -> None:
    """Raises a `ValueError` unless windows of `max_length` tokens that overlap by `stride` hold text and move on."""
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    needed = special + (2 if pair else 1)
    if max_length < needed:
        raise ValueError(
            f"max_length is {max_length}, but {special} special tokens and the text need at least {needed}; raise it."
        )
    if not 0 <= stride <= max_length - needed:
        raise ValueError(
            f"stride is {stride}, but windows of max_length={max_length} tokens allow 0 to {max_length - needed}; "
            "choose a stride in this range (a third of max_length is usual)."
        )


def check_fast(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises a `ValueError` unless a tokenizer says which characters and words its tokens come from."""
    if not tokenizer.is_fast:
        raise ValueError(
            f"tokenizer is a {type(tokenizer).__name__}, which does not say where in the text its tokens are; "
            "questions and split words need a fast one, for example from AutoTokenizer.from_pretrained."
        )


def check_texts(values: Sequence[Any], rows: Sequence[int], column: str) -> None:
    """Raises a `DataError` that names the first row whose value is not a string."""
    for value, row in zip(values, rows, strict=True):
        if not isinstance(value, str):
            raise DataError(column, f"{value!r} is not a string; correct it or drop the row.", row)


def are_tokenised_texts(columns: Sequence[str]) -> bool:
    """Whether a data set with these columns has the model's inputs and labels. Without a `text` column, `label` counts
    as `labels`, as it does for Trainer's collators."""
    return "input_ids" in columns and ("labels" in columns or ("label" in columns and "text" not in columns))


def check_words(values: Sequence[Any], rows: Sequence[int], column: str) -> None:
    """Raises a `DataError` that names the first row whose value is not a list of strings."""
    for value, row in zip(values, rows, strict=True):
        if not are_words(value):
            raise DataError(column, f"{value!r} is not a list of strings; correct it or drop the row.", row)


def check_unicode(entry: Any, index: int) -> None:
    """Raises a `ValueError` for an input with a text that no tokenizer takes."""
    texts = entry.values() if isinstance(entry, Mapping) else [entry]
    for text in chain.from_iterable(text if isinstance(text, list | tuple) else [text] for text in texts):
        if isinstance(text, str) and not is_unicode(text):
            raise ValueError(
                f"inputs[{index}] holds half a character (a lone surrogate) in {text!r:.100}; decode the text with "
                "the encoding that it is in."
            )


def _cut(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], tokens: int) -> list[str]:
    encoded = tokenizer(
        list(texts), add_special_tokens=False, truncation=True, max_length=tokens, return_offsets_mapping=True
    )
    # Only a text that fills the limit may have lost something; all others stay as they are, to the character.
    return [
        text[: offsets[-1][1]] if len(offsets) == tokens else text
        for text, offsets in zip(texts, encoded["offset_mapping"], strict=True)
    ]


def are_words(value: Any) -> bool:
    """Whether a value is a list of strings."""
    return isinstance(value, list | tuple) and all(isinstance(word, str) for word in value)


def _model_inputs(encoded: BatchEncoding) -> dict[str, list[Any]]:
    return {name: list(encoded[name]) for name in MODEL_INPUTS if name in encoded}
