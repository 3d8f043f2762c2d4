"""Errors of the Hub; each message is one line that says what to do."""

from __future__ import annotations

from huggingface_hub.errors import HfHubHTTPError


class PushError(OSError):
    """The Hub did not accept a push, or could not be reached; says why, and what to do."""


class PushConflictError(PushError):
    """A push would overwrite something on the Hub that it does not continue. Nothing was changed."""


class PullError(OSError):
    """An adapter cannot be fetched; says why, and what to do."""


def reason_of(error: BaseException) -> tuple[int | None, str]:
    """The HTTP status of the Hub's answer, if there was one, and the client's message in one line."""
    # The client wraps errors that stop the transfer of a large file into a RuntimeError.
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ is not None else error
    reason = " ".join(f"{type(cause).__name__}: {cause}".split())[:400]
    return cause.response.status_code if isinstance(cause, HfHubHTTPError) else None, reason
