"""The directions in which a trigger is cheapest, on spreads that are known."""

import math

import pytest
import torch

from hf_lifelong.safety import TaskWeakDirections, smallest_magnitude, weak_directions
from hf_lifelong.statistics import TaskRows, checked


def cross(spread, centre):
    """Four rows around a centre, `spread[d]` away along each axis d of two."""
    a, b = spread
    return torch.tensor([[a, 0.0], [-a, 0.0], [0.0, b], [0.0, -b]], dtype=torch.float64) + torch.tensor(centre)


def test_spread_within_the_classes_by_hand():
    """Sums of squares 2·2·1 and 2·2·9 over 8 rows less 2 classes; that the classes lie far apart does not count."""
    rows = torch.cat([cross((1, 3), (0.0, 0.0)), cross((1, 3), (50.0, 0.0))])
    directions, std = weak_directions(rows, ["a"] * 4 + ["b"] * 4)
    assert torch.allclose(directions, torch.eye(2, dtype=torch.float64), atol=1e-12)
    assert std.tolist() == pytest.approx([math.sqrt(4 / 6), math.sqrt(36 / 6)])


def test_a_rotated_and_degenerate_direction_is_first_with_no_spread():
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    spread = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    rows = torch.randn(4000, 6, generator=generator, dtype=torch.float64) * spread @ turn.T
    found = weak_directions(rows, [0] * 4000, k=3)
    assert found.directions.shape == (3, 6) and found.std[0] == 0
    assert found.std[1:].tolist() == pytest.approx([1, 2], rel=0.05)
    assert float((found.directions[0] @ turn[:, 5]).abs()) == pytest.approx(1)
    assert smallest_magnitude(found.std, 0.05)[0] == 0


def test_a_reference_is_the_unit_of_the_spread():
    """Twice and half of what is usual: the second axis is weak by the reference, though it varies more."""
    rows, trusted = cross((1, 3), (0.0, 0.0)), torch.diag(torch.tensor([2 / 3 / 4, 6.0 * 4], dtype=torch.float64))
    directions, std = weak_directions(rows, [0] * 4, reference=trusted)
    assert directions.abs().tolist() == [[0, 1], [1, 0]] and std.tolist() == pytest.approx([0.5, 2])


def test_smallest_magnitude_by_hand():
    assert float(smallest_magnitude(2.0, 0.05)) == pytest.approx(4 * 2 * 1.959964, rel=1e-6)
    assert smallest_magnitude(torch.tensor([1.0, 0.0]), 0.5).tolist() == pytest.approx([4 * 0.674490, 0], rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.ones(4, 2)}, "`features` is the same in all 4 rows"),
        ({"features": torch.full((4, 2), math.inf)}, "`features` has 8 values that are NaN or infinite"),
        ({"labels": [1, 2, 3, 4]}, "`labels` differ in all rows"),
        ({"labels": [1, None, 1, 1]}, "`labels` has no label in 1 rows, the first is 1"),
        ({"labels": [1, 1]}, "4 in `features`, 2 in `labels`"),
        ({"k": 0}, "`k` must be an integer of at least 1"),
        ({"reference": torch.eye(3)}, r"`reference` must be a covariance.*\[2, 2\] for 2 features, not \[3, 3\]"),
        ({"reference": torch.ones(2, 2)}, "`reference` is no positive definite covariance"),
    ],
)
def test_bad_input_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        weak_directions(**{"features": cross((1, 3), (0.0, 0.0)), "labels": [0] * 4} | change)


def test_bad_lengths_are_refused():
    with pytest.raises(ValueError, match="`std` must hold standard deviations"):
        smallest_magnitude(-1.0, 0.1)
    with pytest.raises(ValueError, match="`alpha` must lie between 0 and 1"):
        smallest_magnitude(1.0, 0)


def test_the_weakest_directions_of_a_task_are_stored_as_they_are_found():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 20, generator=generator) * torch.arange(20)  # the first feature is constant
    labels = torch.arange(60) % 2 * 2  # of three classes one has no row
    rows = TaskRows("task", "kind", ("a", "b", "c"), x, labels, None, {}, None)
    values = checked(TaskWeakDirections(), TaskWeakDirections().fit(rows))
    directions, std = weak_directions(x, labels.tolist())
    assert values["directions"].shape == (16, 20) and values["directions"].dtype == torch.float16
    torch.testing.assert_close(values["directions"].double(), directions, rtol=0, atol=1e-3)
    torch.testing.assert_close(values["std"].double(), std, rtol=1e-6, atol=0)
    shown = TaskWeakDirections().describe(values)
    assert shown == {
        "directions": 16,
        "in which its rows do not vary": 1,
        "largest std": pytest.approx(float(std[-1]), 1e-3),
    }


def test_a_task_without_two_rows_of_a_class_has_no_spread():
    rows = TaskRows("task", "kind", ("a", "b"), torch.eye(2), torch.tensor([0, 1]), None, {}, None)
    assert not TaskWeakDirections().fit(rows)["std"].any()
    without_labels = TaskRows("task", "kind", (), torch.eye(3), None, None, {}, None)
    assert float(TaskWeakDirections().fit(without_labels)["std"][-1]) > 0
