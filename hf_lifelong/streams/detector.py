"""Finds where one task ends and another begins in a stream of inputs, from their features alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..knowledge import check_features
from .limits import BOUND, SHORTEST
from .references import Coordinates, Reference, coordinates_of, coordinates_of_rows
from .segment import Segment
from .toward import toward

# Inputs of a first window.
WINDOW = 64
# Inputs count as those of a known task, or as a mixture of two tasks, if they differ by at most so many standard
# deviations. In a mixture, the known task must have at least this share.
ALIKE, LEAST_SHARE = 3.0, 0.2
# Number of nearest known tasks that these inputs are compared with.
CANDIDATES = 4
# As many inputs after a boundary the rest of a blurred one is not told again.
SETTLING = 192


@dataclass(frozen=True)
class Verdict:
    """What a stream shows after an input.

    Args:
        outcome (`str`): `"same"`, `"return"` (of a known task) or `"new"`.
        group (`str`, *optional*): For `"return"` the known task, for `"same"` the current one; `None` if it is new.
        since (`int`, *optional*): Position of the input where the boundary lies, counted from 0; `None` for `"same"`.
            The same position as that of the boundary before (0 for the first) means that what was taken for new since
            then is a known task.
        evidence (`float`): The largest statistic as a share of its limit, at least 1 at a boundary.
    """

    outcome: str
    group: str | None
    since: int | None
    evidence: float


class BoundaryDetector:
    """Watches a stream of inputs for boundaries, one input at a time.

    Each input is compared with the current task along the directions to all other known tasks (CUSUM), and within
    windows of inputs against a task that is not known yet. Only statistics of tasks are needed, and the features of
    the last 128 inputs are kept.

    Inputs are assumed to arrive in random order within a task. A change of labels alone cannot be seen.

    Args:
        known (`dict[str, Reference]`, *optional*): The known tasks.
        current (`str`, *optional*): Name of the known task that the stream begins with. `None`: the first 64 inputs
            become the reference.
        expected_run (`int`): Mean number of inputs between false alarms.

    Attributes:
        seen (`int`): Number of inputs so far.
        current (`str`, *optional*): Name of the known task that the stream shows.

    Example:
        ```python
        detector = BoundaryDetector(expected_run=2000)
        for features in stream:
            verdict = detector.update(features)
            if verdict.outcome != "same":
                detector.begin(verdict.group)
        ```
    """

    def __init__(
        self, known: Mapping[str, Reference] | None = None, current: str | None = None, expected_run: int = 2000
    ) -> None:
        self.known: dict[str, Reference] = {}
        self.seen = 0
        self.current: str | None = None
        self._width: int | None = None
        self._window: list[Tensor] = []
        self._segment: Segment | None = None
        self._began = 0
        self._before: Tensor | None = None
        self._told = 0
        self.calibrate(expected_run)
        for name, reference in (known or {}).items():
            self.learn(name, reference)
        self.begin(current)

    def calibrate(self, expected_run: int) -> None:
        """Sets the limits for another mean number of inputs between false alarms, from the next boundary on for those
        toward known tasks.

        Raises:
            ValueError: when it is less than 100.
        """
        if isinstance(expected_run, bool) or not isinstance(expected_run, int) or expected_run < 100:
            raise ValueError(f"`expected_run` must be an integer of at least 100 inputs, not {expected_run!r}.")
        self.expected_run = expected_run
        if self._segment is not None:
            self._segment.calibrate(expected_run * (2 if self._segment.toward.names else 1))

    def learn(self, name: str, reference: Reference) -> None:
        """Makes a task known, from the next boundary on.

        Raises:
            ValueError: when its statistics are of features of another size.
        """
        if not isinstance(reference, Reference):
            raise TypeError(f"`reference` must be a `Reference`, not {type(reference).__name__}.")
        width = len(reference.signature.mean)
        if self._width not in (None, width):
            raise ValueError(
                f"`reference` of {name!r} is of {width} features, but the detector's inputs have {self._width}."
            )
        self._width = width
        self.known[name] = reference

    def begin(self, name: str | None) -> None:
        """Says what the stream shows from the next input on.

        Args:
            name (`str`, *optional*): A known task; `None` for a new one, whose first 64 inputs become its reference.

        Raises:
            ValueError: when the task is not known.
        """
        if name is not None and name not in self.known:
            raise ValueError(f"`name` must be a known task or `None`, not {name!r}; known are {sorted(self.known)}.")
        if self._segment is not None:
            self._began, self._before = self.seen, self._segment.coordinates.centre
        self.current, self._window, self._segment = name, [], None
        if name is not None:
            reference = self.known[name]
            coordinates = coordinates_of(reference)
            self._open(coordinates, torch.zeros_like(coordinates.centre).double(), reference.inputs)

    def update(self, features: Tensor) -> Verdict:
        """Takes the next input in.

        Args:
            features (`Tensor`): `[D]`, floating point.

        Raises:
            TypeError, ValueError: when these are not the features of one input, or not finite, or not as many as
                before. The detector is then as it was.
        """
        self._check(features)
        features = features.detach().float().cpu()
        self._width = len(features)
        self.seen += 1
        if self._segment is None:
            return self._first(features)
        self._segment.step(features)
        evidence, length = self._segment.evidence()
        if evidence < 1 or length < SHORTEST:
            return Verdict("same", self.current, None, evidence)
        rows = self._segment.newest(length)
        if self._settles(self._segment, rows):
            if self.current is None:
                self._segment = None  # its first window was of a mixture
            return Verdict("same", self.current, None, evidence)
        group = self._recognised(self._segment.coordinates, rows)
        self._told = self.seen - length
        return Verdict("new" if group is None else "return", group, self._told, evidence)

    def _check(self, features: Tensor) -> None:
        if not isinstance(features, Tensor) or not features.is_floating_point():
            what = f"a tensor of {features.dtype}" if isinstance(features, Tensor) else type(features).__name__
            raise TypeError(f"`features` must be a floating-point tensor, not {what}.")
        if features.ndim != 1 or not len(features):
            raise ValueError(
                f"`features` must be of one input, `[D]`, not of shape {list(features.shape)}; call `update` for each "
                "input."
            )
        if self._width not in (None, len(features)):
            raise ValueError(
                f"`features` has {len(features)} values, but the inputs before and the known tasks have {self._width}."
            )
        check_features(features)

    def _first(self, features: Tensor) -> Verdict:
        """Takes an input of a first window in."""
        self._window.append(features)
        if len(self._window) < WINDOW:
            return Verdict("same", None, None, 0.0)
        rows, self._window = torch.stack(self._window), []
        coordinates = coordinates_of_rows(rows)
        self._open(coordinates, coordinates(rows).double().mean(0), WINDOW)
        if (group := self._recognised(None, rows)) is not None:
            return Verdict("return", group, self._told, 1.0)
        return Verdict("same", None, None, 0.0)

    def _open(self, coordinates: Coordinates, mean: Tensor, inputs: int) -> None:
        others = {name: reference for name, reference in self.known.items() if name != self.current}
        # Half of the false alarms are left to the windows, half to the sums toward known tasks.
        run = self.expected_run * (2 if others else 1)
        sums = toward(others, coordinates, inputs, run)
        self._segment = Segment(coordinates, mean, inputs, sums, run)

    def _settles(self, segment: Segment, rows: Tensor) -> bool:
        """Whether inputs `[n, D]` that differ from the reference are the rest of a blurred boundary: between it and
        the task before, if it is stored; beyond it, if it is the first window after the boundary."""
        if self._before is None or self.seen - self._began > SETTLING:
            return False
        coordinates = segment.coordinates
        share = _share(coordinates, rows, self._before)
        beyond = share < 0 if self.current is None else share > 0
        units = coordinates(rows) - segment.mean
        return beyond and _difference(coordinates, units, segment.weight, self._before) <= ALIKE

    def _recognised(self, coordinates: Coordinates | None, rows: Tensor) -> str | None:
        """The known task that inputs `[n, D]` are of, in part if the boundary is blurred.

        Args:
            coordinates ([`Coordinates`], *optional*): Of the task before the boundary.
        """
        others = [name for name in self.known if name != self.current]
        if not others:
            return None
        means = torch.stack([self.known[name].signature.mean for name in others])
        measure = coordinates or coordinates_of_rows(rows)
        apart = torch.linalg.vector_norm(measure.levelled(rows.mean(0) - means), dim=1)
        near = [others[i] for i in apart.topk(min(CANDIDATES, len(others)), largest=False).indices.tolist()]
        if coordinates is not None:
            near = [name for name in near if _share(coordinates, rows, self.known[name].signature.mean) >= LEAST_SHARE]
        differences = {}
        for name in near:
            own = coordinates_of(self.known[name])
            before = None if coordinates is None else coordinates.centre
            differences[name] = _difference(own, own(rows), self.known[name].inputs, before)
        best = min(differences, key=differences.__getitem__, default=None)
        return best if best is not None and differences[best] <= ALIKE else None

    def state_dict(self) -> dict[str, Any]:
        """All that verdicts depend on beside the known tasks: tensors, numbers and names."""
        state: dict[str, Any] = {
            "seen": self.seen,
            "current": self.current,
            "width": self._width,
            "expected_run": self.expected_run,
            "told": self._told,
            "began": self._began,
            "known": list(self.known),
        }
        if self._before is not None:
            state["before"] = self._before.clone()
        if self._window:
            state["window"] = torch.stack(self._window)
        if self._segment is not None:
            state |= {f"segment.{name}": value for name, value in self._segment.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues where `state_dict` was taken, to the bit.

        Raises:
            ValueError: when the detector does not know the same tasks.
        """
        if list(state["known"]) != list(self.known):
            raise ValueError(
                f"`state` is of a detector that knows {list(state['known'])}, but this one knows {list(self.known)}; "
                "make it with the same `known`."
            )
        self.seen, self.current, self._width = state["seen"], state["current"], state["width"]
        self.expected_run, self._told = state["expected_run"], state["told"]
        self._began, self._before = state["began"], state.get("before")
        self._window = list(state["window"].clone()) if "window" in state else []
        segment = {name[8:]: value for name, value in state.items() if name.startswith("segment.")}
        self._segment = Segment.of_state(segment) if segment else None


