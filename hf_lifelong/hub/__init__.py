"""The Hub: the model card, and pushing."""

from .card import CardFacts, TaskFacts, model_card
from .transfer import PushConflictError, PushError, push_to_hub

__all__ = ["CardFacts", "PushConflictError", "PushError", "TaskFacts", "model_card", "push_to_hub"]
