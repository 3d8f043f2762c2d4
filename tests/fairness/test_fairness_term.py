"""The term that makes a training fair: its gradient is that of what it stands for."""

import pytest
import torch
from fairness_helpers import random_rows

from hf_lifelong.fairness import GroupFairness, fairness_term

CASES = [(metric, groups, classes) for metric in ("sp", "eop", "cal") for groups, classes in ((2, 2), (4, 2), (3, 4))]


def logistic(groups=2, classes=2, rows=120):
    """Inputs, labels, groups and the weights of a small model whose scores differ by group."""
    torch.manual_seed(groups * classes)
    drawn = random_rows(rows, groups, classes)
    members, labels = torch.tensor(drawn["groups"]), torch.tensor(drawn["labels"])
    inputs = torch.randn(rows, 5, dtype=torch.float64) + 0.3 * members[:, None]
    return inputs, labels, members, torch.randn(5, classes, dtype=torch.float64, requires_grad=True)


def measured(metric, scores, labels, members, groups, classes):
    whole = GroupFairness(metric, groups, classes=classes)
    whole.update(scores, labels, members)
    return whole


def metrics_of_classes(metric, scores, labels, members, groups, classes):
    """The metric of each class, differentiable and written as it is defined."""
    found = []
    for one in [1] if classes == 2 else range(classes):
        of = [(scores[members == g, one], labels[members == g] == one) for g in range(groups)]
        rates = {
            "sp": lambda s, y: s.mean(),
            "eop": lambda s, y: s[y].mean(),
            "cal": lambda s, y: s[y].sum() / s.sum(),
        }
        all_rates = torch.stack([rates[metric](s, y) for s, y in of])
        found.append(all_rates[0] - all_rates[1] if groups == 2 else all_rates.max() - all_rates.min())
    return torch.stack(found)


@pytest.mark.parametrize(("metric", "groups", "classes"), CASES)
def test_its_gradient_is_that_of_the_squared_metric(metric, groups, classes):
    inputs, labels, members, weights = logistic(groups, classes)
    scores = (inputs @ weights).softmax(-1)
    whole = measured(metric, scores, labels, members, groups, classes)
    squared = 20 * (metrics_of_classes(metric, scores, labels, members, groups, classes) ** 2).sum() / 2
    (expected,) = torch.autograd.grad(squared, weights, retain_graph=True)
    (found,) = torch.autograd.grad(fairness_term(scores, labels, members, whole, 20.0), weights)
    assert expected.norm() > 1e-3  # also for `cal`
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("metric", ["sp", "eop", "cal"])
def test_batches_average_to_the_whole(metric):
    inputs, labels, members, weights = logistic()
    scores = (inputs @ weights).softmax(-1)
    whole = measured(metric, scores, labels, members, 2, 2)
    (expected,) = torch.autograd.grad(fairness_term(scores, labels, members, whole, 5.0), weights)
    found = torch.zeros_like(weights)
    for rows in torch.randperm(120).split(30):
        term = fairness_term((inputs[rows] @ weights).softmax(-1), labels[rows], members[rows], whole, 5.0)
        found += torch.autograd.grad(term, weights)[0] / 4
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("metric", ["sp", "eop", "cal"])
def test_rows_at_hand_can_be_a_part_of_the_whole(metric):
    """Sums of an earlier task, which no training moves, stay in the metric that is made small."""
    inputs, labels, members, weights = logistic()
    scores = (inputs @ weights).softmax(-1)
    old = random_rows(300, seed=7)
    whole = measured(metric, old["scores"], old["labels"], old["groups"], 2, 2)
    whole.update(scores, labels, members)
    both = torch.cat([torch.tensor(old["scores"]), scores[:, 1]])
    all_rows = (torch.stack([1 - both, both], 1), torch.cat([torch.tensor(old["labels"]), labels]))
    squared = metrics_of_classes(metric, *all_rows, torch.cat([torch.tensor(old["groups"]), members]), 2, 2) ** 2 / 2
    (expected,) = torch.autograd.grad(squared.sum(), weights, retain_graph=True)
    (found,) = torch.autograd.grad(fairness_term(scores, labels, members, whole, 1.0, rows=120), weights)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_rows_of_no_group_and_an_empty_batch_add_nothing():
    inputs, labels, members, weights = logistic()
    scores = (inputs @ weights).softmax(-1)
    whole = measured("sp", scores, labels, members, 2, 2)
    assert fairness_term(scores, labels, torch.full_like(members, -100), whole, 5.0) == 0
    assert fairness_term(scores[:0], labels[:0], members[:0], whole, 5.0) == 0


@pytest.mark.parametrize("metric", ["sp", "eop", "cal"])
def test_what_is_not_known_yet_pulls_nowhere(metric):
    inputs, labels, members, weights = logistic(groups=3)
    scores = (inputs @ weights).softmax(-1)
    empty = GroupFairness(metric, 3)
    one = measured(metric, scores[members == 1], labels[members == 1], members[members == 1], 3, 2)
    for whole in (empty, one):
        (found,) = torch.autograd.grad(fairness_term(scores, labels, members, whole, 5.0), weights, retain_graph=True)
        assert not found.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_its_gradient_has_the_dtype_of_the_scores(dtype):
    inputs, labels, members, weights = logistic()
    scores = (inputs @ weights).softmax(-1).to(dtype).detach().requires_grad_()
    whole = measured("eop", scores, labels, members, 2, 2)
    fairness_term(scores, labels, members, whole, 5.0).backward()
    assert scores.grad.dtype == dtype and scores.grad.isfinite().all() and scores.grad.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": -1.0}, r"weight of fairness is -1\.0; give a finite number"),
        ({"weight": float("nan")}, "weight of fairness is nan"),
        ({"weight": "20"}, "weight of fairness is '20'"),
        ({"whole": GroupFairness("sp", threshold=0.5)}, r"`threshold` is 0\.5, and decisions have no gradient"),
        ({"scores": torch.tensor([1, 0])}, "`scores` are decisions, which have no gradient"),
        ({"groups": torch.tensor([1])}, r"shapes \[2\], \[2\] and \[1\]"),
    ],
)
def test_bad_input_is_refused(change, message):
    scores, two = torch.tensor([0.5, 0.4], requires_grad=True), torch.tensor([0, 1])
    given = {"scores": scores, "labels": two, "groups": two, "whole": GroupFairness("sp"), "weight": 1.0}
    with pytest.raises(ValueError, match=message):
        fairness_term(**{**given, **change})
