"""Numbers that answers depend on but that are not settings. Each adapter stores the ones that it was made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .projection import RULES
from .reading import ManifestError, check_count, check_number, check_type, same_keys

# Smallest and largest value of each number. Counts have small limits because they determine memory.
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
    """The constants of an adapter's retrieval and novelty.

    Args:
        sure (`float`): From this posterior on, the discriminants alone decide. In many dimensions they are sure of
            most inputs. This value, `candidates`, `own_share` and `own_rank` were chosen on validation parts of the
            streams of `benchmarks/streams.py` with paraphrase-minilm-l3.
        candidates (`int`): Number of nearest groups that are compared for the other inputs.
        own_share (`float`): Weight of a task's own covariance when its group is compared with others.
        own_rank (`int`): Number of leading directions of each task in its own covariance.
        clear (`float`): Under `"cascade"`, from this posterior on, the signature alone decides.
        least (`float`): Under `"cascade"`, the smallest posterior of a group whose uncertainty is asked.
        most_candidates (`int`): Under `"cascade"`, the largest number of groups whose uncertainty is asked.
        directions (`int`): Largest number of directions between tasks along which novelty is measured.
        stretch, added (`float`): Along m directions, real inputs lie further out than a Gaussian's, by the factor
            `(stretch * m + added) / m`. Measured on the validation parts of ten text data sets with all-minilm-l6, in
            streams of 2 to 8 tasks. With it, about 3 % of a task's own inputs count as unknown.
        false_alarms (`float`): Share of a Gaussian's inputs that lie beyond the limit before it is stretched.
        projection (`str`): Rule that projects features of wide hidden states, one of `projection.RULES`.
        checksum (`str`, *optional*): Checksum of the projection; `None` if features are not wide.
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


# The constants of adapters whose format does not state them.
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
    constants: Mapping[str, Any] = data
    same_keys(where, constants, {field.name for field in fields(Constants)})
    for name, (least, most) in _SHARES.items():
        check_number(f"{where}.{name}", constants[name], least, most)
    for name, most in _COUNTS.items():
        check_count(f"{where}.{name}", constants[name], 1, most)
    if constants["projection"] not in list(RULES):
        raise ManifestError(f"`{where}.projection` must be one of {list(RULES)}, not {constants['projection']!r:.60}")
    if constants["checksum"] is not None:
        check_type(f"{where}.checksum", constants["checksum"], str)
    return Constants(**constants)
