"""Numbers that answers depend on but that are not settings. Each adapter stores the ones that it was made with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .projection import RULES
from .reading import ManifestError, check_count, check_number, check_type, same_keys

NOVELTY_RULES = ("distance-and-ratio", "distance")
OWNERS = ("class", "task")
# The first formats that state what novelty is measured by, and what has a covariance of its own. Before the second,
# `sure` was a posterior, and the ratio weighed half for all tasks.
NOVELTY_SINCE, OWN_SINCE = 5, 6
# Smallest and largest value of each number. Counts have small limits because they determine memory.
_SHARES = {
    "sure": (-10_000.0, 10_000.0),
    "own_share": (0.0, 0.99),
    "clear": (0.0, 1.0),
    "least": (0.0, 1.0),
    "stretch": (0.0, 1000.0),
    "added": (0.0, 1000.0),
    "false_alarms": (1e-9, 0.999),
    "ratio_shrinkage": (1e-6, 1.0),
    "ratio_added": (1.0, 1000.0),
    "ratio_stretch": (0.0, 1000.0),
    "ratio_gain": (0.0, 1000.0),
    "joint_limit": (0.01, 1.0),
    "most_share": (1.0, 1000.0),
}
_COUNTS = {"candidates": 16, "own_rank": 65_536, "most_candidates": 16, "directions": 1024, "ratio_directions": 1024}


@dataclass(frozen=True)
class Constants:
    """The constants of an adapter's retrieval and novelty.

    Args:
        sure (`float`): From these log-odds of the likeliest group on, the discriminants alone decide. In many
            dimensions they are far too sure. This value, `own`, `candidates`, `own_share` and `own_rank` were chosen
            on validation parts of the streams of `benchmarks/streams.py` with paraphrase-minilm-l3.
        candidates (`int`): Number of nearest groups that are compared for the other inputs.
        own (`str`): What has a covariance of its own when groups are compared, one of `OWNERS`.
        own_share (`float`): Weight of the own covariance of a task, or of a class with its share of the task's inputs;
            with twice the share, it is twice as large.
        own_rank (`int`): Largest number of leading directions in it.
        clear (`float`): Under `"cascade"`, from this posterior on, the signature alone decides.
        least (`float`): Under `"cascade"`, the smallest posterior of a group whose uncertainty is asked.
        most_candidates (`int`): Under `"cascade"`, the largest number of groups whose uncertainty is asked.
        directions (`int`): Largest number of directions between tasks along which distance is measured.
        stretch, added (`float`): Along m directions, real inputs lie further out than a Gaussian's, by the factor
            `(stretch * m + added) / m`. Measured on the validation parts of ten text data sets with all-minilm-l6, in
            streams of 2 to 8 tasks. With it, about 3 % of a task's own inputs count as unknown.
        false_alarms (`float`): Share of a Gaussian's inputs that lie beyond the limit before it is stretched, and of a
            task's held-out inputs beyond its [`Tail`].
        novelty (`str`): What novelty is measured by, one of `NOVELTY_RULES`.
        ratio_directions (`int`): Largest number of directions between classes along which likelihoods are compared.
        ratio_shrinkage (`float`): Share of the covariance that is replaced by its mean variance there. More than for
            the choice of a group, because directions in which training inputs vary little by chance would make all
            others look unknown.
        ratio_added, ratio_stretch (`float`): Along q directions the limit of the ratio is at least
            `ratio_added + ratio_stretch * sqrt(q)` standard deviations. These numbers, `ratio_gain`, `joint_limit` and
            the shrinkage were chosen on validation parts of six streams of texts with paraphrase-minilm-l3 and one
            with all-minilm-l6, so that about 3 % of their own inputs count as unknown.
        ratio_gain (`float`): The ratio weighs `1 - 0.5 / (1 + ratio_gain * (C - 2))` in the mean of both measures for
            a task of C classes, half for two.
        joint_limit (`float`): Limit of the mean where both weigh half, each as a share of its own limit.
        most_share (`float`): Share at which each of both measures counts at most.
        projection (`str`): Rule that projects features of wide hidden states, one of `projection.RULES`.
        checksum (`str`, *optional*): Checksum of the projection; `None` if features are not wide.
    """

    sure: float = 100.0
    candidates: int = 8
    own: str = "class"
    own_share: float = 0.1
    own_rank: int = 64
    clear: float = 0.9
    least: float = 0.05
    most_candidates: int = 3
    directions: int = 32
    stretch: float = 1.4
    added: float = 3.0
    false_alarms: float = 0.03
    novelty: str = "distance-and-ratio"
    ratio_directions: int = 128
    ratio_shrinkage: float = 0.7
    ratio_added: float = 2.0
    ratio_stretch: float = 0.5
    ratio_gain: float = 0.125
    joint_limit: float = 0.85
    most_share: float = 1.5
    projection: str = "splitmix64"
    checksum: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        return asdict(self)


# What adapters up to format 4 do not state.
OLD_NOVELTY: Mapping[str, Any] = {
    "novelty": "distance",
    "ratio_directions": 128,
    "ratio_shrinkage": 0.7,
    "ratio_added": 2.0,
    "ratio_stretch": 0.5,
    "ratio_gain": 0.0,
    "joint_limit": 0.85,
    "most_share": 1.5,
}
# The constants of adapters whose format does not state them.
UNSTATED = Constants(
    sure=math.log(0.999 / 0.001),
    candidates=3,
    own="task",
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


def read_constants(where: str, data: Any, version: int) -> Constants:
    """Reads `Constants.to_dict`'s form, or that of an older format (`ManifestError`)."""
    check_type(where, data, dict)
    constants: Mapping[str, Any] = data
    if version < NOVELTY_SINCE:
        constants = {**constants, **OLD_NOVELTY}
    if version < OWN_SINCE:
        constants = {**constants, "own": "task", "ratio_gain": 0.0}
    same_keys(where, constants, {field.name for field in fields(Constants)})
    if version < OWN_SINCE:
        check_number(f"{where}.sure", constants["sure"], 0.0, 1.0)
        constants = {**constants, "sure": _log_odds(constants["sure"])}
    for name, (least, most) in _SHARES.items():
        check_number(f"{where}.{name}", constants[name], least, most)
    for name, most in _COUNTS.items():
        check_count(f"{where}.{name}", constants[name], 1, most)
    if constants["projection"] not in list(RULES):
        raise ManifestError(f"`{where}.projection` must be one of {list(RULES)}, not {constants['projection']!r:.60}")
    for name, known in (("novelty", NOVELTY_RULES), ("own", OWNERS)):
        if constants[name] not in known:
            raise ManifestError(f"`{where}.{name}` must be one of {list(known)}, not {constants[name]!r:.60}")
    if constants["checksum"] is not None:
        check_type(f"{where}.checksum", constants["checksum"], str)
    return Constants(**constants)


def _log_odds(share: float) -> float:
    """Those of a posterior, within the limits of `sure`."""
    least, most = _SHARES["sure"]
    return most if share >= 1 else least if share <= 0 else math.log(share / (1 - share))
