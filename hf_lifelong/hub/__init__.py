"""The Hub: the model card, pushing, and fetching."""

from .card import CardFacts, TaskFacts, model_card
from .errors import PullError, PushConflictError, PushError
from .pull import pull
from .saved import SavedAdapter
from .transfer import push_to_hub

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
