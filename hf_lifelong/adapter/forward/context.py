"""The calls and forward passes under way: each thread has its own.

Nothing of a pass lies in the model. So several threads ask one model at once, a copy of it takes no pass along, and a
child of a fork inherits none whose end it would wait for.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from .values import Answer, Fork, Pooled

if TYPE_CHECKING:
    from .plan import Plan
    from .query import Query

Mode = Literal["base", "working", "bank"]
Factors = dict[nn.Module, tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Pass:
    """A forward pass, as far as it has come: a hook that knows more of it puts another in its place.

    Args:
        mode (`str`): What every injected layer does: `"base"` (as without adapter), `"working"` (the working pair) or
            `"bank"` (as `plan` says).
        query ([`Query`], *optional*): What it is asked, in mode `"bank"`.
        mask (`Tensor`, *optional*): `[B, T]`, 1 for tokens and 0 for padding.
        targets (`dict`): What a loss is taken of, by name.
        kind (`str`): Of the task that is being learned, in mode `"working"`.
        voted ([`Answer`], *optional*): Of a language model, what its members said before the pass.
        pooled ([`Pooled`], *optional*): What the trunk has given so far.
        fork ([`Fork`], *optional*): What was decided at the trunk's end.
        plan ([`Plan`], *optional*): Which members answer: that of `fork`, or of the pass whose answer this one goes on
            with, which has no fork of its own.
        factors (`dict`, *optional*): The factors of the rows in each layer, which the passes of one answer share.
    """

    mode: Mode
    query: Query | None = None
    mask: Tensor | None = None
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    kind: str = ""
    voted: Answer | None = None
    pooled: Pooled | None = None
    fork: Fork | None = None
    plan: Plan | None = None
    factors: Factors | None = None

    @property
    def goes_on(self) -> bool:
        """Whether it goes on with the answer of an earlier pass, which chose the groups."""
        return self.plan is not None and self.fork is None


class Call:
    """One call of a caller, which may take several passes.

    Attributes:
        query ([`Query`]): What its passes are asked.
        answer ([`Answer`], *optional*): Of the last pass of a language model, whose output has no place for it.
    """

    def __init__(self, query: Query) -> None:
        self.query = query
        self.answer: Answer | None = None


class _Here:
    """What a thread has under way, in tuples that are set whole."""

    def __init__(self) -> None:
        self.calls: tuple[tuple[Context, Call], ...] = ()
        self.passes: tuple[tuple[Context, Pass], ...] = ()


class _Thread(threading.local):
    def __init__(self) -> None:  # of every thread
        self.here = _Here()  # an object of its own: what is set on a `threading.local` itself the compiler may lose


_THREAD = _Thread()


class Context:
    """Where the hooks and layers of a model find the call and the pass that they are in: shared by reference.

    Attributes:
        learning (`bool`): Whether a task is open. Gradient checkpointing runs layers again in the backward pass, when
            the pass that they belong to has ended; they use the working pair then.
    """

    def __init__(self) -> None:
        self.learning = False

    @property
    def call(self) -> Call | None:
        """What a caller in this thread asks of the model's passes; `None` of plain calls."""
        for context, call in reversed(_THREAD.here.calls):
            if context is self:
                return call
        return None

    @property
    def current(self) -> Pass | None:
        """The pass that this thread has under way in the model."""
        for context, current in _THREAD.here.passes:
            if context is self:
                return current
        return None

    def proceed(self, current: Pass) -> None:
        """Begins a pass, or goes on with it: what was there of the same model is dropped, as after an interruption."""
        self.leave()
        _THREAD.here.passes = (*_THREAD.here.passes, (self, current))

    def leave(self) -> None:
        """Ends the model's pass in this thread."""
        here = _THREAD.here
        here.passes = tuple([entry for entry in here.passes if entry[0] is not self])

    @contextmanager
    def asking(self, query: Query) -> Iterator[Call]:
        """Makes the passes that this thread begins inside follow a query; one that is under way goes on after it."""
        here, call = _THREAD.here, Call(query)
        outer = here.calls, here.passes
        here.calls = (*outer[0], (self, call))
        try:
            yield call
        finally:
            here.calls, here.passes = outer


def shared_lock() -> threading.Lock:
    """A lock for what threads share, held for moments and never during a pass. A fork waits for it, so that no child
    inherits it held by a thread that the child does not have."""
    lock = threading.Lock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


LOCK = shared_lock()

# Of each model that is being asked: how many ask it, and which of its modules were in training mode before.
_ASKED: WeakKeyDictionary[Context, tuple[int, list[nn.Module]]] = WeakKeyDictionary()


@contextmanager
def in_eval_mode(model: nn.Module, context: Context) -> Iterator[None]:
    """Keeps a model in eval mode for as long as any thread is inside, then gives each module its own mode back."""
    with LOCK:
        count, before = _ASKED.get(context, (0, []))
        switched = [module for module in model.modules() if module.training]
        for module in switched:
            module.training = False
        _ASKED[context] = count + 1, before + switched
    try:
        yield
    finally:
        with LOCK:
            count, before = _ASKED.pop(context)
            if count > 1:
                _ASKED[context] = count - 1, before
            else:
                for module in before:
                    module.training = True


def asked_elsewhere(context: Context) -> bool:
    """Whether another thread asks the model, which is in eval mode for it."""
    return context.call is None and context in _ASKED
