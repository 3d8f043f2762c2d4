"""How far an input lies from its task along the directions that tell tasks apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.stats import chi2
from torch import Tensor

from .constants import Constants
from .own_scatter import TASKS_AT_ONCE
from .router import Router
from .signatures import Signature, class_spread


@dataclass(frozen=True)
class Familiarity:
    """Where the inputs of each task lie along the directions that tell the tasks apart.

    Args:
        basis (`Tensor`): `[m, D]`, the leading directions between the tasks' discriminants, m < tasks.
        mean (`Tensor`): `[tasks, m]`.
        precision (`Tensor`): `[tasks, m, m]`, inverse covariance: half of it the task's own, half the shared one.
        limit (`float`): Squared distance above which an input counts as unknown.
    """

    basis: Tensor
    mean: Tensor
    precision: Tensor
    limit: float

    def __call__(self, features: Tensor, task: Tensor) -> Tensor:
        """Squared distance as a share of the limit, `[rows]`.

        Args:
            features (`Tensor`): `[rows, D]`.
            task (`Tensor`): `[rows]`, the task of each row.
        """
        away = features @ self.basis.T - self.mean[task]
        return torch.einsum("nm,nmk,nk->n", away, self.precision[task], away).clamp_min(0) / self.limit


def familiarity(signature: Signature, router: Router, constants: Constants) -> Familiarity | None:
    """The rule for the tasks present; `None` for a single task.

    Inputs of a task that was never learned lie between the learned tasks. In the hidden states as a whole they are not
    far out, because long and short texts differ more than tasks do. Along the directions that tell tasks apart they
    are.
    """
    apart = (router.apart - router.apart.mean(0)).double()
    values, vectors = torch.linalg.eigh(apart @ apart.T)
    keep = values > values.max() * 1e-6
    keep[: max(len(values) - constants.directions, 1)] = False
    if not keep.any():
        return None
    basis = vectors[:, keep].T @ apart
    factor = torch.cat([factors.double() @ basis.T for factors in signature.factor.split(TASKS_AT_ONCE)])
    of_task = factor.mT @ factor + (basis * signature.diagonal.double().unsqueeze(1)) @ basis.T
    # A task's covariance is that of its inputs around the class means plus that of the class means.
    spread = class_spread(signature, router.owner) @ basis.T
    of_task.index_add_(0, router.owner, spread.unsqueeze(2) * spread.unsqueeze(1))
    covariance = (of_task + of_task.mean(0)) / 2
    m = len(basis)
    limit = (constants.stretch * m + constants.added) / m * float(chi2.ppf(1 - constants.false_alarms, m))
    mean = signature.mean.double() @ basis.T
    return Familiarity(basis.float(), mean.float(), torch.linalg.inv(covariance).float(), limit)
