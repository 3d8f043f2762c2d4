"""What goes wrong with the Hub, in one line that says what to do."""

from __future__ import annotations

from huggingface_hub.errors import HfHubHTTPError


class PushError(OSError):
    """The Hub did not take a push, or could not be asked: says why, and what to do."""


class PushConflictError(PushError):
    """The Hub holds what a push would overwrite without knowing it. Nothing was changed."""


class PullError(OSError):
    """An adapter cannot be fetched: says why, and what to do."""


def reason_of(error: BaseException) -> tuple[int | None, str]:
    """What the Hub answered, if it did (the status), and what the client says of it in one line."""
    # The client wraps what stops the transfer of a large file into a RuntimeError.
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error
    reason = " ".join(f"{type(cause).__name__}: {cause}".split())[:400]
    return cause.response.status_code if isinstance(cause, HfHubHTTPError) else None, reason
