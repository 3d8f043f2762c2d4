"""How unfair a union can be whose parts are as fair as they are."""

import numpy as np
import pytest
from fairness_helpers import random_rows

from hf_lifelong.fairness import GroupFairness


def by_counts(metric, *cells):
    """A part by (score, rows of group 0, rows of group 1), all rows positive."""
    fairness = GroupFairness(metric)
    for score, first, second in cells:
        rows = first + second
        fairness.update([score] * rows, [1] * rows, [0] * first + [1] * second)
    return fairness


@pytest.mark.parametrize("metric", ["sp", "eop"])
def test_two_fair_parts_can_be_as_unfair_together_as_the_bound_says(metric):
    parts = [by_counts(metric, (0.9, 90, 10)), by_counts(metric, (0.1, 10, 90))]
    assert [part.value() for part in parts] == pytest.approx([0, 0], abs=1e-12)
    assert sum(parts).value() == pytest.approx(0.64, abs=1e-12)
    assert GroupFairness.bound(parts) == pytest.approx(0.64, abs=1e-12)


def test_parts_that_are_mixed_alike_hide_nothing():
    parts = [by_counts("sp", (0.9, 30, 60)), by_counts("sp", (0.1, 10, 20))]
    assert GroupFairness.bound(parts) == pytest.approx(0, abs=1e-12)
    assert GroupFairness.bound(iter(parts[:1])) == pytest.approx(0, abs=1e-12)


def test_parts_of_one_group_each_are_bounded_by_their_rates():
    parts = [by_counts("sp", (0.75, 8, 0)), by_counts("sp", (0.25, 0, 4))]
    assert sum(parts).value() == GroupFairness.bound(parts) == 0.5


@pytest.mark.parametrize("metric", ["sp", "eop", "cal"])
@pytest.mark.parametrize(("groups", "classes"), [(2, 2), (4, 2), (2, 3), (3, 3)])
def test_no_union_is_above_its_bound(metric, groups, classes):
    draw = np.random.default_rng(3)
    for seed in range(25):
        parts = []
        for one in range(draw.integers(1, 6)):
            rows = random_rows(int(draw.integers(1, 30)), groups, classes, seed=100 * seed + one)
            rows["groups"] = rows["groups"] // draw.integers(1, 3)  # some parts lack groups
            rows["scores"] = rows["scores"] ** draw.uniform(0.2, 5)
            parts.append(GroupFairness(metric, groups, classes=classes))
            parts[-1].update(**rows)
        if sum(parts).is_known:
            assert abs(sum(parts).value()) <= GroupFairness.bound(parts) + 1e-12


def test_it_is_no_looser_than_the_largest_gap_and_variation_of_two_groups():
    parts = [by_counts("sp", (0.9, 3, 0), (0.7, 0, 1)), by_counts("sp", (0.5, 1, 0), (0.2, 0, 3))]
    # Gaps .2 and .3; shares 3/4, 1/4 and 1/4, 3/4; group 0's rates range over .4, group 1's over .5.
    assert GroupFairness.bound(parts) == pytest.approx(0.3 + 0.5 * 0.4, abs=1e-12)


@pytest.mark.parametrize(
    ("parts", "message"),
    [([], "`parts` is empty"), ([GroupFairness("sp"), GroupFairness("eop")], "measure both alike")],
)
def test_parts_that_make_no_union_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        GroupFairness.bound(parts)
