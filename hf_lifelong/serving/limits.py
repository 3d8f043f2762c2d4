"""What a server takes: limits on requests, and the one error that a client can make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TOO_LARGE, INVALID, TOO_MANY, STOPPING = 413, 422, 429, 503


class RequestError(Exception):
    """A request that is not answered.

    Args:
        status (`int`): The HTTP status: `TOO_LARGE`, `INVALID`, `TOO_MANY`, `STOPPING`, or 404.
        message (`str`): What is wrong and what to do, for the client.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Args:
        body (`int`): Bytes of a request.
        rows (`int`): Inputs of a request.
        characters (`int`): Characters of one input.
        pixels (`int`): Pixels of one image, decoded.
        new_tokens (`int`): Tokens that a language model writes for one prompt.
        waiting (`int`): Inputs that wait for their answer, of all requests together.
        batch_size (`int`): Inputs that the model answers at once.
        wait (`float`): Seconds that an input waits for others to share its batch.
    """

    body: int = 32 * 2**20
    rows: int = 256
    characters: int = 50_000
    pixels: int = 2**25
    new_tokens: int = 1024
    waiting: int = 1024
    batch_size: int = 32
    wait: float = 0.005

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int | float) or isinstance(value, bool) or value < (0 if name == "wait" else 1):
                raise ValueError(f"`{name}` is {value!r:.60}; give a number of at least {0 if name == 'wait' else 1}.")

    def check_body(self, size: int) -> None:
        """Refuses a request of more than `body` bytes."""
        if size > self.body:
            raise RequestError(
                TOO_LARGE, f"The request is larger than {self.body:,} bytes; send fewer inputs at once."
            )

    def check_rows(self, count: int) -> None:
        """Refuses a request without inputs, or with more than `rows`."""
        if not count:
            raise RequestError(INVALID, "`inputs` is empty; give at least one input.")
        if count > self.rows:
            message = f"The request has {count:,} inputs, more than {self.rows:,}; send them in several requests."
            raise RequestError(TOO_LARGE, message)

    def check_text(self, value: Any, name: str) -> None:
        """Refuses an input whose texts have more than `characters` characters."""
        length = _length(value)
        if length > self.characters:
            message = f"{name} has {length:,} characters, more than {self.characters:,}; shorten it or split it."
            raise RequestError(TOO_LARGE, message)


def _length(value: Any) -> int:
    """Characters in an input; an entry of a list counts as one character at least."""
    if isinstance(value, str):
        return len(value)
    parts: Iterable[Any] = ()
    if isinstance(value, Mapping):
        parts = [part for pair in value.items() for part in pair]
    elif isinstance(value, Sequence):
        parts = value
    return sum(max(1, _length(part)) for part in parts)
