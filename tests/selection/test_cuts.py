"""Where the inputs that matter begin, and how much sets of them agree."""

import numpy as np
import pytest
from sklearn.mixture import GaussianMixture

from hf_lifelong.selection import fit_mixture, mixture_cut, stability_of, support_overlap
from hf_lifelong.selection.cuts import cut


def two_groups(seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(1, 0.05, 30), rng.normal(2, 0.1, 10)])


def test_mixture_is_the_one_that_scikit_learn_finds():
    values = two_groups()
    ours, theirs = fit_mixture(values), GaussianMixture(2, tol=1e-9, max_iter=1000, random_state=0)
    theirs.fit(values[:, None])
    order = theirs.means_[:, 0].argsort()
    assert ours.means == pytest.approx(theirs.means_[order, 0], abs=1e-3)
    assert ours.shares == pytest.approx(theirs.weights_[order], abs=1e-3)
    assert ours.variances == pytest.approx(theirs.covariances_[order, 0, 0], abs=1e-3)


def test_mixtures_of_a_batch_are_those_of_its_rows():
    batch = np.stack([two_groups(seed) for seed in range(4)]) ** 2
    kept, separate = mixture_cut(batch)
    assert separate.all() and (kept == (np.arange(40) >= 30)).all()
    for row, own in zip(batch, kept, strict=True):
        assert (mixture_cut(row)[0] == own).all()


def test_many_zeros_do_not_hide_the_two_kinds():
    rng = np.random.default_rng(0)
    kept, separate = mixture_cut(np.concatenate([np.zeros(900), rng.uniform(0, 0.02, 90), rng.uniform(0.1, 0.4, 10)]))
    assert separate and kept.nonzero()[0].tolist() == list(range(990, 1000))


def test_exact_zeros_are_never_kept():
    kept, separate = mixture_cut(np.array([0.0] * 17 + [0.4, 0.5, 0.7]))
    assert separate and kept.tolist() == [False] * 17 + [True] * 3


@pytest.mark.parametrize("values", [np.zeros(9), np.ones(9), np.linspace(1, 2, 40) ** 2, np.array([1.0, 2.0])])
def test_no_set_where_nothing_separates(values):
    kept, separate = mixture_cut(values)
    assert not separate and not kept.any()


def test_a_number_and_a_share():
    values = np.array([[0.1, 0.9, 0.0, 0.5], [0.0, 0.0, 0.2, 0.0]])
    assert cut(values, 2).tolist() == [[False, True, False, True], [False, False, True, False]]
    assert cut(values, 0.5).tolist() == [[False, True, False, True], [False, False, True, False]]
    assert cut(values, 0.6).tolist() == [[False, True, False, False], [False, False, True, False]]
    assert not cut(np.zeros(4), 0.5).any()


def test_stability_of_equal_and_of_random_sets():
    same = np.tile(np.arange(20) < 4, (6, 1))
    assert stability_of(same) == 1
    rng = np.random.default_rng(0)
    drawn = [stability_of(rng.random((10, 50)) < 0.3) for _ in range(50)]
    assert np.mean(drawn) == pytest.approx(0, abs=0.02)
    assert stability_of(np.zeros((3, 5), bool)) == stability_of(np.ones((3, 5), bool)) == 0


def test_overlap_of_tasks():
    supports = {"a": [True, True, False, False], "b": [False, True, True, False], "c": [False] * 4}
    importances = {"a": [1.0, 2.0, 0.0, 0.0], "b": [0.0, 3.0, 1.0, 0.0], "c": [0.0] * 4}
    overlap = support_overlap(supports, importances)
    assert overlap.tasks == ["a", "b", "c"]
    assert overlap.jaccard.tolist() == [[1, pytest.approx(1 / 3), 0], [pytest.approx(1 / 3), 1, 0], [0, 0, 0]]
    expected = np.corrcoef(importances["a"], importances["b"])[0, 1]
    assert overlap.correlation[0, 1] == overlap.correlation[1, 0] == pytest.approx(expected)
    assert np.isnan(overlap.correlation[2]).all()


@pytest.mark.parametrize(
    ("supports", "importances", "message"),
    [
        ({}, {}, "at least one"),
        ({"a": [True]}, {"b": [1.0]}, "same tasks"),
        ({"a": [1, 0]}, {"a": [1.0, 0.0]}, r"`supports\['a'\]` must be bool"),
        ({"a": [True], "b": [True, False]}, {"a": [1.0], "b": [1.0, 2.0]}, r"`supports\['b'\]` has shape"),
        ({"a": [True]}, {"a": [1.0, 2.0]}, r"`importances\['a'\]` has shape"),
    ],
)
def test_overlap_refuses(supports, importances, message):
    with pytest.raises(ValueError, match=message):
        support_overlap(supports, importances)
