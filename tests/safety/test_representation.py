"""What poison leaves in hidden states, on features in which it was put."""

import math

import pytest
import torch

from hf_lifelong.safety import lies_apart, spectral_scores, two_clusters


def features(poison=10, seed=0):
    """Two classes of 200 rows in 8 dimensions, the second axis ten times as wide as the others. The first rows of
    class "a" lie 8 away along the third: a wide axis hides it, a narrow one shows it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(400, 8, generator=generator, dtype=torch.float64)
    x[:, 1] *= 10
    x[200:] += 3
    x[:poison, 2] += 8
    return x, ["a"] * 200 + ["b"] * 200


WIDE = torch.diag(torch.tensor([1.0, 100.0, 1, 1, 1, 1, 1, 1], dtype=torch.float64))


def test_spectral_scores_by_hand():
    """Around its mean a class varies most along (3, 4); the other's mean has nothing to do with it."""
    along = torch.tensor([[3.0, 4.0], [-3.0, -4.0], [0.4, -0.3], [-0.4, 0.3]])
    rows = torch.cat([along + 7, torch.tensor([[1.0, 1.0]])])
    assert spectral_scores(rows, [0, 0, 0, 0, 1]).tolist() == pytest.approx([25, 25, 0, 0, 0], abs=1e-9)


def test_a_reference_shows_what_a_wide_axis_hides():
    x, labels = features()
    hidden, shown = (spectral_scores(x, labels, reference)[:200].topk(10).indices for reference in (None, WIDE))
    assert int((hidden < 10).sum()) <= 3 and set(shown.tolist()) == set(range(10))


def test_the_order_of_the_rows_does_not_matter():
    x, labels = features()
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    moved = [labels[i] for i in order.tolist()]
    assert torch.allclose(spectral_scores(x[order], moved, WIDE), spectral_scores(x, labels, WIDE)[order])
    assert torch.equal(two_clusters(x[order], moved, WIDE).smaller, two_clusters(x, labels, WIDE).smaller[order])


def test_two_clusters_by_hand():
    rows = torch.tensor([[0.0, 1.0], [0.0, -1.0], [0.0, 1.0], [0.0, -1.0], [10.0, 1.0], [10.0, -1.0]])
    found = two_clusters(torch.cat([rows, torch.tensor([[5.0, 5.0]] * 2)]), ["a"] * 6 + ["b"] * 2)
    assert found.names == ["a", "b"] and found.share[0] == pytest.approx(1 / 3)
    assert found.smaller[:6].tolist() == [False] * 4 + [True] * 2
    assert found.separation.tolist() == [math.inf, 0]  # no spread along the line of the means; no two clusters


def test_the_poisoned_class_parts_further_than_one_gaussian():
    x, labels = features(poison=20)
    found = two_clusters(x, labels, WIDE)
    assert found.share[0] == 0.1 and bool(found.smaller[:20].all()) and not bool(found.smaller[20:200].any())
    assert found.separation[0] > 5 and found.separation[1] == pytest.approx(2.65, abs=0.4)


@pytest.mark.parametrize("measure", [spectral_scores, two_clusters])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.ones(4, 2)}, "`features` is the same in all 4 rows"),
        ({"features": torch.full((4, 2), math.nan)}, "`features` has 8 values that are NaN or infinite"),
        ({"features": torch.ones(4)}, "`features` must have 2 dimensions"),
        ({"labels": [0, 0, 1]}, "4 in `features`, 3 in `labels`"),
        ({"reference": torch.ones(4, 4)}, "`reference` is no positive definite covariance"),
    ],
)
def test_bad_input_is_refused_by_name(measure, change, message):
    with pytest.raises(ValueError, match=message):
        measure(**{"features": torch.eye(4), "labels": [0, 0, 1, 1]} | change)


def test_bad_clusters_are_refused():
    with pytest.raises(ValueError, match="Label 'b' has a single row"):
        two_clusters(torch.eye(3), ["a", "a", "b"])
    with pytest.raises(ValueError, match="`dims` must be an integer of at least 1"):
        two_clusters(torch.eye(4), [0, 0, 1, 1], dims=0)


def test_suspected_rows_that_lie_apart_are_told_from_those_that_do_not():
    x, labels = features(poison=10)
    one_class = x[:200]
    apart, among = torch.arange(200) < 10, (torch.arange(200) >= 50) & (torch.arange(200) < 60)
    assert lies_apart(one_class, apart, WIDE) < 1e-6 < 0.05 < lies_apart(one_class, among, WIDE)
    assert len(labels) == 400 and lies_apart(one_class, apart) > 0.05  # a wide axis hides them


def test_false_alarms_of_rows_that_are_drawn_by_chance():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 80, 4, generator=generator)
    p_values = torch.tensor([lies_apart(rows, torch.arange(80) < 10) for rows in x])
    assert int((p_values <= 0.1).sum()) <= 8  # 4 on average, at most


@pytest.mark.parametrize("count", [0, 4])
def test_rows_without_others_to_compare_with_are_refused(count):
    with pytest.raises(ValueError, match=f"`suspected` names {count} of 4 rows: give some of a class, and others"):
        lies_apart(torch.eye(4), torch.arange(4) < count)
    with pytest.raises(ValueError, match="4 in `features`, 2 in `suspected`"):
        lies_apart(torch.eye(4), [True, False])
