"""Our groups, chosen by the router of Any-SSR."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoConfig

from hf_lifelong.retrieval import Evidence, RetrievalPolicy
from hf_lifelong.statistics import TaskRows, TaskStatistic, Values
from hf_lifelong.storage import TensorSpec
from hf_lifelong.training import PreparedTask

from .ours import learn, result_of
from .shared import Result, Setting


def any_ssr(tasks: Sequence[PreparedTask], setting: Setting) -> Result:
    """The groups, members and answers of `ours`, but the group is chosen by the router of Any-SSR (Tong et al., 2025):
    ridge regression of the task on a random linear map of a mean hidden state. The published method reads it after
    four layers and has one LoRA a task; here it is that at the trunk's end, and a group answers for all of its tasks.
    """
    sums = RouterSums(AutoConfig.from_pretrained(setting.model).hidden_size, setting.seed)
    with tempfile.TemporaryDirectory() as folder:
        return result_of(learn(tasks, setting, folder, RidgeRouter(sums), [sums]), folder)


class RouterSums(TaskStatistic):
    """What the router is made of: sums over the training rows of each task, of the mean hidden states f `[H]` at the
    trunk's end.

    Ridge regression on `f @ W`, W `[H, width]`, is the same as one on f with the penalty `penalty * inv(W @ W.T)`: a
    linear map adds no features. So it is solved in H dimensions.

    Args:
        hidden (`int`): H.
        seed (`int`): Of the draw of W ~ N(0, deviation^2).
        width (`int`), deviation (`float`), penalty (`float`): As published.

    Attributes:
        weights (`Tensor`): `[H, tasks]`, float64, of the tasks learned so far.
    """

    name = "router-sums"
    tensors = (
        TensorSpec("gram", ("hidden", "hidden"), dtype="float64"),
        TensorSpec("total", ("hidden",), dtype="float64"),
    )

    def __init__(
        self, hidden: int, seed: int, width: int = 10_000, deviation: float = 0.02, penalty: float = 100.0
    ) -> None:
        draw = torch.Generator().manual_seed(seed)
        mapped = deviation * torch.randn(hidden, width, generator=draw, dtype=torch.float64)
        self.penalised = penalty * torch.linalg.inv(mapped @ mapped.T)
        self.totals: list[Tensor] = []
        self.weights = torch.zeros(hidden, 0, dtype=torch.float64)

    def states(self, features: Tensor) -> Tensor:
        """Mean hidden states at the trunk's end `[n, H]`, float64, from features of signatures: the mean at the first
        depth and what is added up to each further one, before the largest values."""
        return features.double().cpu().unflatten(1, (-1, len(self.weights)))[:, :-1].sum(1)

    def fit(self, rows: TaskRows) -> Values:
        states = self.states(rows.features)
        gram, total = states.T @ states, states.sum(0)
        self.penalised = self.penalised + gram
        self.totals.append(total)
        self.weights = torch.linalg.solve(self.penalised, torch.stack(self.totals, 1))
        return {"gram": gram, "total": total}

    def describe(self, values: Values) -> dict[str, float]:
        return {"trace of the Gram matrix": float(values["gram"].trace())}


class RidgeRouter(RetrievalPolicy):
    """The group of the task that the regression prefers.

    Args:
        sums ([`RouterSums`]): Has its weights.
    """

    name = "any-ssr"
    needs_likelihood = False

    def __init__(self, sums: RouterSums) -> None:
        self.sums = sums

    def likelihood(self, evidence: Evidence) -> Tensor:
        scores = self.sums.states(evidence.features) @ self.sums.weights
        return scores.float().to(evidence.features.device)
