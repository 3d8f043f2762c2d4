"""`signature`: an input goes to the group whose inputs it resembles in the trunk's hidden states."""

from __future__ import annotations

from typing import ClassVar

from .policy import RetrievalPolicy


class NearestSignature(RetrievalPolicy):
    """The group whose signature makes an input likeliest: the default.

    The inputs of each class are modelled as a Gaussian with a covariance that all classes share. If that is not very
    clear, the nearest classes are compared under covariances that are partly their own. `knowledge.signatures` fits
    signatures, `knowledge.router` compares inputs with them. Only the members that
    answer run, so an answer costs one forward pass however many groups there are.
    """

    name: ClassVar[str] = "signature"
