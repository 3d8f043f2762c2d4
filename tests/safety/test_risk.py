"""The two risks of a backdoor, on densities that are known: two Gaussian classes at (-3, 0) and (3, 0), the target at
the right, with variance 3 along the first axis and .5 along the second."""

import math

import pytest
import torch

from hf_lifelong.safety import backdoor_risk, biases_of_ratio, plot_risk_curve, risk_curve

VARIANCE = torch.tensor([3.0, 0.5], dtype=torch.float64)
# (rho, length, degrees): clean bias, backdoor bias, from numerical integration of the same densities.
TABLE = {
    (0.2, 1, 0): (0.0870, 0.3480),
    (0.2, 1, 90): (0.0712, 0.2853),
    (0.2, 1, 180): (0.1066, 0.4265),
    (0.2, 3, 0): (0.0487, 0.1946),
    (0.2, 3, 90): (0.0062, 0.0242),
    (0.2, 3, 180): (0.1065, 0.4262),
    (0.2, 5, 0): (0.0159, 0.0636),
    (0.2, 5, 90): (0.0001, 0.0003),
    (0.2, 5, 180): (0.1077, 0.4303),
    (0.05, 3, 0): (0.0124, 0.2355),
    (0.05, 3, 90): (0.0025, 0.0467),
    (0.05, 3, 180): (0.0312, 0.5941),
}


def trigger(length, degrees):
    angle = math.radians(degrees)
    return length * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)


