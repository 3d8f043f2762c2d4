from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from hf_lifelong.knowledge import Constants, Signature, fit_signature, shared_router
from hf_lifelong.knowledge import router as routers
from hf_lifelong.knowledge.familiarity import familiarity
from hf_lifelong.knowledge.signatures import FEWEST_OWN, own_blocks, signature_of_sums
from hf_lifelong.knowledge.sums import class_sums

BY = Constants()
OWN = BY.own_share
# Discriminants alone decide; all inputs are compared under covariances of the tasks' own.
SURELY, NEVER_SURE = Constants(sure=-1e4), Constants(sure=float("inf"))

D = 6


def draw(seed, n=40, d=D):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator)
    return torch.randn(n, d, generator=generator) @ mix + 2 * torch.randn(d, generator=generator)


def together(signatures):
    stacks = (torch.stack([getattr(s, part) for s in signatures]) for part in ("mean", "factor", "diagonal"))
    return Signature(*stacks, torch.cat([s.classes for s in signatures]))


def router_of(signatures, counts, shrinkage=0.05, groups=None, by=BY):
    classes = [len(s.classes) for s in signatures]
    groups = list(range(len(classes))) if groups is None else groups
    return shared_router(together(signatures), torch.as_tensor(counts), classes, groups, shrinkage, by)


def covariance_of(signature):
    return (signature.factor.T @ signature.factor + torch.diag(signature.diagonal)).double().numpy()


def test_enough_rank_keeps_the_covariance():
    x = draw(0)
    signature = fit_signature(x, D)
    assert signature.mean.dtype == signature.factor.dtype == signature.diagonal.dtype == torch.float32
    np.testing.assert_allclose(
        covariance_of(signature), np.cov(x.double().numpy(), rowvar=False), rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(signature.mean, x.mean(0), atol=1e-5)


def test_little_rank_keeps_the_leading_direction_and_every_variance():
    x = draw(0)
    signature = fit_signature(x, 1)
    exact = np.cov(x.double().numpy(), rowvar=False)
    np.testing.assert_allclose(np.diag(covariance_of(signature)), np.diag(exact), rtol=1e-4)
    values, vectors = np.linalg.eigh(exact)
    leading = signature.factor[0].double().numpy()
    np.testing.assert_allclose(leading @ leading, values[-1], rtol=1e-4)
    assert abs(leading @ vectors[:, -1]) == pytest.approx(np.linalg.norm(leading), rel=1e-4)


def test_fewer_texts_than_rank_leave_zero_rows():
    x = draw(1, n=3)
    signature = fit_signature(x, 5)
    assert signature.factor.shape == (5, D)
    np.testing.assert_allclose(covariance_of(signature), np.cov(x.double().numpy(), rowvar=False), atol=1e-4)


def test_constant_features_stay_finite():
    x = draw(2)
    x[:, 2] = 7.0
    constant = fit_signature(torch.full((5, D), 3.0), 4)
    mixed = fit_signature(x, 4)
    router = router_of([constant, mixed], [5, 40])
    assert torch.isfinite(router(draw(3))).all()
    both = together([constant, constant])
    only = router_of([constant, constant], [5, 5])
    assert torch.isfinite(only(draw(3))).all()
    assert familiarity(both, only, BY) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(bad):
    x = draw(0)
    x[3, 1] = bad
    with pytest.raises(ValueError, match="`features` holds NaN or infinite"):
        fit_signature(x, 2)


def test_one_text_is_too_few():
    with pytest.raises(ValueError, match="at least 2 rows to fit a signature, not 1"):
        fit_signature(draw(0, n=1), 2)


def test_novelty_is_a_mahalanobis_distance_along_what_tells_tasks_apart():
    signatures = [fit_signature(draw(seed) + shift, D) for seed, shift in ((0, 0.0), (1, 2.0), (2, -1.0))]
    stacked = together(signatures)
    router = router_of(signatures, [50, 50, 50])
    known, x = familiarity(stacked, router, BY), draw(5, n=7)
    directions = (router.weight[:3] - router.weight[:3].mean(0)).double().numpy()[:2]
    own = np.stack([directions @ covariance_of(s) @ directions.T for s in signatures])
    limit = (1.4 * 2 + 3) / 2 * -2 * np.log(0.03)  # chi-squared with 2 degrees of freedom has a closed quantile
    for task in range(3):
        covariance = (own[task] + own.mean(0)) / 2
        away = (x - signatures[task].mean).double().numpy() @ directions.T
        expected = np.einsum("nd,de,ne->n", away, np.linalg.inv(covariance), away) / limit
        np.testing.assert_allclose(known(x, torch.full((7,), task)), expected, rtol=1e-3)


def test_own_texts_are_rarely_new_and_foreign_ones_mostly():
    noise = torch.randn(5, 500, D, generator=torch.Generator().manual_seed(0))
    places = 8 * torch.eye(D)
    signatures = [fit_signature(noise[i] + places[i], D) for i in range(3)]
    known = familiarity(together(signatures), router_of(signatures, [500] * 3), BY)
    first = torch.zeros(500, dtype=torch.long)
    assert (known(noise[3] + places[0], first) > 1).float().mean() < 0.05
    assert (known(noise[4] - places[0], first) > 1).float().mean() > 0.95


def test_one_task_cannot_be_told_from_others():
    only = [fit_signature(draw(0), 2)]
    assert familiarity(together(only), router_of(only, [50]), BY) is None


def test_the_router_is_a_shared_covariance_gaussian():
    sets, shrinkage = [draw(i, n=20 + 10 * i) for i in range(3)], 0.1
    signatures = [fit_signature(x, D) for x in sets]
    counts = torch.tensor([len(x) for x in sets])
    pooled = sum((len(x) - 1) * np.cov(x.double().numpy(), rowvar=False) for x in sets) / sum(len(x) - 1 for x in sets)
    covariance = (1 - shrinkage) * pooled + shrinkage * np.trace(pooled) / D * np.eye(D)
    x = draw(9, n=50)
    expected = np.stack([multivariate_normal(m.mean(0).numpy(), covariance).logpdf(x.numpy()) for m in sets], 1)
    found = router_of(signatures, counts, shrinkage, by=SURELY)(x).numpy()
    np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], rtol=1e-3, atol=1e-3)


