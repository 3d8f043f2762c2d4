"""The ways to keep members, by where their tensors lie."""

from __future__ import annotations

from collections.abc import Mapping

from ..storage import FULL, LOW_RANK
from .full_rank import FullLayer
from .layers import MemberKind
from .low_rank import DriftLayer

MEMBER_KINDS: Mapping[str, type[MemberKind]] = {LOW_RANK: DriftLayer, FULL: FullLayer}
