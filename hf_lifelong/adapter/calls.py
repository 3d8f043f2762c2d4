"""What is asked of a model, and the passes under way in it: each thread has its own.

Nothing of a pass lies in the model. So several threads ask one model at once, a copy of it takes no pass along, and a
child of a fork inherits none whose end it would wait for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from torch import Tensor, nn

if TYPE_CHECKING:
    from .layers import Plan
    from .planning import Choice, Tables


@dataclass
class Found:
    """Which groups a pass chose for its B inputs, all `[B]`: see `LifelongOutput`."""

    group: Tensor
    task: Tensor
    margin: Tensor
    uncertainty: Tensor | None = None
    novelty: Tensor | None = None


@dataclass
class Request:
    """What a caller asks of one forward pass; fields that are `None` follow the adapter's configuration.

    Args:
        policy (`str`, *optional*): A retrieval policy, `"oracle"` (then `group` is used), or `"features"` (stop at the
            trunk's end).
        group (`Tensor`, *optional*): `[B]`, the group of each row.
        answer (`str`, *optional*): `"merged"` or `"ensemble"`.
        uncertainty (`str`, *optional*): `"entropy"` or `"variance"`.
        per_batch (`bool`, *optional*): One group for the whole batch.
        novelty (`bool`): Also measure how far each input lies from the task that answers.
        kinds (`tuple[str, ...]`, *optional*): Only groups of these kinds may answer.
        vote (`bool`): Of a language model, only ask its members which group is least uncertain.
        features (`Tensor`, *optional*): `[B, D]`, set by the pass.
        found ([`Found`], *optional*): Set by the pass of a language model, whose own output has no place for it.
    """

    policy: str | None = None
    group: Tensor | None = None
    answer: str | None = None
    uncertainty: str | None = None
    per_batch: bool | None = None
    novelty: bool = False
    kinds: tuple[str, ...] | None = None
    vote: bool = False
    features: Tensor | None = None
    found: Found | None = None


@dataclass(frozen=True)
class Fork:
    """What the trunk's end decided for the layers above it."""

    choice: Choice
    plan: Plan
    tables: Tables
    rows: int
    features: Tensor | None


@dataclass(eq=False)
class Pass:
    """One forward pass.

    Args:
        mode (`str`): What it does in every injected layer: `"base"` (as without adapter), `"working"` (the working
            pair) or `"bank"` (as `plan` says).
        request ([`Request`]): What it is asked.
        plan ([`Plan`], *optional*): Which members answer; set at the trunk's end.
        routed (`bool`): Whether groups were chosen in an earlier pass: a language model goes on with its answer.
    """

    mode: str
    request: Request
    mask: Tensor | None = None
    targets: dict[str, Tensor] = field(default_factory=dict)
    kind: str = ""
    choice: Choice | None = None
    group: Tensor | None = None
    pooled: list[Tensor] = field(default_factory=list)
    shares: Tensor | None = None
    peak: Tensor | None = None
    fork: Fork | None = None
    plan: Plan | None = None
    routed: bool = False

    @property
    def needs_features(self) -> bool:
        return self.choice is None or self.choice.policy != "uncertainty" or self.request.novelty


class _Here:
    """What a thread has under way, in tuples that are set whole."""

    def __init__(self) -> None:
        self.requests: tuple[tuple[Route, Request], ...] = ()
        self.passes: tuple[tuple[Route, Pass], ...] = ()


class _Thread(threading.local):
    def __init__(self) -> None:  # of every thread
        self.here = _Here()  # an object of its own: what is set on a `threading.local` itself the compiler may lose


_THREAD = _Thread()


class Route:
    """Where the hooks and layers of a model find the pass that they are in: shared by reference.

    Attributes:
        resting (`str`): The mode of a layer outside of passes; `"working"` while a task is open, because gradient
            checkpointing runs layers again in the backward pass, when the pass that they belong to has ended.
    """

    def __init__(self) -> None:
        self.resting = "base"

    @property
    def request(self) -> Request | None:
        """What a caller in this thread asks of the model's passes; `None` of plain calls."""
        for route, request in reversed(_THREAD.here.requests):
            if route is self:
                return request
        return None

    @property
    def current(self) -> Pass | None:
        """The pass that this thread has under way in the model."""
        for route, current in _THREAD.here.passes:
            if route is self:
                return current
        return None

    def enter(self, current: Pass) -> None:
        """Begins a pass; one of the same model that has not ended, because it was interrupted, is dropped."""
        self.leave()
        _THREAD.here.passes = (*_THREAD.here.passes, (self, current))

    def leave(self) -> None:
        """Ends the model's pass in this thread."""
        here = _THREAD.here
        here.passes = tuple([entry for entry in here.passes if entry[0] is not self])

    @contextmanager
    def asking(self, request: Request) -> Iterator[None]:
        """Makes the passes that this thread begins inside follow a request; one that is under way goes on after it."""
        here = _THREAD.here
        outer = here.requests, here.passes
        here.requests = (*outer[0], (self, request))
        try:
            yield
        finally:
            here.requests, here.passes = outer


def shared_lock() -> threading.Lock:
    """A lock for what threads share, held for moments and never during a pass. A fork waits for it, so that no child
    inherits it held by a thread that the child does not have."""
    lock = threading.Lock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


LOCK = shared_lock()

# Of each model that is being asked: how many ask it, and which of its modules were in training mode before.
_ASKED: WeakKeyDictionary[Route, tuple[int, list[nn.Module]]] = WeakKeyDictionary()


@contextmanager
def in_eval_mode(model: nn.Module, route: Route) -> Iterator[None]:
    """Keeps a model in eval mode for as long as any thread is inside, then gives each module its own mode back."""
    with LOCK:
        count, before = _ASKED.get(route, (0, []))
        switched = [module for module in model.modules() if module.training]
        for module in switched:
            module.training = False
        _ASKED[route] = count + 1, before + switched
    try:
        yield
    finally:
        with LOCK:
            count, before = _ASKED.pop(route)
            if count > 1:
                _ASKED[route] = count - 1, before
            else:
                for module in before:
                    module.training = True


def asked_elsewhere(route: Route) -> bool:
    """Whether another thread asks the model, which is in eval mode for it."""
    return route.request is None and route in _ASKED