def test_the_router_decides_as_scikit_learns_discriminant_analysis():
    sets = [draw(i, n=60) for i in range(4)]
    router = router_of([fit_signature(x, D) for x in sets], [60] * 4, 1e-9, by=SURELY)
    lda = LinearDiscriminantAnalysis(solver="lsqr", priors=[0.25] * 4)
    lda.fit(torch.cat(sets).numpy(), np.repeat(range(4), 60))
    x = draw(11, n=300)
    assert router(x).argmax(1).tolist() == lda.predict(x.numpy()).tolist()


def labelled(seed, n=60, classes=3):
    """Features with a class each, whose means lie far apart."""
    labels = torch.arange(n) % classes
    places = 4 * torch.randn(classes, D, generator=torch.Generator().manual_seed(100 + seed))
    return draw(seed, n) + places[labels], labels


def test_with_classes_the_signature_keeps_their_means_and_the_scatter_around_them():
    x, labels = labelled(0)
    signature = fit_signature(x, D, labels, 4)
    means = torch.stack([x[labels == k].mean(0) for k in range(3)])
    np.testing.assert_allclose(signature.classes[:3], means, atol=1e-4)
    np.testing.assert_allclose(signature.classes[3], means[0], atol=1e-4)  # a class without texts draws no inputs
    within = np.cov((x - means[labels]).double().numpy(), rowvar=False)
    np.testing.assert_allclose(covariance_of(signature), within, rtol=1e-3, atol=1e-3)


