"""Sums whose groups and classes have names: added by name, stored as tensors, and how stale they can get."""

import numpy as np
import pytest
import torch
from fairness_helpers import part, random_rows

from hf_lifelong.fairness import FairnessSums, GroupFairness, NamedSums, group_names, in_order, staleness
from hf_lifelong.statistics import TaskRows

CLASSES = {2: ("no", "yes"), 4: ("a", "b", "c", "d")}


def named(rows, names, classes=2):
    scores = torch.tensor(rows["scores"])
    scores = torch.stack([1 - scores, scores], 1) if classes == 2 else scores
    groups = [names[group] for group in rows["groups"]]
    return NamedSums.of_rows(scores, torch.tensor(rows["labels"]), groups, CLASSES[classes])


@pytest.mark.parametrize("metric", ["sp", "eop", "cal"])
@pytest.mark.parametrize("classes", [2, 4])
def test_one_set_of_sums_serves_every_metric(metric, classes):
    rows = random_rows(groups=3, classes=classes)
    expected = GroupFairness(metric, 3, classes=classes)
    expected.update(**rows)
    found = named(rows, "xyz", classes)
    assert found.groups == ("x", "y", "z") and found.classes == CLASSES[classes][-len(found.classes) :]
    assert found.fairness(metric, "xyz", CLASSES[classes]).to_dict() == expected.to_dict()
    assert found.value(metric) == expected.value()


def test_groups_and_classes_are_added_by_name():
    """The second part has one group in another place, a new one, and lacks one."""
    rows = random_rows(groups=2)
    first, second = part(rows, slice(0, 150)), part(rows, slice(150, 400))
    found = named(first, ("m", "f")) + named(second, ("f", "x"))
    assert found.groups == ("f", "m", "x")
    whole = GroupFairness("eop", 3)
    whole.update(**{**first, "groups": np.array([1, 0])[first["groups"]]})
    whole.update(**{**second, "groups": np.array([0, 2])[second["groups"]]})
    torch.testing.assert_close(found.fairness("eop", found.groups, CLASSES[2]).sums, whole.sums, rtol=0, atol=1e-12)
    assert found.fairness("eop", ("x", "f"), CLASSES[2]).rates().tolist() == pytest.approx(
        whole.rates()[[2, 0]].tolist(), abs=1e-12
    )
    other = named(random_rows(groups=2, classes=4), ("f", "m"), 4)
    assert (found + other).classes == ("yes", "a", "b", "c", "d")
    kept = (found + other).fairness("sp", found.groups, CLASSES[2])
    assert torch.equal(kept.sums, found.fairness("sp", found.groups, CLASSES[2]).sums)


def test_names_come_back_from_tensors_whatever_their_letters():
    rows = random_rows(groups=3)
    found = named(rows, ("Zoë", "10", "2"))
    again = NamedSums.from_values(found.to_values())
    assert again.groups == ("2", "10", "Zoë") and again.classes == ("yes",) and torch.equal(again.sums, found.sums)


def test_names_of_groups_are_texts_and_integers():
    assert group_names(["a", 1, None, True, -100]) == ["a", "1", None, "True", None]
    assert in_order(["b", "10", "a", "2", "a"]) == ("2", "10", "a", "b")
    with pytest.raises(ValueError, match="has 1,001 different values; give groups"):
        group_names(list(range(1001)))


@pytest.mark.parametrize("metric", ["sp", "eop", "cal"])
@pytest.mark.parametrize(("groups", "classes"), [(2, 2), (4, 2), (3, 4)])
def test_no_other_scores_of_moved_rows_move_the_metric_further_than_said(metric, groups, classes):
    draw = np.random.default_rng(5)
    names = "wxyz"[:groups]
    tight = 0
    for seed in range(40):
        rows = random_rows(200, groups, classes, seed=seed)
        which = draw.random(200) < draw.uniform(0, 0.3)
        fresh = random_rows(200, groups, classes, seed=seed + 1000)["scores"]
        if seed % 2 and classes == 2:  # as far as it gets: one group's best, the other's worst
            fresh = (rows["groups"] == 0).astype(float)
        after = np.where(which if classes == 2 else which[:, None], fresh, rows["scores"])
        before = named(rows, names, classes)
        bound = staleness(metric, before, named(part(rows, which), names, classes))
        off = abs(abs(named({**rows, "scores": after}, names, classes).value(metric)) - abs(before.value(metric)))
        assert off <= bound + 1e-12
        tight = max(tight, off / bound) if bound else tight
    assert tight > 0.05  # it says something


def test_it_is_the_share_of_the_two_groups_of_which_most_was_moved():
    rows = {"scores": np.full(12, 0.5), "labels": np.ones(12, int), "groups": np.repeat([0, 1, 2], 4)}
    moved = np.array([1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0], dtype=bool)
    assert staleness("sp", named(rows, "abc"), named(part(rows, moved), "abc")) == pytest.approx(0.5 + 0.25)
    # Half of each score counts: two of four rows may be all that is left of group a.
    assert staleness("cal", named(rows, "abc"), named(part(rows, moved), "abc")) == 1.0
    assert staleness("eop", named(rows, "abc"), named(part(rows, ~np.ones(12, bool)), "abc")) == 0


def test_sums_of_some_rows_stand_for_all():
    rows = random_rows(80)
    scores = torch.tensor(rows["scores"])
    given = TaskRows(
        task="t",
        kind="text-classification",
        classes=CLASSES[2],
        features=torch.zeros(80, 1),
        labels=torch.tensor(rows["labels"]),
        scores=torch.stack([1 - scores, scores], 1),
        columns={"group": rows["groups"].tolist()},
        ask=None,
        row_numbers=range(80),
        part_rows=240,
    )
    values = FairnessSums().fit(given)
    found = FairnessSums().read(values)
    assert found.groups == ("0", "1") and found.sums[1].sum() == pytest.approx(240)
    assert found.value("sp") == pytest.approx(named(rows, "01").value("sp"), abs=1e-12)
    shown = FairnessSums().describe(values)
    assert list(shown) == ["groups", "sp", "eop", "cal"] and shown["groups"] == "0, 1"
