"""The calls and forward passes under way: each thread has its own.

A pass stores nothing in the model. Therefore several threads can ask one model at once, a copy of the model contains
no pass, and a forked child never waits for the end of an inherited pass.
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
Factors = dict[nn.Module, tuple[Tensor, ...]]


@dataclass(frozen=True, eq=False)
class Pass:
    """The state of a forward pass. A hook that knows more replaces it by a new one.

    Args:
        mode (`str`): What every injected layer does: `"base"` (as without adapter), `"working"` (use the working
            adapter) or `"bank"` (follow `plan`).
        query ([`Query`], *optional*): What the pass is asked, in mode `"bank"`.
        mask (`Tensor`, *optional*): `[B, T]`, 1 for tokens and 0 for padding.
        targets (`dict`): The targets of the loss, by name.
        kind (`str`): Kind of the task that is being learned, in mode `"working"`.
        voted ([`Answer`], *optional*): For a language model, the members' vote before the pass.
        pooled ([`Pooled`], *optional*): What the trunk's layers have pooled so far.
        fork ([`Fork`], *optional*): What was decided at the trunk's end.
        plan ([`Plan`], *optional*): Which members answer: the plan of `fork`, or, if the pass continues an answer and
            has no fork, the plan of that answer.
        factors (`dict`, *optional*): The factors of the rows in each layer, which the passes of one answer share.
        prompt (`Tensor`, *optional*): `[B, T]`, 1 for the tokens by which groups are chosen, if not by all.
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
    prompt: Tensor | None = None

    @property
    def goes_on(self) -> bool:
        """Whether it continues the answer of an earlier pass, which chose the groups."""
        return self.plan is not None and self.fork is None


class Call:
    """One call of a caller, which may take several passes.

    Attributes:
        query ([`Query`]): What its passes are asked.
        answer ([`Answer`], *optional*): The answer of a language model's last pass, whose output has no field for it.
    """

    def __init__(self, query: Query) -> None:
        self.query = query
        self.answer: Answer | None = None


class _Here:
    """The calls and passes of a thread, in tuples that are only replaced as a whole."""

    def __init__(self) -> None:
        self.calls: tuple[tuple[Context, Call], ...] = ()
        self.passes: tuple[tuple[Context, Pass], ...] = ()


class _Thread(threading.local):
    def __init__(self) -> None:  # of every thread
        self.here = _Here()  # a separate object, because the compiler may lose attributes set on a `threading.local`


_THREAD = _Thread()


class Context:
    """Gives the hooks and layers of a model, which share this object, the current call and pass.

    Attributes:
        learning (`bool`): Whether a task is open. Gradient checkpointing runs layers again in the backward pass, after
            their pass has ended; they then use the working adapter.
    """

    def __init__(self) -> None:
        self.learning = False

    @property
    def call(self) -> Call | None:
        """This thread's call of the model through `asking`; `None` for plain calls."""
        for context, call in reversed(_THREAD.here.calls):
            if context is self:
                return call
        return None

    @property
    def current(self) -> Pass | None:
        """This thread's pass in the model."""
        for context, current in _THREAD.here.passes:
            if context is self:
                return current
        return None

    def proceed(self, current: Pass) -> None:
        """Begins or updates a pass. Drops this thread's earlier pass in the model, as after an interruption."""
        self.leave()
        _THREAD.here.passes = (*_THREAD.here.passes, (self, current))

    def leave(self) -> None:
        """Ends the model's pass in this thread."""
        here = _THREAD.here
        here.passes = tuple([entry for entry in here.passes if entry[0] is not self])

    @contextmanager
    def asking(self, query: Query) -> Iterator[Call]:
        """Makes passes that this thread begins inside the context follow a query. A pass that is under way continues
        afterwards."""
        here, call = _THREAD.here, Call(query)
        outer = here.calls, here.passes
        here.calls = (*outer[0], (self, call))
        try:
            yield call
        finally:
            here.calls, here.passes = outer


def shared_lock() -> threading.Lock:
    """A lock for data that threads share, held briefly and never during a pass. A fork waits for it; otherwise a child
    could inherit it held by a thread that the child does not have."""
    lock = threading.Lock()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)
    return lock


LOCK = shared_lock()

# For each model that is being asked: how many threads ask it, and which of its modules were in training mode before.
_ASKED: WeakKeyDictionary[Context, tuple[int, list[nn.Module]]] = WeakKeyDictionary()


@contextmanager
def in_eval_mode(model: nn.Module, context: Context) -> Iterator[None]:
    """Keeps a model in eval mode while any thread is inside the context, then restores the mode of each module."""
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
