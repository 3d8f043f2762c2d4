"""The facts of a model card that are not in the manifest, and their JSON form, from which a card of a recorded run can
be rendered."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

Kind = dict[str, Any]


def _kind(what: str, is_right: Callable[[Any], bool]) -> Kind:
    """Metadata of a field: what its JSON value must be, in words and as a predicate."""
    return {"what": what, "is_right": is_right}


def _optional(kind: Kind) -> Kind:
    return _kind(f"{kind['what']} or null", lambda value: value is None or kind["is_right"](value))


def _list_of(kind: Kind, items: str) -> Kind:
    return _kind(f"a list of {items}", lambda value: isinstance(value, list) and all(map(kind["is_right"], value)))


def _by_name(kind: Kind) -> Kind:
    return _kind(
        f"an object from name to {kind['what']}",
        lambda value: isinstance(value, dict) and all(map(kind["is_right"], value.values())),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_setting(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return all(item is None or isinstance(item, str | bool) or _is_number(item) for item in items)


_TEXT = _kind("a text", lambda value: isinstance(value, str))
_COUNT = _kind("an integer of at least 0", lambda value: type(value) is int and value >= 0)
_NUMBER = _kind("a number of at least 0", lambda value: _is_number(value) and value >= 0)
_FLAG = _kind("true or false", lambda value: isinstance(value, bool))
_SETTING = _kind("a text, number, true, false, null or a list of these", _is_setting)
_TEXTS = _list_of(_TEXT, "texts")


@dataclass(frozen=True)
class CardFacts:
    """Facts about an adapter that are not in its manifest. All are optional; the card does not mention missing ones.

    Args:
        repo_id (`str`, *optional*): The adapter's repository on the Hub. Without it the card refers to its own folder.
        base_model (`str`, *optional*): Id of the base model on the Hub; `None` for a base from a folder.
        session (`list[str]`, *optional*): The tasks to which `training`, `command`, `hardware`, `seconds` and
            `versions` apply; `None` for all. Other tasks were learned in earlier sessions, for which these facts are
            unknown.
        training (`Mapping[str, Any]`): Training arguments by name, such as `num_train_epochs` and `gradient_noise`.
        command (`str`, *optional*): The command that trains this adapter again. Its folders and tokens are not shown.
        hardware (`str`, *optional*): The hardware that it was trained on.
        seconds (`float`, *optional*): Duration of training, in seconds.
        versions (`Mapping[str, str]`): Package → version.
        base_size (`int`, *optional*): Bytes of the base model's weights.
        adapter_size (`int`, *optional*): Bytes of the adapter's weights.
        task_sizes (`Mapping[str, int]`): Task → bytes of its members, heads and signature.
        picture (`bool`): Whether the pictures from `transfer.draw_matrix` are in the card's folder.
        language (`list[str]`): ISO 639 codes of the languages of the data.
        license (`str`, *optional*): Licence of the adapter, as an id of the Hub.
    """

    repo_id: str | None = field(default=None, metadata=_optional(_TEXT))
    base_model: str | None = field(default=None, metadata=_optional(_TEXT))
    session: list[str] | None = field(default=None, metadata=_optional(_TEXTS))
    training: Mapping[str, Any] = field(default_factory=dict, metadata=_by_name(_SETTING))
    command: str | None = field(default=None, metadata=_optional(_TEXT))
    hardware: str | None = field(default=None, metadata=_optional(_TEXT))
    seconds: float | None = field(default=None, metadata=_optional(_NUMBER))
    versions: Mapping[str, str] = field(default_factory=dict, metadata=_by_name(_TEXT))
    base_size: int | None = field(default=None, metadata=_optional(_COUNT))
    adapter_size: int | None = field(default=None, metadata=_optional(_COUNT))
    task_sizes: Mapping[str, int] = field(default_factory=dict, metadata=_by_name(_COUNT))
    picture: bool = field(default=False, metadata=_FLAG)
    language: list[str] = field(default_factory=list, metadata=_TEXTS)
    license: str | None = field(default=None, metadata=_optional(_TEXT))

    def to_dict(self) -> dict[str, Any]:
        """The fields by name; safe for JSON if all values in `training` are."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> CardFacts:
        """Reads what `to_dict` returned; missing fields get their defaults.

        Raises:
            ValueError: when `data` is not an object, or a field is unknown or has a wrong value; names the field.
        """
        if not isinstance(data, dict):
            raise ValueError(f"`facts` must be an object, not {type(data).__name__}.")
        metadata = {item.name: item.metadata for item in fields(cls)}
        unknown = sorted(str(name) for name in data if name not in metadata)
        if unknown:
            raise ValueError(f"`facts` has unknown fields {unknown}; it may have {list(metadata)}.")
        for name, value in data.items():
            if not metadata[name]["is_right"](value):
                raise ValueError(f"`facts.{name}` must be {metadata[name]['what']}, not {value!r:.60}.")
        return cls(**data)
