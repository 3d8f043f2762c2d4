"""The federation of the fairness benchmark does what its methods say."""

import pytest
import torch
from fair_federation import Budget, People, counted, dirichlet_split, fairfed_shares, gaps, reweighed, simulate

from hf_lifelong.fairness import GroupFairness, fairness_term

BUDGET = Budget(rounds=3, epochs=2, batch=64, learning_rate=0.05)


def people(rows=300):
    draw = torch.Generator().manual_seed(0)
    groups = torch.rand(rows, generator=draw) < 0.3
    inputs = torch.randn(rows, 4, generator=draw) + groups[:, None]
    labels = torch.rand(rows, generator=draw) < (inputs[:, 0] + groups).sigmoid()
    return People(torch.cat([inputs, torch.ones(rows, 1)], 1), labels, groups)


def owners(some, clients, repeats=2):
    return torch.stack([dirichlet_split(some, clients, 0.5, seed) for seed in range(repeats)])


def test_each_row_has_one_client_and_cells_are_dealt_unevenly():
    found = owners(people(), 5)
    assert found.shape == (2, 300) and set(found.unique().tolist()) <= set(range(5))
    counts = torch.bincount(found[0], minlength=5)
    assert counts.max() > 2 * counts.float().mean() / 1.5 and not torch.equal(found[0], found[1])


@pytest.mark.parametrize("metric", ["sp", "eop"])
def test_a_gap_is_that_of_the_package(metric):
    some = people()
    scores = some.inputs[:, 0].sigmoid()
    expected = GroupFairness(metric)
    expected.update(scores, some.labels, some.groups)
    assert float(gaps(scores, counted(metric, some))) == pytest.approx(expected.value(), abs=1e-5)


@pytest.mark.parametrize("metric", ["sp", "eop"])
def test_one_client_is_all_clients_and_no_strength_is_plain_averaging(metric):
    some, strengths = people(), torch.tensor([0.0, 5.0])
    one = torch.zeros(2, 300, dtype=torch.long)
    of_all, of_one = (simulate(some, metric, name, strengths, one, BUDGET) for name in ("fedgft", "local_fair"))
    torch.testing.assert_close(of_all, of_one, rtol=1e-4, atol=1e-5)
    dealt = owners(some, 4)
    fair, plain = (simulate(some, metric, name, strengths, dealt, BUDGET) for name in ("fedgft", "fedavg"))
    assert torch.equal(fair[:, 0], plain[:, 0]) and not torch.equal(fair[:, 1], plain[:, 1])


@pytest.mark.parametrize("metric", ["sp", "eop"])
def test_its_first_step_goes_where_the_term_of_the_package_pulls(metric):
    """Adam's first step is the sign of the gradient; one client whose rows are one batch."""
    some, strength = people(60), 30.0
    one = torch.zeros(1, 60, dtype=torch.long)
    begin = Budget(rounds=1, epochs=1, batch=64, learning_rate=0.05)
    second = Budget(rounds=2, epochs=1, batch=64, learning_rate=0.05)
    weights = simulate(some, metric, "fedgft", torch.tensor([0.0]), one, begin)[0, 0].requires_grad_()
    scores = (some.inputs @ weights).sigmoid()
    whole = GroupFairness(metric)
    whole.update(scores, some.labels, some.groups)
    loss = torch.nn.functional.binary_cross_entropy(scores, some.labels.float())
    term = fairness_term(scores, some.labels.long(), some.groups.long(), whole, strength)
    (gradient,) = torch.autograd.grad(loss + term.float(), weights)
    # The first round has F = .5 - .5 = 0 for every row, so it is the same for both strengths.
    both = simulate(some, metric, "fedgft", torch.tensor([strength]), one, second)[0, 0]
    assert torch.equal((weights.detach() - both).sign(), gradient.sign())


def test_reweighing_makes_groups_and_labels_independent_on_each_client():
    some = people()
    dealt = owners(some, 3, 1)[0]
    owned = (dealt == torch.arange(3)[:, None]).float()
    weight = reweighed(some, owned)
    for client in range(3):
        mine = dealt == client
        cells = {
            (g, y): float(weight[mine & (some.groups == g) & (some.labels == y)].sum())
            for g in (False, True)
            for y in (False, True)
        }
        if all(cells.values()):
            odds = cells[False, False] * cells[True, True] / (cells[False, True] * cells[True, False])
            assert odds == pytest.approx(1, rel=1e-4)


def test_fairfed_takes_weight_from_those_whose_fairness_differs():
    some = people()
    dealt = torch.arange(300) % 3
    owned = (dealt == torch.arange(3)[:, None]).float()[None]
    scores = torch.where((dealt == 0) & some.groups, 0.9, 0.5)[None, None]
    start = torch.full((1, 1, 3), 1 / 3)
    found = fairfed_shares(start, scores, some, counted("sp", some), owned, start)
    assert found.sum() == pytest.approx(1) and found[0, 0, 0] < found[0, 0, 1]
    even = torch.full((1, 1, 300), 0.5)
    kept = fairfed_shares(start, even, some, counted("sp", some), owned, start)
    torch.testing.assert_close(kept, start)
