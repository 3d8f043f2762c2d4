"""The Hub: the model card, and pushing."""

from .card import model_card
from .facts import CardFacts
from .transfer import PushConflictError, PushError, push_to_hub

__all__ = ["CardFacts", "PushConflictError", "PushError", "model_card", "push_to_hub"]
