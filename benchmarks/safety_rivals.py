"""Activation Clustering and Spectral Signatures of the Adversarial Robustness Toolbox, as they come, on the hidden
states of our trained members. They rank rows of a data set that is taken for poisoned: neither says that one is clean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn


def found_by_rivals(states: np.ndarray, labels: np.ndarray, classes: int, poisoned: tuple[int, ...]) -> dict[str, Any]:
    """Shares of the poisoned and of the clean rows that each takes for poisoned.

    Args:
        states (`ndarray`): float32 `[n, H]`, hidden states of the training rows.
        labels (`ndarray`): int64 `[n]`, labels that they were trained on.
        classes (`int`): Number of labels.
        poisoned (`tuple[int, ...]`): Rows that are poisoned.

    Raises:
        ImportError: where adversarial-robustness-toolbox is not installed.
    """
    from art.defences.detector.poison import ActivationDefence, SpectralSignatureDefense
    from art.estimators.classification import PyTorchClassifier

    # The states are read before, so that the toolbox's last layer is theirs.
    model = nn.Sequential(nn.Identity())
    classifier = PyTorchClassifier(model, nn.CrossEntropyLoss(), (states.shape[1],), classes)
    one_hot = np.eye(classes, dtype=np.float32)[labels]
    truth = np.isin(np.arange(len(labels)), poisoned)
    defences = {
        "activation_clustering": lambda: ActivationDefence(classifier, states, one_hot).detect_poison(
            nb_clusters=2, nb_dims=10, reduce="PCA"
        ),
        "spectral_signatures": lambda: SpectralSignatureDefense(classifier, states, one_hot).detect_poison(),
    }
    found = {}
    for name, run in defences.items():
        flagged = np.array(run()[1]) == 0
        found[name] = {
            "poisoned_rows_flagged": float(flagged[truth].mean()) if truth.any() else None,
            "clean_rows_flagged": float(flagged[~truth].mean()),
        }
    return found
