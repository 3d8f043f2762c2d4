"""`oracle`: the group is given."""

from __future__ import annotations

from typing import ClassVar

import torch

from .policy import Evidence, RetrievalPolicy, Routing


class Oracle(RetrievalPolicy):
    """The group that the caller gives for each row: what answers would be if every group were found. No configuration
    can have it, because it needs groups with every batch."""

    name: ClassVar[str] = "oracle"
    needs_likelihood: ClassVar[bool] = False

    def route(self, evidence: Evidence) -> Routing:
        if evidence.group is None:
            raise ValueError('`group` and `policy="oracle"` go together: give both or neither.')
        return Routing(evidence.group, torch.ones_like(evidence.group, dtype=torch.float32))
