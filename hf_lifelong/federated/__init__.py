"""Federated training with Flower: any `Trainer` as a client, averages that are fair over all clients, and lifelong
learning in which clients learn each task together.

It needs the extra `federated`; without it, only the import of a name fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..utils.lazy import lazily

__all__ = [
    "CheckedAvg",
    "FairAvg",
    "InProcessGrid",
    "SharedTask",
    "client_app",
    "learn_together",
    "lifelong_client",
    "load_trained",
    "trained_tensors",
]

if TYPE_CHECKING:
    from .client import client_app
    from .grid import InProcessGrid
    from .lifelong import lifelong_client
    from .strategy import CheckedAvg, FairAvg
    from .tensors import load_trained, trained_tensors
    from .together import SharedTask, learn_together

__getattr__ = lazily(
    __name__,
    {
        "CheckedAvg": ".strategy",
        "FairAvg": ".strategy",
        "InProcessGrid": ".grid",
        "SharedTask": ".together",
        "client_app": ".client",
        "learn_together": ".together",
        "lifelong_client": ".lifelong",
        "load_trained": ".tensors",
        "trained_tensors": ".tensors",
    },
)
