"""Texts of elsewhere and of users: as they may be printed, written and tokenised."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def one_line(text: str) -> str:
    """Printable characters in one line, so that a name or an answer cannot steer the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def is_unicode(text: str) -> bool:
    """Whether a text can be written: Python's strings, unlike files and tokenizers, may hold half a character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def without_panics() -> Iterator[None]:
    """Turns what `tokenizers` ends with where its own code breaks down, which is no `Exception`, into one.

    Raises:
        ValueError: with what it said.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"The tokenizer broke down ({error}); take that of the base.") from error
