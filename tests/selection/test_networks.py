"""The mathematics of many penalised networks at once: proximal steps, gradients, training."""

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from hf_lifelong.selection import group_soft_threshold, soft_threshold
from hf_lifelong.selection.networks import Networks
from hf_lifelong.selection.training import Problem, descend, draw_rows, most, penalty_shares, pull, refine, train_path


def test_soft_threshold_moves_every_weight_towards_zero_and_stops_there():
    weight = torch.tensor([3.0, -3.0, 0.5, -0.5, 0.0])
    assert soft_threshold(weight, 1.0).tolist() == [2.0, -2.0, 0.0, 0.0, 0.0]
    assert soft_threshold(weight, torch.tensor([0.0, 1.0, 0.5, 0.2, 1.0])).tolist() == pytest.approx(
        [3.0, -2.0, 0.0, -0.3, 0.0]
    )


def test_group_soft_threshold_shortens_rows():
    weight = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    shorter = group_soft_threshold(weight, 1.0)
    torch.testing.assert_close(shorter[0], torch.tensor([2.4, 3.2]))
    assert not shorter[1:].any()
    assert torch.equal(group_soft_threshold(weight.T, 1.0, dim=0), group_soft_threshold(weight, 1.0).T)


@pytest.mark.parametrize(
    ("step", "norm"),
    [(soft_threshold, lambda w: w.abs().sum()), (group_soft_threshold, lambda w: w.norm(dim=1).sum())],
    ids=["l1", "group"],
)
def test_a_proximal_step_is_the_nearest_point_under_the_penalty(step, norm):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(6, 4, generator=generator, dtype=torch.float64)

    def objective(weight):
        return (weight - start).square().sum() / 2 + 0.8 * norm(weight)

    best = step(start, 0.8)
    others = best + 0.01 * torch.randn(200, 6, 4, generator=generator, dtype=torch.float64)
    assert all(objective(best) < objective(other) for other in others)


def make_problem(classes, rows=40, inputs=6, repeats=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, inputs, generator=generator)
    target = one_hot((x[:, 0] > 0).long() + (x[:, 1] > 0).long(), 3).float() if classes else x[:, :1].abs()
    return Problem(x, target, classes, draw_rows(rows, repeats, generator)), generator


def everything(problem):
    return torch.arange(problem.x.shape[1] + 1).expand(problem.trained.shape[1], -1)


@pytest.mark.parametrize("classes", [False, True])
def test_gradients_are_those_of_the_loss(classes):
    problem, generator = make_problem(classes)
    networks = Networks.random(6, 3, 5, problem.target.shape[1], generator).fanned(2)
    networks.weight.add_(0.1 * torch.randn(networks.weight.shape, generator=generator))
    x = problem.seen(everything(problem))
    found = networks.gradients(x, problem.target, problem.shares, classes)

    values = [value.clone().requires_grad_() for value in (networks.weight, networks.out, networks.offset)]
    weight, out, offset = values
    loss = 0
    for r in range(3):
        rows = problem.trained[:, r]
        for m in range(2):
            scores = (problem.x[rows] @ weight[r, :-1, m] + weight[r, -1, m]).relu() @ out[r, m] + offset[r, m]
            wanted = problem.target[rows]
            loss = loss + (cross_entropy(scores, wanted.argmax(1)) if classes else mse_loss(scores, wanted) / 2)
    for gradient, value in zip(found, torch.autograd.grad(loss, values), strict=True):
        torch.testing.assert_close(gradient, value)


def test_networks_trained_together_are_those_trained_alone():
    problem, generator = make_problem(classes=False)
    networks = Networks.random(6, 3, 5, 1, generator).fanned(2)
    penalties = torch.tensor([0.01, 0.1])
    args = (problem, everything(problem), networks, penalties / 10, penalties, "l1", 60, generator)
    together = descend(*args, settle=True).importances
    for r in range(3):
        part = Problem(problem.x, problem.target, False, problem.trained[:, r : r + 1])
        for m in range(2):
            own = Networks(*(value[r : r + 1] for value in (networks.weight, networks.out, networks.offset))).at(m)
            one = penalties[m : m + 1]
            alone = descend(part, everything(part), own, one / 10, one, "l1", 60, generator, settle=True)
            torch.testing.assert_close(alone.importances[0, 0], together[r, m], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("penalty", ["l1", "group"])
def test_inputs_that_were_screened_out_are_not_wanted(penalty):
    """At the end, no input that a network does not see pulls by more than the penalty."""
    problem, generator = make_problem(classes=False, rows=120, inputs=40)
    shares = torch.tensor([0.4, 0.2])
    trained = train_path(problem, shares, penalty, 10, 200, generator)
    assert trained.seen.shape[1] < 41
    force = pull(problem, trained.seen, trained.networks, penalty)
    unseen = trained.importances.transpose(0, 1) == 0
    penalties = (shares * problem.largest_penalty)[:, None].expand_as(force)
    assert float((force > 1.02 * penalties)[unseen].float().mean()) < 0.01


def test_the_adaptive_penalty_leaves_what_matters():
    problem, generator = make_problem(classes=False, rows=150, inputs=20)
    shares = torch.tensor([0.1, 0.05])
    trained = train_path(problem, shares, "l1", 10, 120, generator)
    alone, together = refine(problem, trained, 1, 0.05, "l1", 120, generator, adapt=True)
    assert bool((together[:, 0] > 0).all()) and int((together.median(0).values > 0).sum()) <= 2
    assert (together > 0).sum() < (alone > 0).sum()
    assert together[:, 0].median() > alone[:, 0].median()  # shrunk less


def test_each_repeat_goes_on_with_as_many_inputs():
    alive = torch.tensor([[True, False, True, False], [False, False, False, True]])
    assert most(alive).tolist() == [[0, 2, 4], [0, 3, 4]]


@pytest.mark.parametrize("penalty", ["l1", "group"])
def test_a_higher_penalty_leaves_fewer_inputs_and_zeros_are_exact(penalty):
    problem, generator = make_problem(classes=False, rows=120, inputs=12)
    shares = penalty_shares(120, 12)
    trained = train_path(problem, shares, penalty, 10, 150, generator)
    live = (trained.importances > 0).float().mean((1, 2))
    assert live[0] < 0.5 and live[0] < live[-1]
    assert bool((trained.importances[:, :, 0] > 0).all())
    assert float(trained.losses.mean(1).min()) < 0.3 * float(trained.constant.mean())


def test_output_weights_keep_length_one():
    problem, generator = make_problem(classes=True)
    networks = Networks.random(6, 3, 5, 3, generator)
    zero = torch.zeros(1)
    trained = descend(problem, everything(problem), networks, zero, zero, "l1", 5, generator, settle=False)
    torch.testing.assert_close(trained.out.norm(dim=-1), torch.ones(3, 1, 5))


def test_rows_of_a_repeat_are_drawn_once_each():
    trained = draw_rows(50, 7, torch.Generator().manual_seed(0))
    assert trained.sum(0).tolist() == [40] * 7 and not torch.equal(trained[:, 0], trained[:, 1])