def test_a_task_is_as_likely_as_its_likeliest_class():
    shrinkage, data = 0.1, [labelled(0), labelled(1, classes=2), (draw(2, n=60), torch.zeros(60, dtype=torch.long))]
    signatures = [fit_signature(x, D, y, int(y.max()) + 1) for x, y in data]
    within = sum(covariance_of(s) for s in signatures) / 3
    within = (1 - shrinkage) * within + shrinkage * np.trace(within) / D * np.eye(D)
    new = draw(9, n=50).numpy()
    expected = np.stack(
        [
            np.max([multivariate_normal(x[y == k].mean(0).numpy(), within).logpdf(new) for k in y.unique()], 0)
            for x, y in data
        ],
        1,
    )
    found = router_of(signatures, [60] * 3, shrinkage, by=SURELY)(torch.from_numpy(new)).numpy()
    np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], rtol=2e-3, atol=2e-3)


def test_novelty_of_a_task_with_classes_measures_its_whole_scatter():
    data = [labelled(0), labelled(1, classes=2), (draw(2, n=60), torch.zeros(60, dtype=torch.long))]
    signatures = [fit_signature(x, D, y, int(y.max()) + 1) for x, y in data]
    known = familiarity(together(signatures), router_of(signatures, [60] * 3), BY)
    whole = [
        covariance_of(s) + np.mean([np.outer(d, d) for d in (s.classes - s.mean).double().numpy()], 0)
        for s in signatures
    ]
    basis = known.basis.double().numpy()
    own = [basis @ c @ basis.T for c in whole]
    expected = [np.linalg.inv((o + np.mean(own, 0)) / 2) for o in own]
    np.testing.assert_allclose(known.precision, expected, rtol=1e-3)


def test_a_task_of_two_far_classes_does_not_take_what_lies_between_them():
    noise = torch.randn(3, 400, D, generator=torch.Generator().manual_seed(0))
    end = 6 * torch.eye(D)[0]
    sides = torch.arange(400) % 2
    ends = fit_signature(noise[0] + end * (2 * sides - 1).unsqueeze(1), D, sides, 2)
    middle = fit_signature(noise[1] + 2 * torch.eye(D)[1], D)
    blind = fit_signature(noise[0] + end * (2 * sides - 1).unsqueeze(1), D)
    new = noise[2] + 2 * torch.eye(D)[1]
    hits = [(router_of([first, middle], [400, 400])(new).argmax(1) == 1).float().mean() for first in (ends, blind)]
    assert hits[0] > 0.95 > hits[1]


def test_leaving_tasks_out_and_joining_them_is_exact():
    signatures = [fit_signature(draw(i), 3) for i in range(4)]
    counts, ones = torch.tensor([40] * 3), [1, 1, 1]
    everything = together(signatures)
    kept = Signature(*(getattr(everything, k)[[0, 2, 3]] for k in vars(everything)))
    never = together([signatures[i] for i in (0, 2, 3)])
    a, b = (shared_router(s, counts, ones, [0, 1, 2], 0.05, BY) for s in (kept, never))
    assert torch.equal(a.weight, b.weight) and torch.equal(a.bias, b.bias)
    own_a, own_b = a.own_scatter, b.own_scatter
    assert a.candidates == b.candidates
    assert all(torch.equal(v, getattr(own_b, k)) for k, v in vars(own_a).items() if isinstance(v, torch.Tensor))


def test_tasks_in_question_are_gaussians_with_covariances_partly_their_own():
    sets, shrinkage = [draw(i, n=20 + 10 * i) for i in range(3)], 0.1
    fitted = [fit_signature(x, D) for x in sets]
    share = np.array([len(x) - 1 for x in sets]) / sum(len(x) - 1 for x in sets)
    pooled = sum(s * covariance_of(signature) for s, signature in zip(share, fitted, strict=True))
    floor = shrinkage * np.trace(pooled) / D * np.eye(D)
    x = draw(9, n=50)
    expected = np.stack(
        [
            multivariate_normal(
                signature.mean.numpy(),
                (1 - shrinkage) * ((1 - OWN) * pooled + OWN * covariance_of(signature)) + floor,
            ).logpdf(x.numpy())
            for signature in fitted
        ],
        1,
    )
    found = router_of(fitted, [len(y) for y in sets], shrinkage, by=NEVER_SURE)(x).numpy()
    np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], rtol=1e-3, atol=1e-3)


