"""The numbers that answers depend on and no setting names: each adapter keeps those that it was made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .projection import RULES
from .reading import ManifestError, check_count, check_number, check_type, same_keys

# Least and largest value of each number. What is a count asks for memory, so that it is small.
_SHARES = {
    "sure": (0.0, 1.0),
    "own_share": (0.0, 0.99),
    "clear": (0.0, 1.0),
    "least": (0.0, 1.0),
    "stretch": (0.0, 1000.0),
    "added": (0.0, 1000.0),
    "false_alarms": (1e-9, 0.999),
}
_COUNTS = {"candidates": 16, "own_rank": 65_536, "most_candidates": 16, "directions": 1024}


@dataclass(frozen=True)
class Constants:
    """What retrieval and novelty of an adapter compute with.

    Args:
        sure (`float`): Posterior from which the discriminants alone decide. In many dimensions they are sure of most
            inputs. This one, `candidates`, `own_share` and `own_rank` were set on validation parts of the streams of
            `benchmarks/streams.py` with paraphrase-minilm-l3.
        candidates (`int`): Nearest groups that are compared for the other inputs.
        own_share (`float`): Share of a task's own covariance that it is compared under.
        own_rank (`int`): Leading directions of each task that this own covariance is of.
        clear (`float`): Posterior from which the signature alone decides under `"cascade"`.
        least (`float`): Least posterior of a group whose uncertainty is asked there.
        most_candidates (`int`): Most groups whose uncertainty is asked there.
        directions (`int`): Most directions between tasks along which novelty is measured.
        stretch, added (`float`): How much further than a Gaussian's real inputs reach along m directions: by
            `(stretch * m + added) / m`. Measured on the validation parts of ten text data sets with all-minilm-l6, in
            streams of 2 to 8 tasks: about 3 % of a task's own inputs then count as unknown.
        false_alarms (`float`): Share of a Gaussian's inputs that lie beyond the limit that is stretched so.
        projection (`str`): Rule by which features of wide hidden states are projected, one of `projection.RULES`.
        checksum (`str`, *optional*): Of the projection; `None` where features are not wide.
    """

    sure: float = 0.999
    candidates: int = 3
    own_share: float = 0.1
    own_rank: int = 64
    clear: float = 0.9
    least: float = 0.05
    most_candidates: int = 3
    directions: int = 32
    stretch: float = 1.4
    added: float = 3.0
    false_alarms: float = 0.03
    projection: str = "splitmix64"
    checksum: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        return asdict(self)


# Those of adapters of a format that did not state them.
UNSTATED = Constants(
    sure=0.999,
    candidates=3,
    own_share=0.1,
    own_rank=64,
    clear=0.9,
    least=0.05,
    most_candidates=3,
    directions=32,
    stretch=1.4,
    added=3.0,
    false_alarms=0.03,
    projection="torch",
)


def read_constants(where: str, data: Any) -> Constants:
    """Reads `Constants.to_dict`'s form (`ManifestError`)."""
    check_type(where, data, dict)
    found: Mapping[str, Any] = data
    same_keys(where, found, {field.name for field in fields(Constants)})
    for name, (least, most) in _SHARES.items():
        check_number(f"{where}.{name}", found[name], least, most)
    for name, most in _COUNTS.items():
        check_count(f"{where}.{name}", found[name], 1, most)
    if found["projection"] not in list(RULES):
        raise ManifestError(f"`{where}.projection` must be one of {list(RULES)}, not {found['projection']!r:.60}")
    if found["checksum"] is not None:
        check_type(f"{where}.checksum", found["checksum"], str)
    return Constants(**found)
