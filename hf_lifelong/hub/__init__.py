"""The Hub: the model card, pushing, and fetching."""

from .card import model_card
from .errors import PullError, PushConflictError, PushError
from .facts import CardFacts
from .pull import pull
from .saved import SavedAdapter
from .transfer import push_to_hub

__all__ = [
    "CardFacts",
    "PullError",
    "PushConflictError",
    "PushError",
    "SavedAdapter",
    "model_card",
    "pull",
    "push_to_hub",
]