def own_covariances(data, signatures):
    """Of each class as groups are compared by it: its scatter around its mean, as a share of the task's inputs, times
    the number of classes."""
    for (x, labels), signature in zip(data, signatures, strict=True):
        count = len(signature.classes)
        for k in range(count):
            rows = x[labels == k].double().numpy()
            yield count * (len(rows) - 1) / (len(x) - 1) * np.cov(rows, rowvar=False)


def test_classes_in_question_are_gaussians_with_covariances_partly_their_own():
    shrinkage, data = 0.1, [labelled(0, n=90), labelled(1, n=70, classes=2), (draw(2, n=60), torch.zeros(60).long())]
    data[0] = data[0][0], torch.where(torch.arange(90) < 30, 0, data[0][1])  # classes of unlike sizes
    rank = 3 * FEWEST_OWN
    fitted = [fit_signature(x, rank, y, int(y.max()) + 1) for x, y in data]
    share = np.array([len(x) - 1 for x, _ in data]) / sum(len(x) - 1 for x, _ in data)
    pooled = sum(s * covariance_of(signature) for s, signature in zip(share, fitted, strict=True))
    floor = shrinkage * np.trace(pooled) / D * np.eye(D)
    new = draw(9, n=50)
    expected = np.stack(
        [
            multivariate_normal(mean, (1 - shrinkage) * ((1 - OWN) * pooled + OWN * own) + floor).logpdf(new.numpy())
            for mean, own in zip(
                torch.cat([s.classes for s in fitted]).double().numpy(), own_covariances(data, fitted), strict=True
            )
        ],
        1,
    )
    # Of each task the class that is likeliest under the shared covariance is compared.
    router = router_of(fitted, [len(x) for x, _ in data], shrinkage, by=NEVER_SURE)
    linear = (new @ router.weight.T + router.bias).numpy()
    ranges = (slice(0, 3), slice(3, 5), slice(5, 6))
    expected = np.stack([expected[range(50), of.start + linear[:, of].argmax(1)] for of in ranges], 1)
    found = router(new).numpy()
    np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], rtol=2e-3, atol=2e-3)


