"""Policies by name: how one is policy, and how it is written in a saved adapter."""

from __future__ import annotations

import re
import warnings
from typing import Any

from ..knowledge import Constants
from .cascade import Cascade
from .oracle import Oracle
from .policy import RetrievalPolicy
from .signature import NearestSignature
from .uncertainty import LeastUncertain

BUILT_IN: dict[str, RetrievalPolicy] = {
    policy.name: policy for policy in (NearestSignature(), LeastUncertain(), Cascade(), Oracle())
}
POLICIES = tuple(name for name in BUILT_IN if name != Oracle.name)
"""Names that a configuration and a command line may give."""

# A saved adapter calls a policy of a user's own `own:<name>`: its code is not in the file.
_OWN = re.compile(r"own:([\w.-]{1,60})", re.ASCII)


def policy_of(
    policy: Any, argument: str = "policy", *, oracle: bool = False, constants: Constants | None = None
) -> RetrievalPolicy:
    """The policy that a name, a class or an instance stands for.

    Args:
        policy (`str`, `type[RetrievalPolicy]` or [`RetrievalPolicy`]): A built-in one by name, or any.
        argument (`str`): What the caller calls it, for the error.
        oracle (`bool`): Whether the oracle is one of the choices.
        constants ([`~knowledge.Constants`], *optional*): Of the adapter, which a policy that is given by name goes by.

    Raises:
        ValueError: names the argument and the choices.
    """
    chosen = _chosen(policy)
    if chosen is None or (isinstance(chosen, Oracle) and not oracle):
        raise ValueError(f"`{argument}` is {policy!r:.200}; {_choices(oracle)}")
    return chosen.under(constants) if isinstance(policy, str) and constants is not None else chosen


def saved_name(policy: Any) -> str:
    """What a saved adapter calls a policy: the name of a built-in one as it is, `own:<name>` for any other.

    Raises:
        ValueError: when its name cannot be written.
    """
    chosen = policy_of(policy, "retrieval")
    built_in = BUILT_IN.get(chosen.name)
    if type(built_in) is type(chosen) and vars(built_in) == vars(chosen):
        return chosen.name
    name = f"own:{chosen.name}"
    if not _OWN.fullmatch(name):
        raise ValueError(
            f"`name` of the retrieval policy `{type(chosen).__name__}` is {chosen.name!r:.80}; give 1 to 60 letters, "
            "digits, `.`, `_` or `-`, by which a saved adapter can call it."
        )
    return name


def read_name(saved: Any) -> Any:
    """What to go by instead of a saved name: `"signature"` where that is of no built-in policy, with a warning that
    names it; anything else is given back as it is."""
    own = _OWN.fullmatch(saved) if isinstance(saved, str) else None
    if own is None:
        return saved
    warnings.warn(
        f"The adapter was saved with the retrieval policy `{own[1]}`, which is not built in, so that `signature` is "
        "used. Give the policy again, as `retrieval` of the model's configuration or as `policy` of `predict`.",
        stacklevel=3,
    )
    return NearestSignature.name


def check_policy(value: Any) -> str | None:
    """What a `retrieval` setting must be, given or read from a file; `None` where it is that."""
    if isinstance(value, str) and _OWN.fullmatch(value):
        return None
    chosen = _chosen(value)
    return _choices() if chosen is None or isinstance(chosen, Oracle) else None


def _chosen(policy: Any) -> RetrievalPolicy | None:
    if isinstance(policy, str):
        return BUILT_IN.get(policy)
    if isinstance(policy, type) and issubclass(policy, RetrievalPolicy):
        return policy()
    return policy if isinstance(policy, RetrievalPolicy) else None


def _choices(oracle: bool = False) -> str:
    return f"choose one of {list(BUILT_IN if oracle else POLICIES)}, or give a `RetrievalPolicy`."
