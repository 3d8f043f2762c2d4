"""Federated logistic regression, written as the papers say: FedAvg, FedGFT and what it is compared with.

All repeats, strengths and clients are one batch of tensors; shapes below have R repeats, L strengths, K clients, N
rows and D inputs. Two groups, two classes.

- `fedavg`: McMahan et al., 2017; clients take part in every round and are weighted by their rows.
- `fedgft`: Wang et al., TMLR 2024: each client adds `λ F (a / b - c / d)` of its batch to its loss, `F`, `b` and `d`
  those of all clients with the model of the round.
- `local_fair` (FedFairLocal there): the same with `F`, `b` and `d` of the client alone.
- `reweighing`: Kamiran and Calders, 2012, on each client: a row of group g and label y counts `P(g) P(y) / P(g, y)`.
- `fairfed`: Ezzeldin et al., AAAI 2023, with that reweighing: after each round a client's weight falls by `β` times
  how much further than the mean its own `F` is from that of all (its accuracy, where it has one group only). Weights
  below 0 count as 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

METHODS = ("fedavg", "fedgft", "local_fair", "reweighing", "fairfed")
STRENGTH_MATTERS = ("fedgft", "local_fair")
BETA = 1.0


@dataclass(frozen=True)
class Budget:
    """Rounds, and what each client does in one."""

    rounds: int
    epochs: int
    batch: int
    learning_rate: float


@dataclass(frozen=True)
class People:
    """Rows: `inputs` float32 `[N, D]`, `labels` and `groups` bool `[N]`."""

    inputs: Tensor
    labels: Tensor
    groups: Tensor


def dirichlet_split(people: People, clients: int, alpha: float, seed: int) -> Tensor:
    """The client of each row, `[N]`: the rows of each group and label are dealt by shares drawn from a Dirichlet."""
    draw = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    owner = torch.empty(len(people.labels), dtype=torch.long)
    cell = 2 * people.groups.long() + people.labels.long()
    for one in range(4):
        rows = (cell == one).nonzero().flatten()
        rows = rows[torch.randperm(len(rows), generator=draw)]
        shares = torch.distributions.Dirichlet(torch.full((clients,), alpha)).sample()
        ends = (shares.cumsum(0)[:-1] * len(rows)).round().long()
        owner[rows] = torch.bucketize(torch.arange(len(rows)), ends, right=True)
    return owner


def counted(metric: str, people: People) -> Tensor:
    """Which rows a metric counts, by group: float32 `[2, N]`."""
    which = torch.stack([~people.groups, people.groups]).float()
    return which * people.labels.float() if metric == "eop" else which


def gaps(scores: Tensor, relevant: Tensor, weight: Tensor | None = None) -> Tensor:
    """Rate of the first group minus that of the second, NaN where one has no row.

    Args:
        scores (`Tensor` of shape `[…, N]`): Probabilities.
        relevant (`Tensor` of shape `[2, N]`): As of [`counted`].
        weight (`Tensor` of shape `[K, N]`, *optional*): Which rows are of which part; the result then ends in K.
    """
    counts = relevant[:, None] if weight is None else relevant[:, None] * weight  # [2, K, N]
    rates = torch.einsum("...n,gkn->...gk", scores, counts) / counts.sum(-1)
    found = rates[..., 0, :] - rates[..., 1, :]
    return found[..., 0] if weight is None else found


def reweighed(people: People, owned: Tensor) -> Tensor:
    """`P(g) P(y) / P(g, y)` of each row on its own client, `[N]`; `owned` is `[K, N]`."""
    groups = torch.stack([~people.groups, people.groups]).float()
    labels = torch.stack([~people.labels, people.labels]).float()
    cells = torch.einsum("gn,yn,kn->kgy", groups, labels, owned)
    expected = cells.sum(2, keepdim=True) * cells.sum(1, keepdim=True) / cells.sum((1, 2), keepdim=True)
    ratio = torch.where(cells > 0, expected / cells, 0.0)
    return torch.einsum("kgy,gn,yn,kn->n", ratio, groups, labels, owned)


class Adam:
    """Adam for a batch of models, of which each step moves those that have a batch."""

    def __init__(self, like: Tensor, rate: float) -> None:
        self.rate = rate
        self.mean, self.square = torch.zeros_like(like), torch.zeros_like(like)
        self.steps = torch.zeros_like(like[..., :1])

    def step(self, weights: Tensor, gradient: Tensor, moves: Tensor) -> Tensor:
        self.steps = self.steps + moves
        self.mean = torch.where(moves, 0.9 * self.mean + 0.1 * gradient, self.mean)
        self.square = torch.where(moves, 0.999 * self.square + 0.001 * gradient**2, self.square)
        mean, square = (v / (1 - b**self.steps) for v, b in ((self.mean, 0.9), (self.square, 0.999)))
        return torch.where(moves, weights - self.rate * mean / (square.sqrt() + 1e-8), weights)


def simulate(
    people: People, metric: str, method: str, strengths: Tensor, owners: Tensor, budget: Budget, seed: int = 0
) -> Tensor:
    """The weights after all rounds, `[R, L, D]`.

    Args:
        people: The training rows of all clients; a constant input stands for the intercept.
        strengths (`Tensor` of shape `[L]`): λ.
        owners (`Tensor` of shape `[R, N]`): The client of each row in each repeat.
    """
    draw = torch.Generator().manual_seed(seed)
    repeats, clients = len(owners), int(owners.max()) + 1
    owned = (owners[:, None] == torch.arange(clients)[:, None]).float()  # [R, K, N]
    sizes = owned.sum(-1)  # [R, K]
    relevant, labels = counted(metric, people), people.labels.float()
    row_weight = torch.ones_like(owners)
    if method in ("reweighing", "fairfed"):
        row_weight = torch.stack([reweighed(people, of_repeat) for of_repeat in owned])
    # By how much a row's score moves F, of all clients or of its own, times the number of rows that share it.
    sign = torch.tensor([1.0, -1.0])
    if method == "local_fair":
        per_client = torch.einsum("gn,rkn->rkg", relevant, owned)
        of_client = torch.where(per_client > 0, sign * sizes[..., None] / per_client, 0.0)
        pull = torch.einsum("rkg,gn,rkn->rn", of_client, relevant, owned)
    else:
        pull = ((sign * relevant.shape[1] / relevant.sum(1)) @ relevant).expand_as(row_weight)
    weights = torch.zeros(repeats, len(strengths), people.inputs.shape[1])
    shares = start = (sizes / sizes.sum(1, keepdim=True))[:, None].expand(-1, len(strengths), -1)  # [R, L, K]
    for _ in tqdm(range(budget.rounds), desc=f"{metric} {method}", leave=False):
        scores = (weights @ people.inputs.T).sigmoid()  # [R, L, N]
        unfair = torch.zeros_like(shares)
        if method == "fedgft":
            unfair = unfair + gaps(scores, relevant)[..., None]
        elif method == "local_fair":
            unfair = torch.stack([gaps(s, relevant, o) for s, o in zip(scores, owned, strict=True)]).nan_to_num()
        force = strengths[:, None] * unfair  # λ F, [R, L, K]
        local = trained(people, weights, force, pull, row_weight, labels, owners, clients, budget, draw)
        if method == "fairfed":
            shares = fairfed_shares(shares, scores, people, relevant, owned, start)
        weights = torch.einsum("rlk,rlkd->rld", shares, local)
    return weights


def trained(
    people: People,
    weights: Tensor,
    force: Tensor,
    pull: Tensor,
    row_weight: Tensor,
    labels: Tensor,
    owners: Tensor,
    clients: int,
    budget: Budget,
    draw: torch.Generator,
) -> Tensor:
    """Each client's weights after its epochs, `[R, L, K, D]`."""
    local = weights[:, :, None].expand(-1, -1, clients, -1).clone()
    optimizer = Adam(local, budget.learning_rate)
    for _ in range(budget.epochs):
        # Rows in random order, those of a client beside each other; -1 fills up the batches.
        order = torch.rand(owners.shape, generator=draw).add(owners).argsort(1)
        counts = torch.stack([torch.bincount(row, minlength=clients) for row in owners])
        starts = counts.cumsum(1) - counts
        for begin in range(0, int(counts.max()), budget.batch):
            place = begin + torch.arange(budget.batch)
            real = place < counts[..., None]  # [R, K, B]
            where = (starts[..., None] + place).clamp(max=owners.shape[1] - 1)
            rows = order.gather(1, where.flatten(1)).view_as(where)
            inputs, weight = people.inputs[rows], row_weight.gather(1, rows.flatten(1)).view_as(rows)
            pulls = pull.gather(1, rows.flatten(1)).view_as(rows)
            scores = torch.einsum("rlkd,rkbd->rlkb", local, inputs).sigmoid()
            loss = weight[:, None] * (scores - labels[rows][:, None])
            fair = force[..., None] * pulls[:, None] * scores * (1 - scores)
            size = real.sum(-1).clamp(min=1)[:, None, :, None]
            slope = torch.where(real[:, None], loss + fair, 0.0) / size
            gradient = torch.einsum("rlkb,rkbd->rlkd", slope, inputs)
            local = optimizer.step(local, gradient, real.any(-1)[:, None, :, None].expand_as(gradient[..., :1]))
    return local


def fairfed_shares(
    shares: Tensor, scores: Tensor, people: People, relevant: Tensor, owned: Tensor, start: Tensor
) -> Tensor:
    """FairFed's weights of the clients for the next mean, `[R, L, K]`."""
    right = ((scores >= 0.5) == people.labels).float()
    by_client = torch.einsum("rln,rkn->rlk", right, owned) / owned.sum(-1).clamp(min=1)[:, None]
    own = torch.stack([gaps(s, relevant, o) for s, o in zip(scores, owned, strict=True)])
    off_in_fairness = (gaps(scores, relevant)[..., None] - own).abs()
    off = torch.where(own.isnan(), (by_client - right.mean(-1, keepdim=True)).abs(), off_in_fairness)
    moved = (shares - BETA * (off - off.mean(-1, keepdim=True))).clamp(min=0)
    total = moved.sum(-1, keepdim=True)
    return torch.where(total > 0, moved / total, start)
