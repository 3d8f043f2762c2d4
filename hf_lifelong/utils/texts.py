"""Safe handling of untrusted texts: printing, writing and tokenising them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


def one_line(text: str) -> str:
    """The printable characters of a text in one line, so that a name or an answer cannot control the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded: Python strings may hold half a character (a lone surrogate), files and tokenizers
    may not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextmanager
def without_panics() -> Iterator[None]:
    """Turns a panic of `tokenizers`, which is not an `Exception`, into a `ValueError`.

    Raises:
        ValueError: with the message of the panic.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"The tokenizer broke down ({error}); use the tokenizer of the base.") from error
