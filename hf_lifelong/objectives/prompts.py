"""From texts to the tokens that a causal language model is asked with, and learns to answer with."""

from __future__ import annotations

import logging
import string
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..utils.rendering import RENDERER
from ..utils.texts import without_panics
from .inputs import check_fast, check_unicode
from .rows import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TEMPLATES: dict[tuple[str, ...], str] = {
    ("question", "context"): "{context}\n\nQuestion: {question}\nAnswer:",
    ("text", "text_pair"): "{text}\n{text_pair}",
}
"""Columns of a data set, or keys of an input → the template that makes a prompt of them where the user gives none."""

FORMS = 'a string, {"text": ...}, {"text": ..., "text_pair": ...} or {"question": ..., "context": ...}'
"""The forms of input that `prompt_of` knows, in words."""


def prompt_of(entry: Any, index: int, templates: Iterable[str] = (), answers: Collection[str] = ()) -> str:
    """The prompt of an input that arrives without a task: the text itself, or fields in a template, as in training.

    Args:
        templates (`list[str]`): Templates of the learned tasks; one with the same fields comes before `TEMPLATES`.
        answers (`set[str]`): Fields that hold the answer in labelled data; left out of an input that has no known form
            with them.

    Raises:
        ValueError: If an input has none of the forms, or is empty; the message names its index.
    """
    check_unicode(entry, index)
    text = entry
    if isinstance(entry, Mapping):
        candidates = (*templates, *TEMPLATES.values(), "{text}")
        template = next(
            (t for fields in (set(entry), set(entry) - set(answers)) for t in candidates if fields_of(t) == fields),
            None,
        )
        text = None
        if template:
            missing = sorted(field for field in fields_of(template) if entry[field] is None)
            if missing:
                raise ValueError(f"inputs[{index}]: nothing stands in {missing[0]!r}, which its prompt is made of.")
            text = entry["text"] if template == "{text}" else template.format_map(entry)
    if not isinstance(text, str):
        raise ValueError(f"inputs[{index}] is {entry!r:.200}, which is no known form of input; give {FORMS}.")
    if not text.strip():
        raise ValueError(f"inputs[{index}] is empty; there is nothing to answer.")
    return text


def fields_of(template: str) -> set[str]:
    """The columns that a template names.

    Raises:
        ValueError: If it cannot be read, or asks for more than plain columns: a template may come from a file.
    """
    try:
        fields = [piece[1:] for piece in string.Formatter().parse(template) if piece[1] is not None]
    except ValueError as error:
        message = f"`template` {template!r:.100} cannot be read: {error}. Write braces that belong to the text twice."
        raise ValueError(message) from error
    for name, spec, conversion in fields:
        if spec or conversion or set(name or "") & set(".[]"):
            raise ValueError(f"`template` {template!r:.100}: only names of columns may stand in braces, not {name!r}.")
    return {str(name) for name, _, _ in fields}


def with_prompts(dataset: Dataset, columns: Mapping[str, str], template: str | None) -> Dataset:
    """Adds the column `prompt` where prompts are made from several columns.

    Args:
        dataset (`datasets.Dataset`): The task's rows.
        columns (`dict[str, str]`): Role to column name, as the user gave it; a named `prompt` is taken as it is.
        template (`str`, *optional*): In the spelling of `str.format`, such as `"{title}: {body}"`. Without it, the
            templates in `TEMPLATES` are used, where the data set has their columns and no `prompt`.

    Raises:
        ValueError: If the template names no column, or one that is missing, or the data set has a `prompt` already.
    """
    names = dataset.column_names
    if template is not None and "prompt" in columns:
        raise ValueError("`template` and `columns['prompt']` both say what a prompt is; give one of them.")
    if template is None:
        if "prompt" in columns or "prompt" in names:
            return dataset
        template = next((t for keys, t in TEMPLATES.items() if set(keys) <= set(names)), None)
        if template is None:
            return dataset
    fields = fields_of(template)
    missing = sorted(fields - set(names))
    if missing or not fields:
        what = f"has {missing[0]!r}, which is no column" if missing else "names no column in braces"
        raise ValueError(f"`template` {what}; the data set has {names}.")
    if "prompt" in names:
        raise ValueError("`template` would replace the column 'prompt' that the data set has; drop one of the two.")
    chosen: str = template

    def write(row: dict[str, Any], index: int) -> dict[str, str]:
        empty = sorted(field for field in fields if row[field] is None)
        if empty:
            raise DataError(empty[0], "nothing stands there; correct it or drop the row.", index)
        return {"prompt": chosen.format_map(row)}

    return dataset.with_format(None).map(write, with_indices=True, desc="Writing prompts")


