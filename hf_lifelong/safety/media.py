"""The modalities that can be audited. Another one is a subclass of [`AuditedInputs`] and one more entry here."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from .image_inputs import ImageInputs
from .inputs import AuditedInputs
from .text_inputs import TextInputs

MEDIA: tuple[type[AuditedInputs], ...] = (ImageInputs, TextInputs)  # text last: its triggers have no mark


def audited(inputs: AuditedInputs | Iterable[str]) -> AuditedInputs:
    """Inputs of a user, of which texts may come as a plain list."""
    return inputs if isinstance(inputs, AuditedInputs) else TextInputs(inputs)


def medium_of(roles: Collection[str]) -> type[AuditedInputs] | None:
    """The modality of a task with these roles; `None` if none of them can be audited."""
    return next((medium for medium in MEDIA if medium.roles[0] in roles), None)


def written(trigger: Any) -> str:
    """A trigger as text, which `read` understands."""
    return trigger if isinstance(trigger, str) else trigger.written()


def read(text: str) -> Any:
    """The trigger that was `written` so.

    Raises:
        ValueError: for what was not.
    """
    medium = next(medium for medium in MEDIA if text.startswith(medium.mark))
    return medium.read(text.removeprefix(medium.mark))
