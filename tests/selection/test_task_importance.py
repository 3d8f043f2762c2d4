"""Which features each task uses, as a statistic of a learner."""

import numpy as np
import pytest
import torch
from planted import planted

from hf_lifelong.knowledge import fit_closed_form
from hf_lifelong.selection import InputImportance, depth_shares, kept_features, small_head, task_overlap
from hf_lifelong.statistics import TaskRows, checked, get_statistic


def rows_of(features, labels=None, values=None, classes=("a", "b")):
    columns = {"label": values if labels is None else labels.tolist()}
    return TaskRows("task", "text-classification", classes, features, labels, None, columns, None)


def planted_task(seed=0, rows=300, inputs=40, relevant=3):
    x, y = planted(seed, rows, inputs, relevant)
    return torch.from_numpy(x).float(), torch.from_numpy(y > np.median(y)).long(), y


def test_features_that_a_task_needs_are_its_most_important_ones():
    features, labels, values = planted_task()
    for rows in (rows_of(features, labels), rows_of(features, values=list(values))):
        found = checked(InputImportance(), InputImportance().fit(rows))
        importances = found["importances"]
        assert importances.dtype == torch.float16 and importances.shape == (40,)
        assert sorted(importances.float().topk(3).indices.tolist()) == [0, 1, 2]
        assert kept_features(importances).sum() <= 8  # a fifth
        shown = InputImportance().describe(found)
        assert shown["features used"] == int((importances > 0).sum()) and 0.5 < list(shown.values())[1] <= 1


def test_it_depends_on_the_task_alone():
    features, labels, _ = planted_task()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = InputImportance().fit(rows_of(features, labels))["importances"]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    again = InputImportance().fit(rows_of(features, labels))["importances"]
    assert first.numpy().tobytes() == again.numpy().tobytes()


@pytest.mark.parametrize("rows", [9, 40])
def test_of_too_few_rows_or_one_class_nothing_is_told(rows):
    found = InputImportance().fit(rows_of(torch.randn(rows, 5), torch.zeros(rows, dtype=torch.long)))
    assert not found["importances"].any()
    assert list(InputImportance().describe(found).values()) == [0, 0.0]


def test_constant_features_are_not_used():
    features, labels, _ = planted_task()
    features[:, 7] = 3.0
    assert InputImportance().fit(rows_of(features, labels))["importances"][7] == 0


def test_tasks_that_use_the_same_features_overlap():
    same, other = planted_task(seed=0), planted_task(seed=1)
    moved = other[0].roll(20, dims=1)
    of_task = {
        "one": InputImportance().fit(rows_of(*same[:2])),
        "like it": InputImportance().fit(rows_of(*other[:2])),
        "elsewhere": InputImportance().fit(rows_of(moved, other[1])),
    }
    overlap = task_overlap(of_task)
    assert overlap.tasks == list(of_task)
    assert overlap.correlation[0, 1] > 0.5 > overlap.correlation[0, 2]
    assert overlap.jaccard.diagonal().tolist() == [1, 1, 1]


def test_shares_of_depths():
    importances = torch.tensor([1.0, 0.0, 2.0, 1.0, 0.0, 0.0])
    assert depth_shares(importances, 2).tolist() == pytest.approx([1 / 6, 5 / 6, 0])
    assert depth_shares(torch.zeros(4), 2).tolist() == [0, 0]
    with pytest.raises(ValueError, match="`width` = 4 does not divide the 6 features"):
        depth_shares(importances, 4)


def test_a_small_head_is_the_closed_form_on_fewer_features():
    features, labels, _ = planted_task(rows=2000)
    (train, test), (known, wanted) = features.split([300, 1700]), labels.split([300, 1700])
    kept = kept_features(InputImportance().fit(rows_of(train, known))["importances"])
    weight, bias = small_head(train, known, 2, kept)
    whole = fit_closed_form(train, known, 2)
    assert weight.shape == (2, int(kept.sum())) and weight.numel() * 5 <= whole[0].numel()
    small = ((test[:, kept] @ weight.T + bias).argmax(1) == wanted).float().mean()
    assert small >= ((test @ whole[0].T + whole[1]).argmax(1) == wanted).float().mean() - 0.005


def test_it_is_registered():
    assert isinstance(get_statistic("input_importance"), InputImportance)