@without_panics()
def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_length: int) -> list[list[int]]:
    """Tokenises prompts, each as a user's turn where the tokenizer has a chat template.

    A prompt that is too long loses its beginning, because the question stands at the end; the chat template stays
    whole.

    Args:
        max_length (`int`): Longest prompt in tokens, all of the chat template included.

    Raises:
        ValueError: If `max_length` leaves no room for text.
    """
    ids = _tokens(tokenizer, _wrap(tokenizer, prompts))
    if long := sum(len(row) > max_length for row in ids):
        logger.warning(
            f"{long} of {len(ids)} prompts are longer than `max_length` ({max_length}) and lose their beginning; "
            "raise it in `DriftAdapterConfig`."
        )
    for i, prompt in enumerate(prompts):
        while len(ids[i]) > max_length:
            prompt = _without_first(tokenizer, prompt, len(ids[i]) - max_length, max_length)
            ids[i] = _tokens(tokenizer, _wrap(tokenizer, [prompt]))[0]
    return ids


def encode_answers(tokenizer: PreTrainedTokenizerBase, answers: Sequence[str], most: int) -> list[list[int]]:
    """Tokenises answers, each ended by the end-of-text token, and cut after `most` tokens.

    Raises:
        ValueError: If the tokenizer has no end-of-text token, so that no answer could end.
    """
    if tokenizer.eos_token_id is None:
        raise ValueError("The tokenizer has no `eos_token`, so no answer could end; set one.")
    # Sentencepiece writes the blank before a text itself.
    writes_blank = tokenizer.tokenize("a")[0].startswith("▁")
    blank = "" if tokenizer.chat_template or writes_blank else " "
    ids = tokenizer([blank + answer.strip() for answer in answers], add_special_tokens=False)["input_ids"]
    if long := sum(len(answer) >= most for answer in ids):
        logger.warning(
            f"{long} of {len(ids)} answers are longer than `max_length` ({most}) and were cut; raise it in "
            "`DriftAdapterConfig` to learn them whole."
        )
    return [[*answer, tokenizer.eos_token_id][:most] for answer in ids]


def ensure_padding(tokenizer: Any) -> None:
    """Makes a tokenizer without a padding token pad with its end-of-text token, as generation does. Padding enters no
    loss, because the targets mark it themselves."""
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError("The tokenizer has no `eos_token`, so no answer could end; set one.")
        tokenizer.pad_token = tokenizer.eos_token


def _wrap(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[str]:
    if not tokenizer.chat_template:
        return [prompt.rstrip() for prompt in prompts]  # an answer begins with the blank
    try:
        return RENDERER.render(tokenizer.get_chat_template(), prompts, tokenizer.special_tokens_map)
    except ValueError as error:
        raise ValueError(
            f"The tokenizer's chat template refuses a single turn of a user ({error}); set `chat_template` to one "
            "that takes it, or to `None` for bare prompts."
        ) from error


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    ids = tokenizer(list(texts), add_special_tokens=not tokenizer.chat_template)["input_ids"]
    # Some tokenizers end every text with an end-of-text token; a prompt must go on.
    return [row[:-1] if len(row) > 1 and row[-1] == tokenizer.eos_token_id else row for row in ids]


def _without_first(tokenizer: PreTrainedTokenizerBase, text: str, tokens: int, max_length: int) -> str:
    check_fast(tokenizer)
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    if tokens >= len(offsets):
        raise ValueError(f"max_length is {max_length}, which the chat template fills without any text; raise it.")
    # At least one character: a cut within a character that spans several tokens would remove nothing.
    return text[max(int(offsets[tokens][0]), 1) :]
