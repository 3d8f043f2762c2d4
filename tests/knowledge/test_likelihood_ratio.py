import math

import numpy as np
import pytest
import torch
from scipy.linalg import eigh
from scipy.stats import multivariate_normal

from hf_lifelong.knowledge import Constants, Signature, Tail, fit_signature, measure_tail, novelty_rule, shared_router
from hf_lifelong.knowledge.likelihood_ratio import likelihood_ratio, limit_of
from hf_lifelong.knowledge.novelty import optimism, weights

BY = Constants()
D = 6
# Classes of each task, and rows of each class.
CLASSES, ROWS = (3, 1, 2), 80


def drawn(seed, classes, rows=ROWS, apart=4.0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(D, D, generator=generator)
    labels = torch.arange(rows * classes) % classes
    places = apart * torch.randn(classes, D, generator=generator)
    return torch.randn(len(labels), D, generator=generator) @ mix + places[labels], labels


def together(signatures):
    stacks = (torch.stack([getattr(s, part) for s in signatures]) for part in ("mean", "factor", "diagonal"))
    return Signature(*stacks, torch.cat([s.classes for s in signatures]))


@pytest.fixture(scope="module")
def learned():
    data = [drawn(seed, classes) for seed, classes in enumerate(CLASSES)]
    return data, [fit_signature(x, D, y, classes) for (x, y), classes in zip(data, CLASSES, strict=True)]


def rule_of(signatures, tails=None, by=BY):
    counts = torch.tensor([ROWS * len(s.classes) for s in signatures])
    return likelihood_ratio(
        together(signatures), counts, [len(s.classes) for s in signatures], tails or [None] * len(signatures), by
    )


def by_hand(signatures):
    """Coordinates by a generalised eigenproblem, and the covariances in them, in float64."""
    share = np.array([ROWS * len(s.classes) - 1 for s in signatures], dtype=float)
    share /= share.sum()
    scatter = [(s.factor.T.double() @ s.factor.double() + torch.diag(s.diagonal.double())).numpy() for s in signatures]
    within = sum(w * c for w, c in zip(share, scatter, strict=True))
    within = (1 - BY.ratio_shrinkage) * within + BY.ratio_shrinkage * np.trace(within) / D * np.eye(D)
    places = torch.cat([s.classes for s in signatures]).double().numpy()
    weight = np.concatenate(
        [np.full(len(s.classes), w / len(s.classes)) for s, w in zip(signatures, share, strict=True)]
    )
    mean = weight @ places
    between = ((places - mean) * weight[:, None]).T @ (places - mean)
    variance, axes = eigh(between, within)
    keep = variance > variance.max() * 1e-6
    return variance[keep], axes[:, keep].T, mean, places, scatter


def test_it_is_the_ratio_of_two_gaussians(learned):
    _, signatures = learned
    rule = rule_of(signatures)
    variance, axes, mean, places, scatter = by_hand(signatures)
    x = drawn(9, 1)[0][:20]
    at, far = (x.double().numpy() - mean) @ axes.T, multivariate_normal(np.zeros(len(axes)), np.diag(1 + variance))
    start = np.cumsum([0, *CLASSES])
    for task in range(3):
        covariance = (axes @ scatter[task] @ axes.T + np.eye(len(axes))) / 2
        near = [multivariate_normal((m - mean) @ axes.T, covariance) for m in places[start[task] : start[task + 1]]]
        expected = -2 * (np.max([one.logpdf(at) for one in near], 0) - far.logpdf(at))
        found = rule.excess(x, torch.full((20,), task)) * rule.deviation[task] + rule.mean[task]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_mean_and_deviation_are_those_of_inputs_that_the_signatures_describe(learned):
    _, signatures = learned
    rule, (variance, axes, mean, places, scatter) = rule_of(signatures), by_hand(signatures)
    draw, start = np.random.default_rng(0), np.cumsum([0, *CLASSES])
    for task in range(3):
        of_task = axes @ scatter[task] @ axes.T
        covariance = (of_task + np.eye(len(axes))) / 2
        ratios = []
        for place in places[start[task] : start[task + 1]]:
            noise = draw.multivariate_normal(np.zeros(len(axes)), of_task, 100_000)
            at = noise + axes @ (place - mean)
            near = np.einsum("nq,qk,nk->n", noise, np.linalg.inv(covariance), noise) + np.linalg.slogdet(covariance)[1]
            ratios.append(near - (at**2 / (1 + variance)).sum(1) - np.log1p(variance).sum())
        np.testing.assert_allclose(float(rule.mean[task]), np.mean(ratios), atol=0.05)
        np.testing.assert_allclose(float(rule.deviation[task]), np.std(ratios), rtol=0.02)


def test_more_classes_than_features_give_the_same_coordinates(learned):
    many = [fit_signature(x, D, y, 8) for x, y in (drawn(3, 8), drawn(4, 8))]
    rule = likelihood_ratio(together(many), torch.tensor([640, 640]), [8, 8], [None, None], BY)
    assert rule.basis.shape == (D, D)
    scatter = rule.places.T.double() @ rule.places.double()
    assert (scatter - torch.diag(scatter.diagonal())).abs().max() < 1e-3 * scatter.abs().max()


def test_few_directions_are_the_leading_ones(learned):
    _, signatures = learned
    whole, few = rule_of(signatures), rule_of(signatures, by=Constants(ratio_directions=2))
    assert few.basis.shape == (2, D)
    torch.testing.assert_close(few.background, whole.background[:2])


def test_own_inputs_are_rarely_new_and_foreign_ones_mostly():
    noise = torch.randn(6, 500, D, generator=torch.Generator().manual_seed(0))
    places = 8 * torch.eye(D)
    signatures = [fit_signature(noise[i] + places[i], D) for i in range(3)]
    counts, tasks = torch.tensor([500] * 3), [1, 1, 1]
    rule = likelihood_ratio(together(signatures), counts, tasks, [None] * 3, BY)
    first = torch.zeros(500, dtype=torch.long)
    assert (rule(noise[4] + places[0], first) > 1).float().mean() < 0.06
    assert (rule(noise[5], first) > 1).float().mean() > 0.95  # between all of them
    # Unlike others only in what no task cares about.
    assert (rule(noise[4] + places[0] + 8 * places[5], first) > 1).float().mean() < 0.15


def test_one_task_of_several_classes_can_tell():
    x, y = drawn(0, 3, rows=300, apart=8.0)
    only = [fit_signature(x, D, y, 3)]
    rule = likelihood_ratio(together(only), torch.tensor([900]), [3], [Tail(3.0, 2)], BY)
    assert rule.basis.shape == (2, D)
    own, between = (
        rule(x, torch.zeros(900, dtype=torch.long)),
        rule(x.mean(0, keepdim=True), torch.zeros(1, dtype=torch.long)),
    )
    assert (own > 1).float().mean() < 0.05 and float(between) > 1


@pytest.mark.parametrize("same", [False, True])
def test_without_differences_nothing_can_be_told(same):
    x = drawn(0, 1)[0]
    signatures = [fit_signature(x, 2)] * (2 if same else 1)
    ones = [1] * len(signatures)
    assert likelihood_ratio(together(signatures), torch.tensor([80] * len(ones)), ones, [None] * len(ones), BY) is None


def test_the_limit_is_the_usual_one_or_what_held_out_inputs_show():
    assert limit_of(None, 16, BY) == pytest.approx(2 + 0.5 * 4)
    assert limit_of(Tail(12.0, 4), 4, BY) == pytest.approx(12.0)
    assert limit_of(Tail(12.0, 4), 16, BY) == pytest.approx(12 / 2)
    assert limit_of(Tail(1.0, 4), 16, BY) == pytest.approx(4.0)


def test_novelty_is_the_mean_of_both_measures_or_the_only_one(learned):
    (data, signatures), counts = learned, torch.tensor([240, 80, 160])
    everything, ones = together(signatures), [None] * 3
    router = shared_router(everything, counts, CLASSES, [0, 1, 2], 0.05, BY)
    x, task = torch.cat([data[2][0], 9 * data[2][0]]), torch.full((320,), 2)
    both = novelty_rule(everything, router, counts, CLASSES, ones, 0.05, BY)
    distance, ratio = both.distance(x, task), both.ratio(x, task)
    assert both.optimism == 1.0 and distance.max() > 1.5
    torch.testing.assert_close(both(x, task), (distance.clamp_max(1.5) + ratio.clamp_max(1.5)) / 2 / 0.85)
    old = novelty_rule(everything, router, counts, CLASSES, ones, 0.05, Constants(novelty="distance"))
    torch.testing.assert_close(old(x, task), distance)
    alone, three = together(signatures[:1]), counts[:1]
    router = shared_router(alone, three, [3], [0], 0.05, BY)
    only = novelty_rule(alone, router, three, [3], [None], 0.05, BY)
    assert only.distance is None
    torch.testing.assert_close(only(x, task * 0), only.ratio(x, task * 0))


def test_the_ratio_weighs_the_more_the_more_classes_a_task_has():
    weight, limit = weights(torch.tensor([1, 2, 6, 15]), BY)
    assert weight.tolist() == pytest.approx([0.5, 0.5, 1 - 0.5 / 1.5, 1 - 0.5 / 2.625])
    assert limit[:2].tolist() == pytest.approx([0.85, 0.85])
    assert limit[2:].tolist() == pytest.approx([(1 - 1.11 * 2 / 9) ** 0.5, 0.9104], abs=1e-4)
    weight, limit = weights(torch.tensor([2, 15]), Constants(ratio_gain=0.0))
    assert weight.tolist() == [0.5, 0.5] and limit.tolist() == pytest.approx([0.85, 0.85])


def test_optimism_is_what_leaving_one_out_shows():
    generator = torch.Generator().manual_seed(0)
    d, rows = 30, 60
    data = [torch.randn(rows, d, generator=generator).double() for _ in range(2)]
    signatures = [fit_signature(x, d) for x in data]
    found = optimism(together(signatures), torch.tensor([rows, rows]), 0.05)
    x = torch.cat([x - x.mean(0) for x in data])
    direction = torch.randn(d, generator=generator).double()

    def along(rows, centred):
        covariance = centred.T @ centred / (len(x) - 2)
        shrunk = 0.95 * covariance + 0.05 * covariance.diagonal().mean() * torch.eye(d)
        return torch.linalg.solve(shrunk, direction) @ rows.T

    seen = along(x, x).square().mean()
    left_out = torch.stack([along(x[i], torch.cat([x[:i], x[i + 1 :]])) for i in range(len(x))]).square().mean()
    assert float(left_out / seen) == pytest.approx(found, rel=0.1)
    assert found > 1.4
    many = optimism(together(signatures), torch.tensor([60_000, 60_000]), 0.05)
    few = optimism(together(signatures), torch.tensor([4, 4]), 0.05)
    assert many == pytest.approx(1.0, abs=1e-3) and few == pytest.approx(0.05**-2)


def test_few_held_out_inputs_put_the_limit_further_out(learned):
    (x, _), signature = learned[0][0], learned[1][0]
    alone = likelihood_ratio(together([signature]), torch.tensor([240]), [3], [None], BY)
    excess = alone.excess(x, torch.zeros(len(x), dtype=torch.long))
    whole = measure_tail(signature, 240, x, BY)
    assert whole.directions == 2
    assert whole.excess == pytest.approx(float(excess.sort().values[math.ceil(0.97 * (len(x) - 1))]), rel=1e-4)
    five = measure_tail(signature, 240, x[:5], BY)
    assert five.excess == pytest.approx(max(float(excess[:5].max()), 1.0) * math.log(1 / 0.03) / math.log(6), rel=1e-4)
    assert measure_tail(signature, 240, x[:0], BY) is None
    assert measure_tail(learned[1][1], 80, x, BY) is None  # one class


def test_leaving_tasks_out_is_exact(learned):
    _, signatures = learned
    everything = together(signatures)
    kept = Signature(
        *(getattr(everything, k)[[0, 2]] for k in ("mean", "factor", "diagonal")), everything.classes[[0, 1, 2, 4, 5]]
    )
    counts = torch.tensor([240, 160])
    a, b = (
        likelihood_ratio(s, counts, [3, 2], [None, Tail(4.0, 2)], BY)
        for s in (kept, together([signatures[0], signatures[2]]))
    )
    assert all(torch.equal(v, getattr(b, k)) for k, v in vars(a).items())


def test_rows_together_are_as_rows_alone(learned):
    data, signatures = learned
    rule = rule_of(signatures)
    x, task = torch.cat([x for x, _ in data] * 3), torch.arange(3).repeat(480)
    whole = rule(x, task[: len(x)])
    assert len(x) > 512 and rule(x[:0], task[:0]).shape == (0,)
    parts = torch.cat([rule(x[i : i + 7], task[i : i + 7]) for i in range(0, 70, 7)])
    torch.testing.assert_close(whole[:70], parts, rtol=1e-4, atol=1e-4)