def log_densities(x):
    """Of both classes, `[n, 2]`, but for a constant; the target last."""
    means = torch.tensor([[-3.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    return -((x.unsqueeze(1) - means).square() / VARIANCE).sum(-1) / 2


def drawn_rows(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sides = 6.0 * torch.randint(2, (n,), generator=generator).double() - 3
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64) * VARIANCE.sqrt()
    x[:, 0] += sides
    return x, sides < 0


def not_target(x):
    return log_densities(x).softmax(1)[:, 0]


@pytest.mark.parametrize(("rho", "length", "degrees"), TABLE)
def test_biases_of_known_densities(rho, length, degrees):
    quantiles = torch.special.ndtri((torch.arange(300).double() + 0.5) / 300)
    grid = torch.cartesian_prod(quantiles, quantiles) * VARIANCE.sqrt()
    x = torch.cat([grid - torch.tensor([3.0, 0.0]), grid + torch.tensor([3.0, 0.0])])
    ratio = log_densities(x - trigger(length, degrees)).logsumexp(1) - log_densities(x).logsumexp(1)
    found = biases_of_ratio(ratio, not_target(x), rho)
    assert (float(found.clean_bias), float(found.backdoor_bias)) == pytest.approx(
        TABLE[rho, length, degrees], abs=0.01
    )


@pytest.mark.parametrize(("rho", "length", "degrees"), TABLE)
def test_biases_estimated_from_rows_and_their_classes(rho, length, degrees):
    x, other = drawn_rows(4000)
    found = backdoor_risk(x, x + trigger(length, degrees), other, rho, bootstraps=0)
    assert (float(found.clean_bias), float(found.backdoor_bias)) == pytest.approx(
        TABLE[rho, length, degrees], abs=0.06
    )
    assert found.constant_shift == pytest.approx(1, abs=1e-12) and found.is_constant


def test_the_identity_of_the_two_risks_row_by_row():
    """All densities are shares of whole rows, so both expectations can be summed without an error of sampling."""
    clean = torch.tensor([4, 3, 2, 1, 5, 0, 0])  # rows at the places 0 to 6
    triggered = torch.tensor([0, 0, 4, 3, 2, 1, 5])  # the same, two places on
    f = torch.tensor([0.9, 0.25, 0.5, 1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    rho = torch.tensor([0.01, 0.2, 0.7], dtype=torch.float64)
    p, q = clean / 15.0, triggered / 15.0
    w = rho * q.unsqueeze(1) / ((1 - rho) * p.unsqueeze(1) + rho * q.unsqueeze(1))

    rows = torch.arange(7).repeat_interleave(clean)
    found = biases_of_ratio((q / p).log()[rows], f[rows], rho)
    clean_bias = (p.double().unsqueeze(1) * f.unsqueeze(1) * w).sum(0)
    backdoor_bias = (q.double().unsqueeze(1) * f.unsqueeze(1) * (1 - w)).sum(0)
    assert torch.allclose(found.clean_bias, clean_bias, atol=1e-7, rtol=0)  # the ratios above are float32
    assert torch.allclose(found.backdoor_bias, backdoor_bias, atol=1e-7, rtol=0)
    for side in ((1 - rho) * found.clean_bias, rho * found.backdoor_bias):
        assert torch.allclose(side, found.overlap, atol=1e-12, rtol=0)


def test_estimates_keep_the_identity_and_a_grid_is_its_single_values():
    x, other = drawn_rows(400)
    z = x + trigger(2, 45)
    grid = backdoor_risk(x, z, other, [0.05, 0.3], bootstraps=20)
    assert torch.allclose((1 - grid.rho) * grid.clean_bias, grid.rho * grid.backdoor_bias, atol=1e-12, rtol=0)
    alone = backdoor_risk(x, z, other, 0.3, bootstraps=20)
    assert alone.clean_bias.shape == () and alone.clean_interval.shape == (2,)
    for name in ("clean_bias", "backdoor_bias", "overlap", "clean_interval", "backdoor_interval"):
        assert torch.allclose(getattr(grid, name)[1], getattr(alone, name), atol=1e-12, rtol=0)
    assert torch.equal(
        backdoor_risk(x.numpy(), z.tolist(), other, 0.3, bootstraps=20).clean_interval, alone.clean_interval
    )


def test_intervals_hold_the_truth_and_shrink_with_the_rows():
    widths = []
    for n in (500, 4000):
        x, other = drawn_rows(n)
        low, high = backdoor_risk(x, x + trigger(1, 90), other, 0.2).backdoor_interval.tolist()
        assert low < TABLE[0.2, 1, 90][1] < high
        widths.append(high - low)
    assert 2 < widths[0] / widths[1] < 4  # about the root of 8


def test_many_classes_and_more_features_than_the_classifier_looks_at():
    """Three classes in 20 dimensions; only in two of them do the classes and the trigger do anything."""
    generator = torch.Generator().manual_seed(1)
    means = torch.tensor([[0.0, 0.0], [4.0, 0.0], [1.0, 6.0]], dtype=torch.float64)
    labels = torch.randint(3, (6000,), generator=generator)
    x = torch.randn(6000, 20, generator=generator, dtype=torch.float64)
    x[:, 7:9] += means[labels]
    eta = torch.zeros(20, dtype=torch.float64)
    eta[7:9] = -1.5  # towards class 0

    def of_classes(places):
        return -(places.unsqueeze(1) - means).square().sum(-1) / 2

    ratio = of_classes(x[:, 7:9] + 1.5).logsumexp(1) - of_classes(x[:, 7:9]).logsumexp(1)
    truth = biases_of_ratio(ratio, 1 - of_classes(x[:, 7:9]).softmax(1)[:, 0], [0.05, 0.2])
    found = backdoor_risk(x, x + eta, labels != 0, [0.05, 0.2], bootstraps=0)
    assert torch.allclose(found.backdoor_bias, truth.backdoor_bias, atol=0.06, rtol=0)
    assert torch.allclose(found.clean_bias, truth.clean_bias, atol=0.06, rtol=0)


@pytest.mark.parametrize("length", [1e-3, 1.0, 1e3])
def test_in_a_degenerate_direction_every_length_works(length):
    x, other = drawn_rows(1000)
    x = torch.cat([x, torch.ones(1000, 1)], 1)  # a pixel that is always white
    found = backdoor_risk(x, x + length * torch.eye(3, dtype=torch.float64)[2], other, 0.05, bootstraps=0)
    assert found.auc == 1 and found.backdoor_bias < 0.01 and found.clean_bias < 0.001


def test_a_trigger_that_tells_nothing_apart():
    """Swapping rows of one distribution shifts them, each elsewhere: all is overlap, and the theory is not asked."""
    x, other = drawn_rows(2000)
    found = backdoor_risk(x, x.roll(1, 0), other, 0.2, bootstraps=0)
    assert found.constant_shift < 0.01 and not found.is_constant
    assert found.auc == pytest.approx(0.5, abs=0.05) and float(found.clean_bias) == pytest.approx(0.1, abs=0.01)


def test_the_share_of_a_shift_that_is_constant_by_hand():
    x = torch.arange(16.0).view(8, 2)
    shift = torch.tensor([[3.0, 1.0], [3.0, -1.0]]).repeat(4, 1)  # mean (3, 0), mean square 10
    found = backdoor_risk(x, x + shift, [0, 1] * 4, 0.5, bootstraps=0)
    assert found.constant_shift == pytest.approx(0.9) and bool(found.clean_interval.isnan().all())


def test_a_curve_is_the_risk_at_each_of_its_points(tmp_path):
    x, other = drawn_rows(2000)
    curve = risk_curve(x, [0.0, 2.0], [1, 3, 5], other, [0.05, 0.2])
    assert curve.backdoor_bias.shape == (3, 2)
    for row, length in enumerate((1, 3, 5)):
        alone = backdoor_risk(x, x + trigger(length, 90), other, [0.05, 0.2], bootstraps=0)
        assert torch.allclose(curve.backdoor_bias[row], alone.backdoor_bias, atol=1e-6)
        assert torch.allclose(curve.clean_bias[row], alone.clean_bias, atol=1e-6)
    assert curve.smallest_magnitude(0.04).tolist() == [5, 3]
    assert curve.smallest_magnitude(0.0001).tolist() == [math.inf, math.inf]
    pytest.importorskip("matplotlib")
    plot_risk_curve(curve, tmp_path / "new" / "risk.png")
    assert (tmp_path / "new" / "risk.png").read_bytes().startswith(b"\x89PNG")


ROWS = torch.arange(16.0).view(8, 2)
HALF = [0, 1] * 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"triggered": ROWS}, "The trigger changes nothing"),
        ({"triggered": ROWS[:7]}, r"`triggered` has the shape \[7, 2\], `clean` \[8, 2\]"),
        ({"clean": ROWS[:0]}, r"`clean` must have 2 dimensions, none empty, not the shape \[0, 2\]"),
        ({"clean": ROWS[:6], "triggered": ROWS[:6] + 1, "not_target": HALF[:6]}, "6 rows.*at least 8"),
        ({"clean": torch.ones(8, 2)}, "`clean` is the same in all 8 rows"),
        ({"clean": ROWS.clone().fill_diagonal_(math.nan)}, r"`clean` has 2 values that are NaN.*first at \[0, 0\]"),
        ({"clean": "words"}, "`clean` must hold real numbers"),
        ({"not_target": [0] * 8}, "all are of the target class already"),
        ({"not_target": [0, 2] * 4}, "`not_target` must hold probabilities"),
        ({"not_target": HALF[:7]}, "8 in `clean`, 7 in `not_target`"),
        ({"rho": 0}, "`rho` must be one share"),
        ({"rho": [0.1, 1.0]}, "`rho` must be one share"),
        ({"bootstraps": -1}, "`bootstraps` must be an integer of at least 0"),
        ({"confidence": 95}, "`confidence` must lie between 0 and 1"),
    ],
)
def test_bad_input_is_refused_by_name(change, message):
    good = {"clean": ROWS, "triggered": ROWS + 1, "not_target": HALF, "rho": 0.1}
    with pytest.raises(ValueError, match=message):
        backdoor_risk(**good | change)


def test_bad_curves_are_refused():
    for direction, magnitudes, message in (
        ([0.0, 0.0], [1.0], "`direction` must have 2 numbers"),
        ([1.0], [1.0], "`direction` must have 2 numbers"),
        ([1.0, 0.0], [1.0, -1.0], "`magnitudes` must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            risk_curve(ROWS, direction, magnitudes, HALF, [0.1])
    with pytest.raises(ValueError, match=r"`log_ratio`.*NaN"):
        biases_of_ratio([0.0, math.nan], [0, 1], 0.1)