def test_many_classes_share_the_scatter_of_their_task():
    assert own_blocks(4, 4 * FEWEST_OWN, "class") == (4, FEWEST_OWN)
    assert own_blocks(5, 4 * FEWEST_OWN, "class") == own_blocks(4, 4 * FEWEST_OWN, "task") == (1, 4 * FEWEST_OWN)
    x, labels = labelled(0, n=90)
    classes, whole = (fit_signature(x, 3 * FEWEST_OWN, labels, 3, own) for own in ("class", "task"))
    np.testing.assert_allclose(covariance_of(classes), covariance_of(whole), rtol=1e-3, atol=1e-4)
    of_class = classes.factor.view(3, FEWEST_OWN, D)[1].double()
    rows = x[labels == 1].double()
    rows = rows - rows.mean(0)
    np.testing.assert_allclose(of_class.T @ of_class, rows.T @ rows / 89, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("of", ["rows", "sums"])
def test_a_class_without_texts_shares_the_scatter_of_the_most_frequent(of):
    x, labels = labelled(0, n=60)
    labels[:9] = 1  # the most frequent
    found, rank = [], 4 * FEWEST_OWN
    for moved, empty in ((labels, 3), (labels + 1, 0)):
        one = fit_signature(x, rank, moved, 4)
        if of == "sums":
            sums = class_sums(x, moved, 4)
            one = signature_of_sums(sums.counts, sums.means, sums.scatter, rank)
        blocks, most = one.factor.view(4, FEWEST_OWN, D), int(moved.mode().values)
        assert torch.equal(blocks[empty], blocks[most]) and torch.equal(one.classes[empty], one.classes[most])
        np.testing.assert_allclose(covariance_of(one), covariance_of(fit_signature(x, 3 * D, labels, 3)), atol=1e-4)
        found.append(router_of([one, fit_signature(draw(1), rank)], [60, 40], by=NEVER_SURE)(draw(9)))
    torch.testing.assert_close(*found)  # wherever the class stands in the list


@pytest.mark.parametrize("by", [SURELY, NEVER_SURE])
def test_rare_classes_are_found_as_often_as_others(by):
    """The mean of few texts lies beside the class, so its other texts lie further from it than from a mean of many."""
    d, rows = 200, (20, 1000)
    places = 0.2 * torch.randn(4, d, generator=torch.Generator().manual_seed(1))

    def texts(c, n, seed):
        return places[c] + torch.randn(n, d, generator=torch.Generator().manual_seed(seed))

    signatures = []
    for task in range(2):  # of each the first class is rare
        x = torch.cat([texts(2 * task + c, n, 10 * task + c) for c, n in enumerate(rows)])
        signatures.append(fit_signature(x, 80, torch.tensor([0, 1]).repeat_interleave(torch.tensor(rows)), 2))
    found = {}
    for counts in (None, [*rows, *rows], [300] * 4):
        router = shared_router(together(signatures), torch.tensor([1020] * 2), [2, 2], [0, 1], 0.05, by, counts)
        right = [float((router(texts(c, 4000, 50 + c)).argmax(1) == c // 2).float().mean()) for c in range(4)]
        found["none" if counts is None else counts[0]] = (min(right[::2]), min(right[1::2]))
    assert found["none"] == found[300]  # of equal counts nothing is taken away
    gap = {key: frequent - rare for key, (rare, frequent) in found.items()}
    assert found["none"][0] + 0.05 < found[20][0] and gap[20] < gap["none"] / 2


def test_a_narrow_class_loses_what_lies_far_to_a_wide_one_of_another_task():
    """One covariance of both classes of the first task would be as wide as that of the second."""
    noise, labels = torch.randn(4, 800, D, generator=torch.Generator().manual_seed(0)), torch.arange(800) % 2
    far = 40 * torch.eye(D)[0]
    mixed = torch.where(labels.unsqueeze(1) == 0, noise[0], far + 4 * noise[0])
    second = 3 * noise[1]
    new = 3 * noise[2] + torch.eye(D)[1]
    hits = []
    for own in ("class", "task"):
        fitted = [fit_signature(mixed, 32, labels, 2, own), fit_signature(second, 32, own=own)]
        router = router_of(fitted, [800, 800], by=replace(NEVER_SURE, own=own, own_share=0.9))
        hits.append((router(new).argmax(1) == 1).float().mean())
    assert hits[0] > 0.8 and hits[0] > hits[1] + 0.1


def test_the_narrower_of_two_tasks_at_one_place_gets_what_lies_close():
    noise = torch.randn(3, 400, D, generator=torch.Generator().manual_seed(0))
    router = router_of([fit_signature(noise[0], D), fit_signature(4 * noise[1], D)], [400, 400])
    close, far = router(0.5 * noise[2]).argmax(1), router(6 * noise[2]).argmax(1)
    assert (close == 0).float().mean() > 0.95 and (far == 1).float().mean() > 0.95


def test_only_the_nearest_tasks_are_compared_and_the_rest_stays_behind():
    fitted = [fit_signature(draw(i) + i, D) for i in range(6)]
    router = router_of(fitted, [40] * 6, by=replace(NEVER_SURE, candidates=3))
    x = draw(9, n=50)
    found = router(x)
    nearest = (x @ router.weight.T + router.bias).topk(3, 1).indices
    compared = torch.zeros(50, 6, dtype=torch.bool).scatter(1, nearest, True)
    behind = found.masked_fill(compared, float("-inf")).amax(1)
    assert (behind <= found.masked_fill(~compared, float("inf")).amin(1)).all()
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_tasks_that_may_not_answer_are_out_of_question(count):
    fitted = [fit_signature(draw(i), D) for i in range(6)]
    router, allowed = router_of(fitted, [40] * 6, by=NEVER_SURE), torch.arange(6) < count
    found = router(draw(9, n=50), allowed)
    assert torch.isfinite(found[:, allowed]).all() and found[:, ~allowed].isneginf().all()


def test_tasks_of_one_group_are_not_in_question_among_themselves():
    noise = torch.randn(7, 400, D, generator=torch.Generator().manual_seed(0))
    narrow, wide = [fit_signature(noise[i], D) for i in range(5)], fit_signature(4 * noise[5], D)
    new = 4 * noise[6]
    shares = []
    for n in (1, 2, 3, 5):
        router = router_of([*narrow[:n], wide], [400] * (n + 1), groups=[*[0] * n, 1])
        shares.append((router(new).argmax(1) == n).float().mean())
    assert shares == sorted(shares)  # more tasks of the narrow group take no places among the candidates


@pytest.fixture(params=["class", "task"])
def mixed(request):
    """A router over tasks whose classes have scatters of their own, or share one."""
    sizes, data = (3, 1, 2, 4, 2), [labelled(i, n=48, classes=c) for i, c in enumerate((3, 1, 2, 4, 2))]
    fitted = [fit_signature(x, 32, y, c, request.param) for (x, y), c in zip(data, sizes, strict=True)]
    return router_of(fitted, [48] * 5, by=replace(NEVER_SURE, own=request.param, candidates=3))


def test_rows_alone_are_answered_as_rows_together(monkeypatch, mixed):
    monkeypatch.setattr(routers, "ROWS_AT_ONCE", 7)
    x = draw(9, n=50)
    alone = torch.cat([mixed(row.unsqueeze(0)) for row in x])
    np.testing.assert_allclose(mixed(x), alone, rtol=1e-4, atol=1e-4)


def test_all_rows_at_once_are_answered_as_the_ones_in_question(monkeypatch, mixed):
    """What a GPU and a compiled graph do, which cannot choose rows for free."""
    x = draw(9, n=50)
    expected = mixed(x)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(routers, "ROWS_AT_ONCE", 7)
    np.testing.assert_allclose(mixed(x), expected, rtol=1e-4, atol=1e-4)


def test_many_texts_give_the_same_scatter_as_few_do():
    x = draw(0, n=D)  # as many texts as dimensions, then twice these
    few, many = fit_signature(x, 3), fit_signature(torch.cat([x, x]), 3)
    shrunk = covariance_of(few) * (len(x) - 1) / len(x)
    np.testing.assert_allclose(covariance_of(many) * (2 * len(x) - 1) / (2 * len(x)), shrunk, rtol=1e-3, atol=1e-3)


def test_fitting_twice_gives_the_same_bytes():
    a, b = fit_signature(draw(0), 3), fit_signature(draw(0), 3)
    assert all(torch.equal(getattr(a, k), getattr(b, k)) for k in vars(a))


def test_classes_that_come_later_are_told_apart_as_if_all_had_come_at_once():
    """The shared covariance is the same but for a scale, as each task takes a degree of freedom for its mean."""
    labels = torch.arange(40) % 2
    first, later = draw(0) + 3 * labels.unsqueeze(1), draw(1) - 3 * labels.unsqueeze(1)
    parts = router_of([fit_signature(x, D, labels, 2) for x in (first, later)], [40, 40], by=SURELY)
    signature = fit_signature(torch.cat([first, later]), D, torch.cat([labels, labels + 2]), 4)
    whole = router_of([signature], [80], by=SURELY)
    scale = (80 - 1) / (80 - 2)
    torch.testing.assert_close(parts.weight * scale, whole.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts.bias * scale, whole.bias, rtol=1e-4, atol=1e-4)
