"""The textbook statistic, and its published average run lengths."""

import pytest
import torch

from hf_lifelong.streams import cusum, run_lengths


def test_sums_of_a_vector_by_hand():
    values = torch.tensor([0.25, 1.5, -0.25, 2.0, -3.0, 0.75])
    assert cusum(values).tolist() == [0, 1.0, 0.25, 1.75, 0, 0.25]
    assert cusum(-values).tolist() == [0, 0, 0, 0, 2.5, 1.25]
    assert cusum(values, two_sided=True).tolist() == [0, 1.0, 0.25, 1.75, 2.5, 1.25]
    assert cusum(values, allowance=1.0).tolist() == [0, 0.5, 0, 1.0, 0, 0]


def test_sequences_are_summed_apart():
    values = torch.randn(3, 2, 50, generator=torch.Generator().manual_seed(0))
    both = cusum(values)
    assert all(torch.equal(both[i, j], cusum(values[i, j])) for i in range(3) for j in range(2))


def test_run_lengths_count_values_up_to_the_first_beyond_the_limit():
    assert run_lengths(torch.tensor([[0.0, 2, 5, 1], [0, 1, 2, 1]]), 4).tolist() == [3, 5]


# Montgomery, Introduction to Statistical Quality Control, table 9.3: two-sided, k = 1/2.
@pytest.mark.parametrize(("limit", "shift", "published"), [(4, 0, 168), (4, 1, 8.38), (5, 0, 465), (5, 1, 10.4)])
def test_average_run_lengths_are_the_published_ones(limit, shift, published):
    streams, most = (2000, 3000) if shift == 0 else (4000, 80)
    values = torch.randn(streams, most, generator=torch.Generator().manual_seed(limit)) + shift
    runs = run_lengths(cusum(values, two_sided=True), limit)
    assert runs.double().mean() == pytest.approx(published, rel=0.06)