def _share(coordinates: Coordinates, rows: Tensor, mean: Tensor) -> float:
    """The share of another task in inputs `[n, D]`, by how far they lie toward its mean `[D]`."""
    toward = coordinates.levelled(mean - coordinates.centre).double()
    away = coordinates.levelled(rows - coordinates.centre).double()
    return float((away @ toward / toward.square().sum().clamp_min(1e-12)).clamp(-1, 2).mean())


def _difference(coordinates: Coordinates, units: Tensor, inputs: float, mixed_with: Tensor | None) -> float:
    """How far inputs lie from a task, in standard deviations: the mean product of two of them.

    Args:
        coordinates ([`Coordinates`]): Of the task.
        units (`Tensor`): `[n, D]`, the inputs in these.
        inputs (`float`): Number of inputs that the task's mean was estimated from.
        mixed_with (`Tensor`, *optional*): `[D]`, mean of another task: differences toward it do not count.
    """
    units, n = units.double(), len(units)
    if mixed_with is not None:
        line = coordinates.levelled(mixed_with - coordinates.centre).double()
        line = line / torch.linalg.vector_norm(line).clamp_min(1e-12)
        units = units - (units @ line).unsqueeze(1) * line
    first, second = torch.triu_indices(n, n, 1)
    products = (units @ units.T)[first, second] - 1 / inputs
    spread = products.std().clamp_min(1e-12)
    products = products.clamp(-BOUND * spread, BOUND * spread)
    return float(products.mean() / spread) * len(products) ** 0.5 / (1 + n / inputs)
