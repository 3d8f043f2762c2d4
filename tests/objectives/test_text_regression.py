import math

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from scipy.stats import pearsonr, spearmanr

from hf_lifelong.objectives import get_kind

kind = get_kind("text-regression")
DATA = Dataset.from_dict({"text": ["a", "b c", "d", "e"], "label": [1.0, 4.0, 2.0, 5.0]})
CONSTANTS = {"mean": 3.0, "std": math.sqrt(2.5)}


def encode(data, tokenizer, constants=CONSTANTS, training=False, **columns):
    return kind.encode(data, columns, ["value"], tokenizer, 16, 4, training, constants)


def test_mean_and_deviation_of_the_targets_are_kept_and_undone(tokenizer):
    assert kind.label_names(DATA, {}) == ["value"] and kind.head_width(["value"]) == 1
    constants = kind.constants(DATA, {})
    assert constants == pytest.approx(CONSTANTS)
    labels = encode(DATA, tokenizer, constants, training=True)["labels"]
    assert np.mean(labels) == pytest.approx(0) and np.std(labels) == pytest.approx(1)
    factor, summand = kind.scaling(constants)
    assert [factor * label + summand for label in labels] == pytest.approx(DATA["label"])


@pytest.mark.parametrize("name", ["label", "labels"])
def test_tokenised_targets_are_standardised_too(tokenizer, name):
    plain = encode(DATA, tokenizer)
    raw = plain.remove_columns(["labels", "example"]).add_column(name, DATA["label"])
    assert kind.constants(raw, {}) == pytest.approx(CONSTANTS)
    assert kind.references(raw, {}, ["value"]) == DATA["label"]
    assert encode(raw, tokenizer)["labels"][:] == plain["labels"][:]


def test_integers_and_pairs_and_the_column_called_score(tokenizer):
    data = Dataset.from_dict({"text": ["a", "b"], "text_pair": ["c", "d"], "score": [0, 5]})
    assert kind.constants(data, {}) == {"mean": 2.5, "std": 2.5}
    ids = encode(data, tokenizer, kind.constants(data, {}))["input_ids"]
    assert ids[0] == tokenizer("a", "c")["input_ids"]


def test_loss_is_the_mean_squared_error():
    logits, labels = torch.tensor([[1.0], [-2.0]]), torch.tensor([0.5, 0.0])
    assert kind.loss(logits.bfloat16(), {"labels": labels}, torch.ones(2, 3)) == pytest.approx((0.25 + 4) / 2)


def test_scores_are_the_numbers_and_have_no_probability(tokenizer):
    scores, weights, log_classes = kind.distributions(torch.tensor([[1.5], [-2.0]]), torch.ones(2, 3))
    assert scores.shape == (2, 1, 1) == (2, *kind.sizes(3, 1))
    assert weights.tolist() == [[1.0], [1.0]] and bool((log_classes > 0).all())
    found = kind.decode_rows(scores.numpy(), {"example": [0, 1]}, [None] * 2, ["value"])
    assert found == [{"answer": 1.5, "score": None}, {"answer": -2.0, "score": None}]


def test_metrics_are_those_of_scipy():
    rng = np.random.default_rng(0)
    right = rng.normal(size=50)
    given = right + rng.normal(size=50)
    found = kind.score(given.tolist(), right.tolist())
    assert found["pearson"] == pytest.approx(pearsonr(given, right).statistic)
    assert found["spearman"] == pytest.approx(spearmanr(given, right).statistic)
    error = np.square(given - right).mean()
    assert found["rmse"] == pytest.approx(math.sqrt(error))
    assert found["r2"] == pytest.approx(max(0, 1 - error / right.var()))
    assert kind.score(right.tolist(), right.tolist()) == pytest.approx(
        {"pearson": 1, "spearman": 1, "r2": 1, "rmse": 0}
    )


def test_what_is_worse_than_nothing_counts_as_nothing():
    right = [0.1, 0.2, 0.4]
    against = kind.score([-x for x in right], right)
    assert (against["pearson"], against["spearman"], against["r2"]) == (0, 0, 0)
    assert kind.score([0.1] * 3, right)["pearson"] == kind.score(right, [0.1] * 3)["pearson"] == 0
    assert kind.score(right, [0.1] * 3)["r2"] == 0
    assert kind.majority([1.0, 2.0], right) == 0
    with pytest.raises(ValueError, match="references_train is empty"):
        kind.majority([], right)


def test_an_answer_that_is_no_number_counts_as_the_mean():
    right = [1.0, 2.0, 3.0, 6.0]
    assert kind.score([1.0, None, "x", True], right) == kind.score([1.0, 3.0, 3.0, 3.0], right)
    assert kind.module_forms([], [1.0, None, 2, 6.5], right, ["value"]) == ([1.0, 3.0, 2.0, 6.5], right)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1.0, None], r"column 'label', row 1: None is no finite number; correct it or drop the row"),
        ([float("inf"), 1.0], r"column 'label', row 0: inf is no finite number"),
        ([2.0, 2.0], r"column 'label': its numbers have the mean 2 and the standard deviation 0, too little"),
        ([1e9, 1e9 + 1], r"too little to tell them apart; subtract"),
        (["1.0", "2.0"], r"holds Value\('string'\), but a text-regression task needs one number per row"),
        ([True, False], r"needs one number per row"),
    ],
)
def test_targets_that_cannot_be_learned_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        kind.constants(Dataset.from_dict({"text": ["a", "b"], "label": labels}), {})


def test_classes_with_names_are_no_numbers():
    data = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}).cast_column("label", ClassLabel(names=["x", "y"]))
    with pytest.raises(ValueError, match="needs one number per row"):
        kind.resolve_columns(data, {})


def test_a_missing_number_is_named_where_it_is_encoded(tokenizer):
    data = Dataset.from_dict({"text": ["a", "b"], "label": [1.0, None]})
    with pytest.raises(ValueError, match="column 'label', row 1: None is no finite number"):
        encode(data, tokenizer)


@pytest.mark.parametrize(
    "constants",
    [
        {},
        {"mean": 1.0},
        {"mean": 1.0, "std": 0.0},
        {"mean": 0.0, "std": -1.0},
        {"mean": 1e9, "std": 1.0},
        {"mean": 0.0, "std": 1.0, "x": 1.0},
    ],
)
def test_constants_that_no_training_gives_are_refused(constants):
    with pytest.raises(ValueError, match=r"`constants` are .*text-regression task has `mean` and `std`"):
        kind.check_constants(constants)
    kind.check_constants(CONSTANTS)
