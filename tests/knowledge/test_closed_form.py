import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from hf_lifelong.knowledge import best_weight, fit_closed_form, loss_sums
from hf_lifelong.knowledge.closed_form import USUAL, WEIGHTS


def draw(classes, n=90, d=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    places = 2 * torch.randn(classes, d, generator=generator)
    return torch.randn(n, d, generator=generator) + places[labels], labels


class HalfToTheDiagonal:
    """For scikit-learn, which asks for the covariance of each class."""

    def fit(self, rows):
        covariance = np.cov(rows, rowvar=False, bias=True)
        self.covariance_ = (covariance + np.diag(np.diag(covariance))) / 2
        return self


@pytest.mark.parametrize("classes", [2, 4])
def test_a_closed_form_head_decides_and_is_as_sure_as_scikit_learn(classes):
    features, labels = draw(classes)
    weight, bias = fit_closed_form(features, labels, classes)
    assert weight.shape == (classes, 5) and bias.shape == (classes,) and weight.dtype == bias.dtype == torch.float32
    known = LinearDiscriminantAnalysis(
        solver="lsqr", covariance_estimator=HalfToTheDiagonal(), priors=[1 / classes] * classes
    )
    known.fit(features.double().numpy(), labels.numpy())
    new, _ = draw(classes, seed=1)
    found = (new @ weight.T + bias).softmax(1)
    np.testing.assert_allclose(found, known.predict_proba(new.double().numpy()), atol=1e-4)


@pytest.mark.parametrize(("labels", "classes"), [([0, 0, 0, 0], 1), ([0, 1, 0, 0], 3), ([0, 1, 2, 3], 4), ([0, 1], 2)])
@pytest.mark.parametrize("size", [3, 64])
def test_there_is_none_where_a_class_has_no_text_or_none_has_two(labels, classes, size):
    features = torch.randn(len(labels), size, generator=torch.Generator().manual_seed(0))
    assert fit_closed_form(features, torch.tensor(labels), classes) is None


@pytest.mark.parametrize("labels", [[0, 0, 1], [0, 0, 0, 1], [0, 1, 1, 1, 2, 2], [0, 1] * 20])
def test_constant_features_say_nothing_and_few_texts_are_enough(labels):
    classes = max(labels) + 1
    features = torch.randn(len(labels), 30, generator=torch.Generator().manual_seed(0))
    constant = torch.cat([features, torch.full((len(labels), 1), 2.0)], 1)
    new = torch.randn(50, 30, generator=torch.Generator().manual_seed(1))
    answers = []
    for known, asked in ((features, new), (constant, torch.cat([new, torch.full((50, 1), 2.0)], 1))):
        weight, bias = fit_closed_form(known, torch.tensor(labels), classes)
        answers.append((asked @ weight.T + bias).softmax(1))
    np.testing.assert_allclose(*answers, atol=1e-3)


def test_constant_features_give_no_head_that_is_not_finite():
    found = fit_closed_form(torch.ones(6, 3), torch.tensor([0, 1] * 3), 2)
    assert found is None or all(torch.isfinite(part).all() for part in found)


def test_few_texts_that_tell_little_leave_the_usual_weight():
    labels = torch.tensor([0, 1] * 10)
    right = torch.nn.functional.one_hot(labels, 2) * 4.0
    as_often_wrong = torch.tensor([[1.0], [-1.0], [-1.0], [1.0]] * 5) * right
    assert best_weight(loss_sums(right.log_softmax(1), as_often_wrong, labels)) == WEIGHTS[USUAL] == 0.1


def test_the_weight_is_the_one_that_makes_right_answers_likeliest():
    labels = torch.tensor([0, 1] * 10)
    right = torch.nn.functional.one_hot(labels, 2) * 4.0
    unsure = torch.full((20, 2), 0.5).log()
    assert best_weight(loss_sums(unsure, right, labels)) == 1.0
    assert best_weight(loss_sums(unsure, -right, labels)) == 0.0
    # Members that are right already, and a head that is sure and wrong once: a little of it is best.
    mixed = right.clone()
    mixed[::4] = 2 * mixed[::4].flip(1)
    assert 0 < best_weight(loss_sums(unsure, mixed, labels)) < 1
