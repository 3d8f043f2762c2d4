"""Text that files of elsewhere hold, as it may be printed."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Printable characters in one line, so that a name or an answer cannot steer the terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
