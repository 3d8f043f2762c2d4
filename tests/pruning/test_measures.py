"""The measures on vectors worked out by hand or with the released code, and the axioms that the index is known for."""

import math

import pytest
import torch

from hf_lifelong.pruning import lq_sparsity_index, pq_index, sap_prune_count
from hf_lifelong.pruning.measures import PowerSums, joined, power_sums, sap_counts

HALVES = [2.0**-k for k in range(12)]
HARMONIC = [1 / i for i in range(1, 101)]
SQUARES = [1 / i**2 for i in range(1, 101)]
MIXED = [0.3, -1.7, 2.2, -0.05, 0.9, -0.4, 1.1, -2.6, 0.02, 0.75, -0.6, 1.45, -0.15, 0.33, -0.88, 0.5]
ONES = [1.0] * 8
TEN = [float(i) for i in range(1, 11)]
SPIKE = [10.0, *(0.1 * k for k in range(1, 20))]

# vector, p, q, gamma, beta, eta_r, PQ Index, count with the real-valued r
PUBLISHED = {
    "A": (TEN, 1, 2, 1, 0.9, 0, 0.1135947396, 2),
    "B": (HALVES, 0.5, 1, 1, 0.9, 0.001, 0.5292424245, 6),
    "C": (HALVES, 0.5, 1, 1.6, 0.9, 0, 0.5292424245, 10),
    "D": (SPIKE, 1, 2, 3, 0.9, 0.1, 0.4193027447, 18),
    "E": (MIXED, 0.5, 1, 1.2, 0.9, 0.01, 0.1950912501, 4),
    "F": (HARMONIC, 0.2, 1, 1, 0.9, 0.1, 0.4426429346, 23),
    "G": (ONES, 0.5, 1, 1, 0.9, 0, 0.0, 0),
    "H": (HARMONIC, 0.5, 1, 1, 0.9, 0, 0.3338187375, 33),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_vectors(case):
    weights, p, q, gamma, beta, eta_r, index, count = PUBLISHED[case]
    assert pq_index(weights, p, q) == pytest.approx(index, abs=1e-10)
    assert sap_prune_count(weights, p, q, gamma, beta, eta_r) == count


@pytest.mark.parametrize("case", PUBLISHED)
@pytest.mark.parametrize("scale", [1e-150, 1e-3, 7.0, 1e150])
def test_scale_and_cloning_change_nothing(case, scale):
    weights, p, q, gamma, beta, eta_r, index, count = PUBLISHED[case]
    scaled = [scale * w for w in weights]
    assert pq_index(scaled, p, q) == pytest.approx(index, abs=1e-10)
    assert sap_prune_count(scaled, p, q, gamma, beta, eta_r) == count
    assert pq_index(weights * 3, p, q) == pytest.approx(index, abs=1e-10)


def test_axioms():
    weights = torch.tensor(MIXED, dtype=torch.float64).abs().sort().values
    index = pq_index(weights)
    robin_hood = weights.clone()
    robin_hood[-1] -= 0.2
    robin_hood[0] += 0.2
    assert pq_index(robin_hood) < index
    assert pq_index(weights + 0.5) < index  # rising tide
    bill_gates = weights.clone()
    bill_gates[-1] += 10
    assert pq_index(bill_gates) > index
    assert pq_index([*MIXED, 0.0]) > index  # babies


@pytest.mark.parametrize(("p", "q"), [(0.5, 1), (1, 2), (0.2, 0.7)])
def test_range(p, q):
    one = [0.0] * 9 + [3.0]
    assert pq_index(one, p, q) == pytest.approx(1 - 10 ** (1 / q - 1 / p), abs=1e-12)
    assert pq_index([-2.0] * 10, p, q) == pytest.approx(0, abs=1e-15)


def test_pruned_weights_are_no_zeros():
    assert pq_index([4, 3, 2, 1]) == pytest.approx(0.0555858574, abs=1e-10)
    assert pq_index([4, 3, 2, 1, 0, 0]) == pytest.approx(0.3703905716, abs=1e-10)
    rows = torch.tensor([[4.0, 3, 2, 1, 0, 0]])
    gone = torch.tensor([[False] * 4 + [True] * 2])
    assert float(power_sums(rows, 0.5, 1.0, gone).index()) == pytest.approx(0.0555858574, abs=1e-10)


def test_scopes():
    rows = torch.tensor(
        [[1.0] * 8, [2.0 ** (2 - k) for k in range(8)], [0.9, -0.8, 0.7, -0.6, 0.5, -0.4, 0.3, -0.2]],
        dtype=torch.float64,
    )
    sums = power_sums(rows, 0.5, 1.0)
    assert sums.index().tolist() == pytest.approx([0, 0.3571587730, 0.0479839339], abs=1e-10)
    assert sap_counts(sums, 1.0, 0.9, 0.0).tolist() == [0, 2, 0]
    assert float(sums.total().index()) == pytest.approx(0.1660899262, abs=1e-10)
    assert sap_counts(sums.total(), 1.0, 0.9, 0.0).tolist() == [3]
    parts = [power_sums(row[None], 0.5, 1.0) for row in rows]
    assert float(joined(parts).index()) == pytest.approx(0.1660899262, abs=1e-10)


def test_chain_without_training_comes_to_rest():
    weights = sorted(HALVES)
    seen = []
    for _ in range(3):
        count = sap_prune_count(weights)
        seen.append((len(weights), round(pq_index(weights), 8), count))
        weights = weights[count:]
    assert seen == [(12, 0.52924242, 6), (6, 0.24446315, 1), (5, 0.18453568, 0)]


@pytest.mark.parametrize(
    ("draw", "p", "q", "expected"),
    [
        (lambda g: torch.randn(2_000_000, generator=g), 0.5, 1, 0.152787),
        (lambda g: torch.randn(2_000_000, generator=g), 1, 2, 0.202115),
        (lambda g: torch.rand(2_000_000, generator=g), 0.5, 1, 0.111111),
        (lambda g: torch.rand(2_000_000, generator=g), 1, 2, 0.133975),
        (lambda g: torch.empty(2_000_000).exponential_(generator=g), 0.5, 1, 0.214602),
        (lambda g: torch.empty(2_000_000).exponential_(generator=g), 1, 2, 0.292893),
    ],
)
def test_distributions(draw, p, q, expected):
    assert pq_index(draw(torch.Generator().manual_seed(0)), p, q) == pytest.approx(expected, abs=1e-3)


def test_dtypes():
    weights = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    exact = pq_index(weights.double())
    assert pq_index(weights) == exact
    assert pq_index(weights.bfloat16()) == pytest.approx(exact, abs=2e-3)


def test_counts_are_exact_integers():
    for d in (10, 70, 100, 1000):
        spike = [1.0] + [0.0] * (d - 1)
        for beta in (0.29, 0.57, 0.7, 0.9):
            assert sap_prune_count(spike, gamma=100.0, beta=beta) == math.floor(d * round(beta * 100) / 100 + 1e-9)
    for d in range(1, 300):
        assert sap_prune_count([0.3] * d) == 0
    assert sap_prune_count([1, 1, 0, 0], p=0.5, q=1) == 2  # 1 - (1/4·2)² / (2/4) = .5, and .5 · 4 is 2


def test_counts_of_many_weights():
    count = torch.tensor([100_000_003])
    sums = PowerSums(count, 0.5, 1.0, sum_p=0.7**0.5 * count.double(), sum_q=count.double())
    assert float(sums.index()) == pytest.approx(0.3)
    assert sap_counts(sums, 1.2, 0.9, 0.0).tolist() == [36_000_001]


LQ = {  # SI at q = .5, .3, .8; I_{.5,1}
    "halves": (HALVES, 0.17701963, 0.01009493, 0.68855840, 0.52924242),
    "harmonic": (HARMONIC, 0.01501093, 0.00003662, 0.37760568, 0.33381874),
    "squares": (SQUARES, 0.06076000, 0.00025609, 0.61689837, 0.83541804),
    "ten": (TEN, 0.10894896, 0.00526603, 0.58050636, 0.08213905),
    "ones": (ONES, 0.125, 0.0078125, 0.59460356, 0.0),
}


@pytest.mark.parametrize("case", LQ)
def test_lq_index(case):
    weights, half, third, fifths, index = LQ[case]
    for q, expected in ((0.5, half), (0.3, third), (0.8, fifths)):
        assert lq_sparsity_index(weights, q) == pytest.approx(expected, abs=1e-8)
        direct = sum(map(abs, weights)) / sum(abs(w) ** q for w in weights) ** (1 / q)
        assert lq_sparsity_index(weights, q) == pytest.approx(direct, rel=1e-12)
        link = 1 - len(weights) ** (1 - 1 / q) / lq_sparsity_index(weights, q)
        assert pq_index(weights, q, 1.0) == pytest.approx(link, abs=1e-12)
    assert pq_index(weights, 0.5, 1.0) == pytest.approx(index, abs=1e-8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], 1.0, 0.5), "`p` and `q`"),
        (([1.0], 0.0, 1.0), "`p` and `q`"),
        (([1.0], True, 2.0), "`p` and `q`"),
        (([1.0], float("nan"), 2.0), "`p` and `q`"),
        (([],), "`weights` is empty"),
        (([0.0, 0.0],), "all zero"),
        (("abc",), "tensor or numbers"),
        ((None,), "tensor or numbers"),
        (([1.0, float("nan")],), "NaN"),
        (([1.0, float("inf")],), "NaN or infinite"),
        ((torch.ones(2, dtype=torch.complex64),), "complex"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        pq_index(*arguments)


@pytest.mark.parametrize(
    ("name", "value"), [("gamma", 0.0), ("beta", 1.0), ("beta", 0.0), ("eta_r", -0.1), ("gamma", "1")]
)
def test_bad_settings(name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        sap_prune_count([1.0, 2.0], **{name: value})
    with pytest.raises(ValueError, match="`q`"):
        lq_sparsity_index([1.0], 1.0)
