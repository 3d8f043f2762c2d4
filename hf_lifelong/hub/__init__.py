"""The Hub: the model card, pushing, and fetching."""

from .card import CardFacts, TaskFacts, model_card
from .pull import PullError, pull
from .saved import SavedAdapter
from .transfer import PushConflictError, PushError, push_to_hub

__all__ = [
    "CardFacts",
    "PullError",
    "PushConflictError",
    "PushError",
    "SavedAdapter",
    "TaskFacts",
    "model_card",
    "pull",
    "push_to_hub",
]
