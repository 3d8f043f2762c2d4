"""Cumulative sums from the reference of a stretch of a stream toward each known task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .limits import BOUND, cusum_limit
from .references import Coordinates, Reference

# Smallest and largest allowance. Half the expected shift lies between them; a larger one would let a single input
# decide. Tasks whose shift is less than the smallest allowance are not told from the reference.
LEAST, MOST = 0.5, 1.0
# As many inputs the reference counts in the usual deviations.
PRIOR = 8


@dataclass
class Toward:
    """CUSUMs along the directions to known tasks.

    Args:
        names (`list[str]`): The tasks.
        unit (`Tensor`): `[K, D]`, float32, the directions. All else is float64 and `[K]`.
        allowance, limit (`Tensor`): `[K]`; the limit of a task that is not told from the reference is infinite.
        square (`Tensor`): `[K]`, sum of `count` squared deviations along each direction.
        count (`Tensor`): `[K]`.
        sums (`Tensor`): `[K]`, the statistics.
        length (`Tensor`): `[K]`, int64, inputs since each statistic was last 0.
    """

    names: list[str]
    unit: Tensor
    allowance: Tensor
    limit: Tensor
    square: Tensor
    count: Tensor
    sums: Tensor
    length: Tensor

    def step(self, away: Tensor) -> None:
        """Takes the next input in, `[D]`."""
        steps = (self.unit @ away).double() * (self.count / self.square).sqrt()
        self.sums = (self.sums + steps.clamp(-BOUND, BOUND) - self.allowance).clamp_min(0)
        self.length = (self.length + 1) * (self.sums > 0)

    def absorb(self, away: Tensor) -> None:
        """Lets an input count in the usual deviations."""
        most = BOUND**2 * self.square / self.count
        self.square = self.square + (self.unit @ away).double().square().minimum(most)
        self.count = self.count + 1

    def evidence(self) -> tuple[float, int]:
        """The largest statistic as a share of its limit, and the number of inputs since it was last 0."""
        if not self.names:
            return 0.0, 0
        best = int((self.sums / self.limit).argmax())
        return float(self.sums[best] / self.limit[best]), int(self.length[best])


def toward(known: Mapping[str, Reference], coordinates: Coordinates, weight: float, expected_run: float) -> Toward:
    """The sums toward all `known` tasks, from 0.

    Args:
        weight (`float`): Number of inputs that the reference's mean was estimated from.
        expected_run (`float`): Mean number of inputs between false alarms of all sums together.
    """
    centre, count = coordinates.centre, len(known)
    means = [reference.signature.mean for reference in known.values()]
    shift = coordinates.levelled(torch.stack(means) - centre) if means else centre.new_zeros(0, len(centre))
    length = torch.linalg.vector_norm(shift.double(), dim=1)
    square = (1 / coordinates.dimensions).expand(count)
    expected = length / (length.square() + coordinates.size).sqrt() / square.sqrt()
    allowance = (expected / 2).clamp(LEAST, MOST)
    # The reference's mean is known up to the error of its estimate.
    limit = torch.tensor(
        [cusum_limit(expected_run * count, float(k) - 0.5 * weight**-0.5) for k in allowance], dtype=torch.float64
    )
    return Toward(
        list(known),
        (shift / length.clamp_min(1e-12).unsqueeze(1)).float(),
        allowance,
        limit.masked_fill(expected < LEAST, float("inf")),
        square * PRIOR,
        torch.full_like(length, PRIOR),
        torch.zeros_like(length),
        torch.zeros(count, dtype=torch.long),
    )
