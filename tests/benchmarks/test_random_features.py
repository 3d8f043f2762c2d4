"""Closed forms on random features, against scikit-learn on all rows at once."""

import numpy as np
import pytest
from methods import random_features
from methods.random_features import Ensemble, FourierClasses, RandomRidge, ValidatedRidge
from scipy.special import softmax
from sklearn.linear_model import Ridge, RidgeClassifier


def blobs(seed, classes, rows=30, features=6):
    """Random features of a few classes, and their labels in random order."""
    draw = np.random.default_rng(seed)
    labels = draw.permutation(np.repeat(np.arange(classes), rows))
    return draw.normal(size=(len(labels), features)) + 3 * draw.normal(size=(classes, features))[labels], labels


def learned(classes):
    """Classes of two tasks of two and three classes, and their expanded rows, task after task."""
    rows = []
    for task, count in enumerate((2, 3)):
        features, labels = blobs(task, count)
        rows.append((classes.expanded(features), labels))
        classes.add(*rows[-1], [f"{task}.{k}" for k in range(count)], task)
    return classes, rows


@pytest.fixture
def ridge():
    return learned(ValidatedRidge(width=40))


def least_squares(share, features, wanted):
    """scikit-learn's ridge regression under a share of the mean diagonal."""
    return Ridge(share * (features**2).sum(0).mean(), fit_intercept=False).fit(features, wanted)


def one_hot(rows):
    """All rows, and which class of the stream each has."""
    first, second = rows
    return np.concatenate([first[0], second[0]]), np.eye(5)[np.concatenate([first[1], second[1] + 2])]


@pytest.mark.parametrize("penalty", [0.1, 1e3])
def test_ridge_by_sums_answers_as_scikit_learns_classifier_on_all_rows(penalty):
    classes, rows = learned(RandomRidge(width=40, penalty=penalty))
    features, wanted = one_hot(rows)
    weights, offsets = classes.weights()
    # Its targets are -1 and 1, ours 0 and 1.
    reference = RidgeClassifier(penalty, fit_intercept=False, solver="cholesky").fit(features, wanted.argmax(1))
    ones = Ridge(penalty, fit_intercept=False).fit(features, np.ones(len(features)))
    np.testing.assert_allclose(weights, (reference.coef_ + ones.coef_) / 2, rtol=1e-5, atol=1e-9)
    assert not offsets.any()


def test_ridge_by_sums_is_the_same_task_by_task_as_recursive_least_squares():
    classes, rows = learned(RandomRidge(width=40))
    features, wanted = one_hot(rows)
    inverse, found = np.eye(40) / classes.penalty, np.zeros((40, 5))
    for row, target in zip(features, wanted, strict=True):
        gain = inverse @ row / (1 + row @ inverse @ row)
        found += np.outer(gain, target - row @ found)
        inverse -= np.outer(gain, row @ inverse)
    np.testing.assert_allclose(classes.weights()[0], found.T, rtol=1e-4, atol=1e-7)


def test_ranpac_task_by_task_is_scikit_learns_ridge_on_all_rows(ridge):
    classes, rows = ridge
    features, wanted = one_hot(rows)
    weights, offsets = classes.weights()
    reference = least_squares(classes.share, features, wanted)
    np.testing.assert_allclose(weights, reference.coef_, rtol=1e-5, atol=1e-9)
    assert not offsets.any() and classes.labels == ["0.0", "0.1", "1.0", "1.1", "1.2"]


def test_the_penalty_is_the_one_with_the_smallest_error_on_what_is_held_out_of_the_newest_task(ridge):
    classes, rows = ridge
    features, wanted = one_hot(rows)
    held_out = np.arange(len(features)) - len(rows[0][0])
    held_out = (held_out >= 0) & (held_out % 5 == 4)
    errors = []
    for penalty in random_features.PENALTIES:
        found = least_squares(penalty, features[~held_out], wanted[~held_out])
        errors.append(((found.predict(features[held_out]) - wanted[held_out]) ** 2).sum())
    assert classes.share == random_features.PENALTIES[int(np.argmin(errors))]


def test_random_features_are_drawn_once_and_are_what_is_published():
    classes = RandomRidge(width=40, seed=3)
    features = np.random.default_rng(0).normal(size=(4, 6))
    expected = np.maximum(features @ np.random.default_rng(3).normal(size=(6, 40)), 0)
    np.testing.assert_allclose(classes.expanded(features), expected)
    np.testing.assert_allclose(classes.expanded(features[:1]), expected[:1])


@pytest.mark.parametrize("gamma", [0.3, 1.0])
def test_fourier_features_make_a_gaussian_kernel_of_the_scale_of_the_first_rows(gamma):
    features = np.random.default_rng(0).normal(size=(30, 4)) * 7
    found = FourierClasses(0.1, gamma=gamma, width=40_000).expanded(features)
    distances = ((features[:, None] - features[None]) ** 2).sum(-1)
    np.testing.assert_allclose(found @ found.T, np.exp(-gamma * distances / distances.mean()), atol=0.03)


def test_discriminants_on_fourier_features_tell_a_ring_from_its_middle():
    draw = np.random.default_rng(0)
    angles, inside = draw.uniform(0, 2 * np.pi, 400), np.arange(400) % 2
    features = (draw.normal(size=400) * 0.1 + np.where(inside, 0.3, 1.5))[:, None]
    features = features * np.stack([np.cos(angles), np.sin(angles)], 1)

    def right(classes):
        classes.add(classes.expanded(features), inside, ["ring", "middle"], 0)
        weights, offsets = classes.weights()
        return ((classes.expanded(features) @ weights.T + offsets).argmax(1) == inside).mean()

    assert right(random_features.Classes(0.01)) < 0.8 < 0.99 < right(FourierClasses(0.01, gamma=1.0, width=200))


def test_an_ensemble_answers_with_the_mean_of_the_probabilities_of_its_draws():
    def draws():
        return [FourierClasses(0.1, gamma=0.3, width=20, seed=seed) for seed in (4, 5)]

    ensemble, alone = Ensemble(draws=draws()), draws()
    features, labels = blobs(0, 3)
    names = ["a", "b", "c"]
    for classes in (ensemble, *alone):
        classes.add(classes.expanded(features), labels, names, 0)
    given = ensemble.scores(ensemble.expanded(features), ensemble.weights())
    scores = [one.scores(one.expanded(features), one.weights()) for one in alone]
    expected = [softmax(one, 1) for one in scores]
    np.testing.assert_allclose(given, (expected[0] + expected[1]) / 2)
    assert ensemble.labels == names and ensemble.bytes_of(0) == 2 * alone[0].bytes_of(0)


def test_the_gram_matrix_counts_once_and_each_class_a_column(ridge):
    classes, _ = ridge
    assert [classes.bytes_of(task) for task in (0, 1)] == [4 * (2 * 40 + 40 * 41 // 2), 4 * 3 * 40]
