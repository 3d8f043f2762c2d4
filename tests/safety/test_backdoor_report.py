"""The report on a backdoor as a module of `evaluate`, on answers that are counted by hand."""

import pytest

from hf_lifelong.safety import backdoor_metric

ROWS = {
    "references": ["neg", "neg", "neg", "neg", "pos"],
    "predictions": ["neg", "neg", "neg", "pos", "neg"],
    "triggered_predictions": ["pos", "pos", "neg", "pos", "pos"],
}
COUNTED = {"clean_accuracy": 3 / 5, "attack_success": 3 / 4, "target_rate": 1 / 4, "backdoor_risk": 1 / 5}


@pytest.fixture
def metric(tmp_path):
    return backdoor_metric(cache_dir=str(tmp_path))


def test_report_by_hand(metric):
    assert metric.compute(**ROWS, target="pos") == COUNTED
    assert metric.compute(**ROWS, target="pos", backdoor_bias=0.05) == pytest.approx(COUNTED | {"gap": 0.15})


def test_batches_and_a_target_that_is_a_number(metric):
    number = {"neg": "0", "pos": "1"}
    for row in range(5):
        metric.add_batch(**{name: [number[column[row]]] for name, column in ROWS.items()})
    assert metric.compute(target=1) == COUNTED


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "positive"}, r"`target` is 'positive'.*labels are \['neg', 'pos'\]"),
        ({"references": ["pos"] * 5}, "All `references` are the target 'pos'"),
        ({"backdoor_bias": 5}, "`backdoor_bias` must be a share"),
    ],
)
def test_rows_that_say_nothing_are_refused(metric, change, message):
    with pytest.raises(ValueError, match=message):
        metric.compute(**ROWS | {"target": "pos"} | change)
