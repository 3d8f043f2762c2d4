"""Numbers that answers depend on but that are not settings. Each adapter stores the ones that it was made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .projection import RULES
from .reading import ManifestError, check_count, check_number, check_type, same_keys

NOVELTY_RULES = ("likelihood-ratio", "distance")
# Smallest and largest value of each number. Counts have small limits because they determine memory.
_SHARES = {
    "sure": (0.0, 1.0),
    "own_share": (0.0, 0.99),
    "clear": (0.0, 1.0),
    "least": (0.0, 1.0),
    "stretch": (0.0, 1000.0),
    "added": (0.0, 1000.0),
    "false_alarms": (1e-9, 0.999),
    "novelty_shrinkage": (1e-6, 1.0),
    "usual_tail": (1.0, 1000.0),
    "unmeasured_tail": (1.0, 1000.0),
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
        novelty (`str`): Rule that measures how unlike its task an input is, one of `NOVELTY_RULES`.
        directions (`int`): Largest number of directions along which novelty is measured.
        false_alarms (`float`): Share of a task's own inputs that may count as unknown. Under `"distance"`, of a
            Gaussian's, before the limit is stretched.
        novelty_shrinkage (`float`): Under `"likelihood-ratio"`, share of the covariance that is replaced by its mean
            variance. More than for the choice of a group, because directions in which training inputs vary little by
            chance would make every other input look unknown. This and the next two were chosen on validation parts of
            six streams of texts with paraphrase-minilm-l3.
        usual_tail (`float`): Under `"likelihood-ratio"`, the excess of a [`Tail`] that is approached with many
            directions.
        unmeasured_tail (`float`): Under `"likelihood-ratio"`, the excess of a task of one class or without held-out
            inputs.
        stretch, added (`float`): Under `"distance"`, along m directions real inputs lie further out than a Gaussian's,
            by the factor `(stretch * m + added) / m`.
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
    novelty: str = "likelihood-ratio"
    directions: int = 128
    false_alarms: float = 0.03
    novelty_shrinkage: float = 0.7
    usual_tail: float = 3.0
    unmeasured_tail: float = 5.0
    stretch: float = 1.4
    added: float = 3.0
    projection: str = "splitmix64"
    checksum: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        return asdict(self)


# What adapters up to format 4 measure novelty by, and constants that they do not state.
OLD_NOVELTY: Mapping[str, Any] = {
    "novelty": "distance",
    "novelty_shrinkage": 0.7,
    "usual_tail": 3.0,
    "unmeasured_tail": 5.0,
}
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
    **OLD_NOVELTY,
)


def read_constants(where: str, data: Any, old_novelty: bool = False) -> Constants:
    """Reads `Constants.to_dict`'s form (`ManifestError`); with `old_novelty`, that of format 4."""
    check_type(where, data, dict)
    constants: Mapping[str, Any] = {**data, **OLD_NOVELTY} if old_novelty else data
    same_keys(where, constants, {field.name for field in fields(Constants)})
    for name, (least, most) in _SHARES.items():
        check_number(f"{where}.{name}", constants[name], least, most)
    for name, most in _COUNTS.items():
        check_count(f"{where}.{name}", constants[name], 1, most)
    if constants["projection"] not in list(RULES):
        raise ManifestError(f"`{where}.projection` must be one of {list(RULES)}, not {constants['projection']!r:.60}")
    if constants["novelty"] not in NOVELTY_RULES:
        raise ManifestError(
            f"`{where}.novelty` must be one of {list(NOVELTY_RULES)}, not {constants['novelty']!r:.60}"
        )
    if constants["checksum"] is not None:
        check_type(f"{where}.checksum", constants["checksum"], str)
    return Constants(**constants)
