"""Policies by name: how a name stands for a policy, and how a saved adapter names its policy."""

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
"""Names that a configuration and a command line accept."""

# A saved adapter names a user-defined policy `own:<name>`: its code is not in the file.
_USER_DEFINED = re.compile(r"own:([\w.-]{1,60})", re.ASCII)


def policy_of(
    policy: Any, argument: str = "policy", *, oracle: bool = False, constants: Constants | None = None
) -> RetrievalPolicy:
    """The policy that a name, a class or an instance stands for.

    Args:
        policy (`str`, `type[RetrievalPolicy]` or [`RetrievalPolicy`]): The name of a built-in policy, or any class or
            instance.
        argument (`str`): The caller's name for the argument, for the error.
        oracle (`bool`): Whether the oracle is one of the choices.
        constants ([`~knowledge.Constants`], *optional*): The adapter's constants, used if the policy is given by name.

    Raises:
        ValueError: names the argument and the choices.
    """
    chosen = _chosen(policy)
    if chosen is None or (isinstance(chosen, Oracle) and not oracle):
        raise ValueError(f"`{argument}` is {policy!r:.200}; {_choices(oracle)}")
    return chosen.under(constants) if isinstance(policy, str) and constants is not None else chosen


def saved_name(policy: Any) -> str:
    """The name of a policy in a saved adapter: a built-in policy's own name, or `own:<name>` for any other.

    Raises:
        ValueError: when its name has characters that cannot be saved, or is too long.
    """
    chosen = policy_of(policy, "retrieval")
    built_in = BUILT_IN.get(chosen.name)
    if type(built_in) is type(chosen) and vars(built_in) == vars(chosen):
        return chosen.name
    name = f"own:{chosen.name}"
    if not _USER_DEFINED.fullmatch(name):
        raise ValueError(
            f"`name` of the retrieval policy `{type(chosen).__name__}` is {chosen.name!r:.80}; give 1 to 60 letters, "
            "digits, `.`, `_` or `-`, so that a saved adapter can name it."
        )
    return name


def read_name(saved: Any) -> Any:
    """Replaces the saved name of a user-defined policy by `"signature"`, with a warning that names the policy. Returns
    anything else unchanged."""
    user_defined = _USER_DEFINED.fullmatch(saved) if isinstance(saved, str) else None
    if user_defined is None:
        return saved
    warnings.warn(
        f"The adapter was saved with the retrieval policy `{user_defined[1]}`, which is not built in, so `signature` "
        "is used. Give the policy again, as `retrieval` of the model's configuration or as `policy` of `predict`.",
        stacklevel=3,
    )
    return NearestSignature.name


def check_policy(value: Any) -> str | None:
    """What a `retrieval` setting must be, whether given or read from a file; `None` if it is valid."""
    if isinstance(value, str) and _USER_DEFINED.fullmatch(value):
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
