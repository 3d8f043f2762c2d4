"""Safe handling of untrusted texts: printing, writing and tokenising them; and suggestions for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


def one_line(text: str) -> str:
    """The printable characters of a text in one line, so that a name or an answer cannot control the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def suggestion(name: Any, names: Iterable[str]) -> str:
    """A "did you mean" for error messages if an unknown name is close to one of `names`; else empty."""
    near = difflib.get_close_matches(str(name), list(names), n=1)
    return f"; did you mean `{near[0]}`?" if near else ""


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
