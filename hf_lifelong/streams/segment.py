"""One stretch of a stream: how its newest inputs compare with its reference, and with the known tasks."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from .limits import BOUND, LONGEST, extended, window_deviations, window_limits
from .references import Coordinates
from .toward import Toward

# Inputs that pass before an input counts in what is usual, and as how many inputs the reference counts there.
DELAY, PRIOR = 32, 8
# Largest number of dimensions for which limits are simulated. Smaller ones are rounded down to a power of 2.
MOST_DIMENSIONS = 256


class Segment:
    """The stretch of a stream since its last boundary.

    The newest inputs are compared with the reference by the sum of the products of all pairs of them within a window,
    for every window of up to `LONGEST` inputs (window-limited likelihood ratio of an unknown new mean; Lai,
    *Sequential changepoint detection in quality control and dynamical systems*, JRSS B 1995). Inputs that have left
    the longest window become part of the reference.

    Args:
        coordinates ([`Coordinates`]): Of the reference.
        mean (`Tensor`): `[D]`, float64, of the reference's inputs in these coordinates.
        weight (`float`): Number of inputs that the mean was estimated from.
        toward ([`Toward`]): The known tasks.
        expected_run (`float`): Mean number of inputs between false alarms of the windows.
    """

    def __init__(
        self, coordinates: Coordinates, mean: Tensor, weight: float, toward: Toward, expected_run: float
    ) -> None:
        self.coordinates, self.toward = coordinates, toward
        self.mean, self.weight = mean, weight
        self.square, self.squares = PRIOR / float(coordinates.dimensions), float(PRIOR)
        self.seen, self.start = 0, 2 * LONGEST
        # Newest first from `start` on. When the start is reached, what is still needed moves to the end.
        self.features = coordinates.centre.new_zeros(2 * LONGEST, len(mean))
        self.units = torch.zeros_like(self.features)
        self.recent = mean.new_zeros(2 * LONGEST)  # mean squared product of each input with those before
        self.sums = mean.new_zeros(LONGEST)
        self.calibrate(expected_run)

    def calibrate(self, expected_run: float) -> None:
        """Sets the limits of the windows."""
        dimensions = min(int(self.coordinates.dimensions), MOST_DIMENSIONS)
        self.limits = window_limits(expected_run, 2 ** (dimensions.bit_length() - 1))

    @property
    def kept(self) -> int:
        """Number of inputs whose features are kept."""
        return min(self.seen, LONGEST)

    def step(self, features: Tensor) -> None:
        """Takes the next input in, `[D]`, float32."""
        if self.seen >= LONGEST:
            self.weight += 1
            self.mean = self.mean + (self.units[self.start + LONGEST - 1] - self.mean) / self.weight
        unit = self.coordinates(features)
        centre = self.mean.float()
        away = unit - centre
        past = self.units[self.start : self.start + self.kept]
        usual = (self.square / self.squares) ** 0.5
        products = (past @ away - centre @ away).double() - 1 / self.weight
        products = products.clamp(-BOUND * usual, BOUND * usual)
        row = self.sums.new_zeros(LONGEST)
        row[: len(products)] = products / usual
        self.sums = extended(self.sums, row)
        self.toward.step(away)
        self._keep(features, unit, float(products[:DELAY].square().mean()) if len(products) else 0.0)
        self._absorb()

    def _keep(self, features: Tensor, unit: Tensor, recent: float) -> None:
        if self.start == 0:
            for kept in (self.features, self.units, self.recent):
                kept[1 - LONGEST :] = kept[: LONGEST - 1].clone()
            self.start = LONGEST + 1
        self.start -= 1
        self.seen += 1
        self.features[self.start], self.units[self.start], self.recent[self.start] = features, unit, recent

    def _absorb(self) -> None:
        """Lets the input of `DELAY` inputs ago count in what is usual."""
        if self.seen <= DELAY:
            return
        self.toward.absorb(self.units[self.start + DELAY] - self.mean.float())
        if self.seen > DELAY + PRIOR:  # the first ones have too few inputs before them
            self.square += float(self.recent[self.start + DELAY])
            self.squares += 1

    def evidence(self) -> tuple[float, int]:
        """The largest statistic as a share of its limit, and the number of inputs since the boundary that it shows."""
        known_mean, estimated = window_deviations()
        heights = (self.sums / (known_mean + estimated / self.weight))[: self.kept]
        # The limits leave short windows out, but the boundary may lie within the shortest that has one.
        of_windows = float((heights / self.limits[: self.kept]).amax()), int(heights.argmax()) + 1
        return max(of_windows, self.toward.evidence())

    def newest(self, count: int) -> Tensor:
        """The features of the newest inputs, newest first, at most `LONGEST`."""
        return self.features[self.start : self.start + min(count, self.kept)]

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on."""
        own = {name: getattr(self, name) for name in ("mean", "weight", "square", "squares", "seen", "start")}
        own |= {name: getattr(self, name) for name in ("features", "units", "recent", "sums", "limits")}
        for prefix, part in (("coordinates", self.coordinates), ("toward", self.toward)):
            own |= {f"{prefix}.{field.name}": getattr(part, field.name) for field in fields(part)}
        return {name: value.clone() if isinstance(value, Tensor) else value for name, value in own.items()}

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> Segment:
        """The stretch with this `state_dict`."""
        segment = cls.__new__(cls)
        parts: dict[str, dict[str, Any]] = {"coordinates": {}, "toward": {}}
        for name, value in state.items():
            value = value.clone() if isinstance(value, Tensor) else value
            prefix, _, field = name.partition(".")
            if field:
                parts[prefix][field] = value
            else:
                setattr(segment, name, value)
        segment.coordinates, segment.toward = Coordinates(**parts["coordinates"]), Toward(**parts["toward"])
        return segment
