"""The forms in which inputs arrive without a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .inputs import are_words, tokenize_texts, tokenize_windows, tokenize_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Encoder = Callable[[Sequence[Any], "PreTrainedTokenizerBase", int, int], dict[str, list[Any]]]


@dataclass(frozen=True, eq=False)
class InputForm:
    """A form of input.

    Args:
        words (`str`): What it looks like, for error messages.
        fits (`Callable`): Whether an input has this form.
        encode (`Callable`): `encode(inputs, tokenizer, max_length, stride)` returns the columns of the inputs'
            features: model inputs, the `extras` of the kinds that answer this form and, where an input may have
            several features, `example`, the position of each feature's input.
        source (`Callable`): What the answer to an input is cut from (`HeadKind.decode_rows`).
    """

    words: str
    fits: Callable[[Any], bool]
    encode: Encoder
    source: Callable[[Any], Any] = lambda entry: ""


def _has(entry: Any, *keys: str) -> bool:
    return isinstance(entry, Mapping) and set(entry) == set(keys) and all(isinstance(entry[k], str) for k in keys)


def _is_text(entry: Any) -> bool:
    if isinstance(entry, Mapping) and "text_pair" in entry and entry["text_pair"] is None:
        entry = {key: value for key, value in entry.items() if key != "text_pair"}
    return isinstance(entry, str) or _has(entry, "text")


def _encode_texts(
    entries: Sequence[Any], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int
) -> dict[str, list[Any]]:
    texts = [entry if isinstance(entry, str) else entry["text"] for entry in entries]
    return tokenize_texts(tokenizer, texts, None, max_length)


def _encode_pairs(
    entries: Sequence[Any], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int
) -> dict[str, list[Any]]:
    texts, pairs = ([entry[key] for entry in entries] for key in ("text", "text_pair"))
    return tokenize_texts(tokenizer, texts, pairs, max_length)


def _encode_questions(
    entries: Sequence[Any], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int
) -> dict[str, list[Any]]:
    questions, contexts = ([entry[key] for entry in entries] for key in ("question", "context"))
    return tokenize_windows(tokenizer, questions, contexts, max_length, stride)


def _encode_words(
    entries: Sequence[Any], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int
) -> dict[str, list[Any]]:
    return tokenize_words(tokenizer, [entry["tokens"] for entry in entries], max_length)


TEXT = InputForm("a string", _is_text, _encode_texts)
PAIR = InputForm('{"text": ..., "text_pair": ...}', lambda entry: _has(entry, "text", "text_pair"), _encode_pairs)
QUESTION = InputForm(
    '{"question": ..., "context": ...}',
    lambda entry: _has(entry, "question", "context"),
    _encode_questions,
    lambda entry: entry["context"],
)
WORDS = InputForm(
    '{"tokens": [...]}',
    lambda entry: isinstance(entry, Mapping) and set(entry) == {"tokens"} and are_words(entry["tokens"]),
    _encode_words,
    lambda entry: entry["tokens"],
)
