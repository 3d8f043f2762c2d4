"""What an adapter has learned, as server and clients exchange and compare it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from torch import nn

from ..adapter import knowledge_of, tensors_after
from ..knowledge import KnowledgeBase
from ..utils.digests import digest_of


def state_digest(model: nn.Module) -> int:
    """A number that is equal only for adapters that learned the same, to the bit; it fits 63 bits."""
    manifest = knowledge_of(model).to_dict()
    learned = {key: value for key, value in manifest.items() if key != "base"}
    text = json.dumps(learned, sort_keys=True) + digest_of(tensors_after(model, 0))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def same_base(one: KnowledgeBase, other: KnowledgeBase) -> bool:
    """Whether two adapters are of the same base; its dtype is known only from the first task on."""

    def identity(knowledge: KnowledgeBase) -> dict[str, Any]:
        return {key: value for key, value in knowledge.base.items() if key != "dtype"}

    def features(knowledge: KnowledgeBase) -> tuple[Any, ...]:
        return knowledge.trunk, knowledge.depths, knowledge.pooling

    return (identity(one), features(one)) == (identity(other), features(other))
