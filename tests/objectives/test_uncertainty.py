"""How unsure answers are: entropy of the mean, variance between members."""

import math

import torch

from hf_lifelong.objectives.uncertainty import mean_by_pair, normalised_entropy, summed_variance


def test_entropy_is_a_share_of_the_largest():
    p = torch.tensor([[[0.5, 0.5, 0.0]], [[1.0, 0.0, 0.0]], [[0.25, 0.75, 0.0]]])
    found = normalised_entropy(p, torch.ones(3, 1), torch.full((3, 1), math.log(2)))
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, expected]))


def test_entropy_averages_distributions_by_weight():
    p = torch.tensor([[[0.5, 0.5], [1.0, 0.0]]])
    found = normalised_entropy(p, torch.tensor([[0.25, 0.75]]), torch.full((1, 2), math.log(2)))
    torch.testing.assert_close(found, torch.tensor([0.25]))


def test_variance_sums_over_classes():
    p = torch.tensor([[[0.2, 0.8]], [[0.6, 0.4]], [[0.5, 0.5]]])
    found = summed_variance(p, torch.ones(2, 1), torch.tensor([0, 0, 1]), 2)
    torch.testing.assert_close(found, torch.tensor([0.04 + 0.04, 0.0]))


def test_means_by_pair():
    values = torch.tensor([[1.0], [5.0], [3.0]])
    assert mean_by_pair(values, torch.tensor([0, 1, 0]), 3).tolist() == [[2.0], [5.0], [0.0]]
