"""Sums of parts give what the rows of all parts give."""

import numpy as np
import pytest
import torch

from hf_lifelong.knowledge import (
    ClassSums,
    LossSums,
    best_weight,
    class_sums,
    closed_form_of_sums,
    fit_closed_form,
    fit_signature,
    loss_sums,
    merge_sums,
    signature_of_sums,
)


def draw(rows=90, size=6, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (rows,), generator=generator)
    places = 2 * torch.randn(classes, size, generator=generator) + 50
    return torch.randn(rows, size, generator=generator) + places[labels], labels


def parts_of(features, labels, classes, cuts):
    return [
        class_sums(rows, some, classes) for rows, some in zip(features.split(cuts), labels.split(cuts), strict=True)
    ]


def covariance(signature):
    return signature.factor.T.double() @ signature.factor.double() + signature.diagonal.double().diag()


@pytest.mark.parametrize("cuts", [[90], [45, 45], [1, 80, 9]])
def test_sums_of_parts_are_those_of_all_rows(cuts):
    features, labels = draw()
    whole, merged = class_sums(features, labels, 4), merge_sums(parts_of(features, labels, 4, cuts))
    assert whole.counts.tolist() == merged.counts.tolist() and whole.counts[3] == 0
    for one, other in zip(whole[1:], merged[1:], strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-11)
    assert torch.allclose(whole.scatter[0], features[labels == 0].double().T.cov(correction=0) * whole.counts[0])


@pytest.mark.parametrize(("rows", "size"), [(90, 6), (20, 30)])
def test_a_signature_of_sums_is_the_one_of_the_rows(rows, size):
    features, labels = draw(rows, size)
    sums = merge_sums(parts_of(features, labels, 3, [rows // 2, rows - rows // 2]))
    found = signature_of_sums(sums.counts, sums.means, sums.scatter, rank=4)
    known = fit_signature(features, 4, labels, 3)
    assert torch.allclose(found.mean, known.mean, atol=1e-6) and torch.allclose(
        found.classes, known.classes, atol=1e-6
    )
    assert torch.allclose(covariance(found), covariance(known), atol=1e-5)


def test_a_class_without_rows_gets_the_mean_of_another():
    sums = class_sums(*draw(), 4)
    signature = signature_of_sums(sums.counts, sums.means, sums.scatter, rank=2)
    assert torch.equal(signature.classes[3], signature.classes[sums.counts.argmax()])


def test_a_signature_needs_two_rows():
    sums = class_sums(torch.ones(1, 3), torch.tensor([0]), 2)
    with pytest.raises(ValueError, match="`counts` are of 1 rows"):
        signature_of_sums(sums.counts, sums.means, sums.scatter, rank=2)


@pytest.mark.parametrize("bad", [float("nan"), 1e9])
def test_features_that_no_sums_can_be_made_of_are_refused(bad):
    with pytest.raises(ValueError, match="`features` holds"):
        class_sums(torch.full((3, 2), bad), torch.zeros(3, dtype=torch.long), 1)


@pytest.mark.parametrize(("rows", "size"), [(90, 6), (12, 30)])
def test_a_closed_form_head_of_sums_is_the_one_of_the_rows(rows, size):
    features, labels = draw(rows, size)
    features[:, 2] = 2.0  # constant
    cuts = [rows // 3, rows - rows // 3]
    sums = merge_sums(parts_of(features, labels, 3, cuts))
    found, known = closed_form_of_sums(sums), fit_closed_form(features, labels, 3)
    new = draw(20, size, seed=1)[0]
    new[:, 2] = 2.0
    answers = [(new.double() @ weight.T.double() + bias).softmax(1) for weight, bias in (found, known)]
    np.testing.assert_allclose(*answers, atol=1e-4)


@pytest.mark.parametrize("counts", [[4, 0], [1, 1], [5]])
def test_there_is_no_head_of_sums_where_there_is_none_of_rows(counts):
    labels = torch.tensor([label for label, count in enumerate(counts) for _ in range(count)])
    features, classes = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(0)), len(counts)
    sums = class_sums(features, labels, classes)
    assert closed_form_of_sums(sums) is None
    assert fit_closed_form(features, labels, classes) is None


def test_the_weight_of_a_head_follows_from_the_losses_of_parts():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (60,), generator=generator)
    members = (torch.nn.functional.one_hot(labels, 2) + torch.randn(60, 2, generator=generator)).log_softmax(1)
    for strength in (-3.0, 0.3, 3.0):
        closed = strength * torch.nn.functional.one_hot(labels, 2) + torch.randn(60, 2, generator=generator)
        parts = [loss_sums(members[part], closed[part], labels[part]) for part in (slice(0, 7), slice(7, 60))]
        merged = LossSums(*(sum(values) for values in zip(*parts, strict=True)))
        assert best_weight(merged) == best_weight(loss_sums(members, closed, labels))


def test_sums_are_a_tuple_of_tensors_whose_sizes_do_not_depend_on_rows():
    few, many = (class_sums(*draw(rows), 3) for rows in (10, 80))
    assert isinstance(few, ClassSums) and [t.shape for t in few] == [t.shape for t in many]
