"""`signature`: an input goes to the group where it lies in the trunk's hidden states."""

from __future__ import annotations

from typing import ClassVar

from .policy import RetrievalPolicy


class NearestSignature(RetrievalPolicy):
    """The group whose signature makes an input likeliest: the default.

    Inputs of a class are taken to be Gaussian, all with one covariance; where that leaves several tasks in question,
    with covariances partly their own. The mathematics and its constants are those of `knowledge.signatures`, which
    fits signatures and compares inputs with them. No member runs but those that answer, so that an answer costs one
    forward pass however many groups there are.
    """

    name: ClassVar[str] = "signature"
