"""What the rules choose: exact counts in every scope, ties, tails, and the bound beside what is measured."""

import pytest
import torch
from torch import nn

from hf_lifelong.pruning import (
    SAP,
    Magnitude,
    Masks,
    OneShot,
    Tail,
    choose,
    output_change,
    prunable,
    prune,
    sap_prune_count,
)
from hf_lifelong.pruning.rules import kth_smallest


class Two(nn.Module):
    """Two linear layers; the second reads what the first says."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Linear(40, 30), nn.Linear(30, 20)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


def chosen(model, rule, **options):
    return choose(rule, Masks(prunable(model)), **options)


def weights(model):
    return {"first.weight": model.first.weight.detach(), "second.weight": model.second.weight.detach()}


@pytest.mark.parametrize(
    "rule",
    [SAP(scope="global"), SAP(1, 2, scope="global"), SAP(gamma=3, scope="global"), Magnitude(0.37), OneShot(0.2)],
)
def test_global_scope_takes_the_smallest_of_all(rule):
    model = Two()
    masks = chosen(model, rule)
    joined = torch.cat([w.flatten() for w in weights(model).values()])
    gone = torch.cat([masks[name].flatten() for name in weights(model)])
    wanted = (
        sap_prune_count(joined, rule.p, rule.q, rule.gamma) if isinstance(rule, SAP) else int(rule.rate * 1800 + 1e-9)
    )
    assert int(gone.sum()) == wanted
    assert joined[gone].abs().max() < joined[~gone].abs().min()


@pytest.mark.parametrize("rule", [SAP(scope="layer"), Magnitude(0.37, "layer")])
def test_layer_scope(rule):
    model = Two()
    for name, mask in chosen(model, rule).items():
        weight = weights(model)[name]
        wanted = sap_prune_count(weight) if isinstance(rule, SAP) else int(0.37 * weight.numel() + 1e-9)
        assert int(mask.sum()) == wanted
        assert weight[mask].abs().max() < weight[~mask].abs().min()


@pytest.mark.parametrize("rule", [SAP(scope="neuron"), Magnitude(0.37, "neuron")])
def test_neuron_scope(rule):
    model = Two()
    for name, mask in chosen(model, rule).items():
        for row, gone in zip(weights(model)[name], mask, strict=True):
            wanted = sap_prune_count(row) if isinstance(rule, SAP) else int(0.37 * len(row) + 1e-9)
            assert int(gone.sum()) == wanted
            assert wanted == 0 or row[gone].abs().max() < row[~gone].abs().min()


@pytest.mark.parametrize("scope", ["neuron", "layer", "global"])
def test_only_survivors_count(scope):
    model, rule = Two(), SAP(scope=scope)
    masks = Masks(prunable(model))
    remaining = []
    for _ in range(6):
        masks.update(choose(rule, masks))
        masks.apply()
        remaining.append(masks.total - masks.gone)
    first = remaining[0] / masks.total
    assert remaining == sorted(remaining, reverse=True)
    assert 0.8 < first < 0.95  # what the index of uniform weights, 1/9, says
    if scope == "global":
        left = torch.cat([w[w != 0] for w in weights(model).values()])
        assert len(left) == remaining[-1]


def test_ties_prune_fewer():
    layer = nn.Linear(10, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 1, 1, 1, 2, 2, 2, 2, 3, 4]])
    for scope in ("neuron", "layer", "global"):
        assert int(chosen(layer, Magnitude(0.6, scope))["weight"].sum()) == 4
        assert int(chosen(layer, Magnitude(0.3, scope))["weight"].sum()) == 0
        assert int(chosen(layer, Magnitude(0.8, scope))["weight"].sum()) == 8


@pytest.mark.parametrize("scope", ["neuron", "layer", "global"])
def test_all_zero_group_has_nothing_to_rank(scope):
    layer = nn.Linear(6, 2, bias=False)
    nn.init.zeros_(layer.weight)
    for rule in (SAP(scope=scope), Magnitude(0.5, scope)):
        assert int(chosen(layer, rule)["weight"].sum()) == 0
    assert int(chosen(layer, Tail(0.5))["weight"].sum()) == 0


def test_kth_smallest_is_exact():
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(n, generator=generator) * 10.0 ** (n % 5 - 3) for n in (5, 700, 1301)]
    gone = [torch.rand(len(t), generator=generator) < 0.3 for t in tensors]
    left = torch.cat([t[~g] for t, g in zip(tensors, gone, strict=True)]).abs().sort().values
    for k in (0, 1, 17, 500, len(left) - 1):
        assert kth_smallest(tensors, gone, k) == float(left[k])
    halves = [t.bfloat16() for t in tensors]
    left = torch.cat([t[~g] for t, g in zip(halves, gone, strict=True)]).abs().float().sort().values
    assert kth_smallest(halves, gone, 300) == float(left[300])


TAILS = [  # vector, l1 tail of a tenth: how many must stay
    ([2.0**-k for k in range(12)], 4),
    ([1 / i for i in range(1, 101)], 60),
    ([1 / i**2 for i in range(1, 101)], 6),
    ([float(i) for i in range(1, 11)], 8),
    ([1.0] * 8, 8),
]


@pytest.mark.parametrize(("vector", "left"), TAILS)
def test_tail_counts(vector, left):
    layer = nn.Linear(len(vector), 1, bias=False)
    layer.weight.data = torch.tensor([vector[::-1]], dtype=torch.float64)
    assert int((~chosen(layer, Tail(0.1))["weight"]).sum()) == left


def test_tail_is_within_its_tolerance():
    model = Two()
    for norm in (1, 2):
        for name, mask in chosen(model, Tail(0.25, norm)).items():
            sizes = weights(model)[name].double().abs() ** norm
            lost, all_of = (sizes * mask).sum(1), sizes.sum(1)
            assert (lost <= 0.25**norm * all_of).all()
            smallest_left = sizes.masked_fill(mask, torch.inf).min(1).values
            assert (lost + smallest_left > 0.25**norm * all_of).all()  # one more would be too many


def test_tail_by_inputs():
    model = Two()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 40, generator=generator) * torch.linspace(0.01, 3, 40)
    batches = [{"x": x[:40]}, {"x": x[40:]}]
    masks = prune(Two(), Tail(0.2, by_inputs=True), calibration=batches)
    gone = masks.pruned["first.weight"].sum(0)
    assert (gone[:5] == 30).all() and gone[-20:].max() < 20  # what hardly any input moves goes first
    report = {change.name: change for change in output_change(model, masks.pruned, batches)}
    for name, change in report.items():
        assert 0 < change.measured <= change.bound
        assert change.remaining == pytest.approx(1 - float(masks.pruned[name].double().mean()))
    pruned = (
        (x.double() @ (model.first.weight.detach().double() * masks.pruned["first.weight"]).T).square().sum(1).mean()
    )
    said = (x.double() @ model.first.weight.detach().double().T).square().sum(1).mean()
    assert report["first.weight"].measured == pytest.approx(float((pruned / said).sqrt()), rel=1e-6)


def test_one_shot_ranks_by_the_dense_weights():
    model, dense = Two(), Two(seed=1)
    masks = choose(OneShot(0.2), Masks(prunable(model)), dense=weights(dense))
    expected = chosen(dense, Magnitude(0.2))
    assert all(torch.equal(masks[name], expected[name]) for name in masks)


def test_bad_rules():
    for make, name in (
        (lambda: SAP(scope="row"), "scope"),
        (lambda: SAP(p=2), "p"),
        (lambda: Magnitude(0), "rate"),
        (lambda: Magnitude(True), "rate"),
        (lambda: Magnitude(scope=None), "scope"),
        (lambda: Tail(0.0), "tolerance"),
        (lambda: Tail(norm=3), "norm"),
    ):
        with pytest.raises(ValueError, match=f"`{name}`"):
            make()
    model = Two()
    with pytest.raises(ValueError, match="`calibration`"):
        prune(model, Tail(by_inputs=True))
    with pytest.raises(ValueError, match="never reached"):
        prune(model, Tail(by_inputs=True), calibration=[])
    for rule in ("sap", SAP):
        with pytest.raises(ValueError, match="`rule`"):
            prune(model, rule)
    for calibration in (5, [["a text"]], (batch for batch in [])):
        with pytest.raises(ValueError, match="`calibration`"):
            prune(model, Tail(by_inputs=True), calibration=calibration)
    model.first.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"first\.weight.*NaN"):
        prune(model, SAP())
