"""Retrieval: which group answers an input. Policies are objects; pure functions of tensors, no model code."""

from .cascade import Cascade
from .names import BUILT_IN, POLICIES, check_policy, policy_of, read_name, saved_name
from .oracle import Oracle
from .policy import Evidence, PolicyLike, RetrievalPolicy, Routing, margin_of
from .signature import NearestSignature
from .uncertainty import LeastUncertain

__all__ = [
    "BUILT_IN",
    "POLICIES",
    "Cascade",
    "Evidence",
    "LeastUncertain",
    "NearestSignature",
    "Oracle",
    "PolicyLike",
    "RetrievalPolicy",
    "Routing",
    "check_policy",
    "margin_of",
    "policy_of",
    "read_name",
    "saved_name",
]
