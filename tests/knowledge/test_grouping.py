import math

import pytest
import torch

from hf_lifelong.knowledge import (
    KnowledgeBase,
    LearnedTask,
    Router,
    candidate_groups,
    group_posterior,
    joins,
    nearer_count,
    nearness,
    told_apart,
)


def test_a_group_counts_by_its_nearest_task():
    likelihood = torch.tensor([[math.log(1.0), math.log(3.0), math.log(2.0)], [0.0, 0.0, 0.0]])
    posterior = group_posterior(likelihood, torch.tensor([0, 1, 0]), 2)
    torch.testing.assert_close(posterior, torch.tensor([[0.4, 0.6], [0.5, 0.5]]))


def test_likelihoods_far_below_zero_give_probabilities():
    posterior = group_posterior(torch.tensor([[-1e6, -1e6 - 1.0]]), torch.tensor([0, 1]), 2)
    assert posterior.sum() == pytest.approx(1) and posterior[0, 0] > posterior[0, 1]


def learned(name, group, labels=("a", "b"), kind="text-classification"):
    return LearnedTask(name, kind, labels, len(labels), 2, group, 10)


def test_data_that_came_back_lies_as_near_to_the_old_task_as_to_the_new():
    near, far = torch.tensor([[0.0, 1.0, 2.0], [0.0, 2.0, 1.0]] * 5), torch.tensor([[0.0, 1.0, 2.0]] * 10)
    mostly = torch.cat([far[:7], torch.tensor([[3.0, 1.0, 2.0]] * 3)])

    def apart(likelihood, old):
        return told_apart(nearer_count(likelihood, new=2, old=old), len(likelihood))

    assert not apart(near, [1]) and apart(far, [1]) and apart(far, [0, 1])
    assert not apart(mostly, [0]) and apart(mostly, [1])


def test_candidate_groups_are_the_nearest_of_the_same_form():
    tasks = [
        learned("far", "far"),
        learned("near", "near"),
        learned("other labels", "other labels", ("a", "c")),
        learned("other kind", "other kind", kind="token-classification"),
        learned("far again", "far"),
        learned("middle", "middle"),
        learned("fourth", "fourth"),
    ]
    knowledge = KnowledgeBase(tasks=tasks)
    bias = torch.tensor([1.0, 5.0, 9.0, 9.0, 2.0, 3.0, 0.0])
    router = Router(
        torch.zeros(7, 2), bias, torch.arange(7), torch.zeros(7, 2), torch.tensor(knowledge.group_of_task), 6
    )
    near = nearness(knowledge, router, torch.zeros(4, 2))
    assert near.sum() == pytest.approx(4)
    ask = {"near": near, "kind": "text-classification", "labels": ("a", "b")}
    found = candidate_groups(knowledge, **ask)
    assert [knowledge.groups[g] for g in found] == ["near", "middle", "far"]
    assert candidate_groups(knowledge, **ask, most=1) == [1]


def test_joining_needs_a_score_within_the_tolerance():
    assert joins(0.90, 0.91, 0.01 + 1e-9) and joins(0.95, 0.9, 0.0) and not joins(0.88, 0.9, 0.01)
