"""The mathematics of many penalised networks at once: proximal steps, gradients, training."""

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss, one_hot

from hf_lifelong.selection import group_soft_threshold, soft_threshold
from hf_lifelong.selection.networks import Networks
from hf_lifelong.selection.training import Problem, descend, draw_rows, penalty_shares, train_path


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


@pytest.mark.parametrize("classes", [False, True])
def test_gradients_are_those_of_the_loss(classes):
    problem, generator = make_problem(classes)
    networks = Networks.random(6, 3, 5, problem.target.shape[1], generator)
    shares = problem.trained / problem.trained.sum(0)
    found = networks.gradients(problem.x, problem.target, shares, classes)

    values = [value.clone().requires_grad_() for value in networks.tensors()]
    weight, bias, out, offset = values
    loss = 0
    for m in range(3):
        rows = problem.trained[:, m]
        scores = (problem.x[rows] @ weight[:, m] + bias[m]).relu() @ out[m] + offset[m]
        wanted = problem.target[rows]
        loss = loss + (cross_entropy(scores, wanted.argmax(1)) if classes else mse_loss(scores, wanted) / 2)
    for gradient, value in zip(found, torch.autograd.grad(loss, values), strict=True):
        torch.testing.assert_close(gradient, value)


def test_networks_trained_together_are_those_trained_alone():
    problem, generator = make_problem(classes=False)
    networks = Networks.random(6, 3, 5, 1, generator)
    penalties = torch.tensor([0.01, 0.1, 0.3])
    together = descend(problem, networks, penalties / 10, penalties, "l1", 60, generator, settle=True)
    for m in range(3):
        own = Networks(networks.weight[:, m : m + 1], *(value[m : m + 1] for value in networks.tensors()[1:]))
        part = Problem(problem.x, problem.target, False, problem.trained[:, m : m + 1])
        one = penalties[m : m + 1]
        alone = descend(part, own, one / 10, one, "l1", 60, generator, settle=True)
        torch.testing.assert_close(alone.importances[0], together.importances[m], rtol=1e-3, atol=1e-4)


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
    zero = torch.zeros(3)
    trained = descend(problem, networks, zero, zero, "l1", 5, generator, settle=False)
    torch.testing.assert_close(trained.out.norm(dim=-1), torch.ones(3, 5))


def test_rows_of_a_repeat_are_drawn_once_each():
    trained = draw_rows(50, 7, torch.Generator().manual_seed(0))
    assert trained.sum(0).tolist() == [40] * 7 and not torch.equal(trained[:, 0], trained[:, 1])
