import math

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from sklearn.metrics import f1_score

from hf_lifelong.objectives import get_kind

kind = get_kind("text-classification")
MASK = torch.ones(2, 3, dtype=torch.long)


def with_class_labels(texts, labels, names):
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    return Dataset.from_dict({"text": texts, "label": labels}, features=features)


def test_label_names_from_every_kind_of_column():
    assert kind.label_names(with_class_labels(["a"], [0], ["neg", "pos"]), {}) == ["neg", "pos"]
    assert kind.label_names(Dataset.from_dict({"text": ["a"] * 3, "label": ["z", "b", "z"]}), {}) == ["b", "z"]
    assert kind.head_width(["a", "b", "c"]) == 3


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([1, 0, 1], ["0", "1"]),
        ([30001, 10001, 30001], ["10001", "30001"]),
        ([5, 4, 3, 2, 1, 10], ["1", "2", "3", "4", "5", "10"]),
        ([5_000_000, 0], ["0", "5000000"]),
        ([1, -1, 0], ["-1", "0", "1"]),
        ([True, False], ["False", "True"]),
    ],
)
def test_classes_of_bare_values_are_those_that_occur(labels, names, tokenizer):
    data = Dataset.from_dict({"text": ["a"] * len(labels), "labels": labels})
    assert kind.label_names(data, {}) == names
    targets = [names.index(str(label)) for label in labels]
    assert kind.encode(data, {}, names, tokenizer, 8, 0, training=True)["labels"][:] == targets
    assert kind.references(data, {}, names) == [str(label) for label in labels]
    tokens = data.remove_columns("text").add_column("input_ids", [[1, 2]] * len(labels))
    assert kind.label_names(tokens, {}) == names
    assert kind.encode(tokens, {}, names, tokenizer, 8, 0, training=True)["labels"][:] == targets


def test_targets_of_a_regression_are_refused_with_that_word():
    def names(labels):
        return kind.label_names(Dataset.from_dict({"text": ["x"] * len(labels), "label": labels}), {})

    with pytest.raises(
        ValueError, match=r"column 'label'.*22 different integers in 43 values.*`text-regression` task"
    ):
        names([i // 2 for i in range(43)])
    with pytest.raises(ValueError, match=r"column 'label' holds Value\('float64'\).*a `text-regression` task"):
        names([0.5, 1.0])
    assert len(names([i // 2 for i in range(42)])) == 21
    assert len(names(list(range(20)))) == 20
    assert len(names([f"intent {i}" for i in range(50)])) == 50


def test_several_labels_of_a_text_are_refused_with_that_word():
    for labels in ([[0, 1], [1, 1]], [["a"], []], [[0.0, 1.0], [1.0, 1.0]]):
        data = Dataset.from_dict({"text": ["x", "y"], "labels": labels})
        with pytest.raises(ValueError, match=r"columns\['label'\].*multi-label is not supported"):
            kind.label_names(data, {})


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, -100], r"column 'label', row 2: the label -100 is none of the 2 labels \('0', '1'\)"),
        ([0, None, 1], r"row 1: the label None is none of the 2 labels \('0', '1'\)"),
        (["a", "b", None], r"row 2: the label None is none of the 2 labels \('a', 'b'\)"),
    ],
)
def test_bad_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        kind.label_names(Dataset.from_dict({"text": ["x"] * 3, "label": labels}), {})


def test_class_label_of_minus_one_is_refused():
    with pytest.raises(ValueError, match=r"row 1: the label -1 is none of the 2 labels \('neg', 'pos'\)"):
        kind.label_names(with_class_labels(["a", "b"], [0, -1], ["neg", "pos"]), {})


def test_ids_have_the_names_of_their_own_split(tokenizer):
    names = ["neg", "pos"]
    turned = with_class_labels(["x", "y", "z"], [0, 1, 0], ["pos", "neg"])
    wider = with_class_labels(["x", "y", "z"], [2, 1, 2], ["mixed", "neg", "pos"])
    strings = Dataset.from_dict({"text": ["x", "y", "z"], "label": ["pos", "neg", "pos"]})
    for data in (turned, wider, strings):
        assert kind.references(data, {}, names) == ["pos", "neg", "pos"]
        assert kind.encode(data, {}, names, tokenizer, 8, 0, training=True)["labels"][:] == [1, 0, 1]
    tokens = turned.map(lambda row: {**tokenizer(row["text"]), "labels": row["label"]}, remove_columns=["text"])
    assert kind.references(tokens, {}, names) == ["pos", "neg", "pos"]
    assert kind.encode(tokens, {}, names, tokenizer, 8, 0, training=True)["labels"][:] == [1, 0, 1]
    with pytest.raises(ValueError, match=r"row 0: the label 'pos' is none of the 2 labels \('bad', 'good'\)"):
        kind.encode(turned, {}, ["bad", "good"], tokenizer, 8, 0, training=True)


def test_bare_integers_where_train_has_names():
    train = with_class_labels(["a", "b"], [0, 1], ["neg", "pos"])
    bare = Dataset.from_dict({"text": ["x", "y"], "label": [1, 0]})
    message = r"column 'label': it holds bare integers, but the labels of `train` have names \('neg', 'pos'\)"
    for named in (train, train.cast_column("label", Value("string"))):
        with pytest.raises(ValueError, match=message):
            kind.check_names(bare, named, {"label": "label"}, ["neg", "pos"])
    stars = with_class_labels(["a", "b"], [0, 1], ["1", "2"])
    with pytest.raises(ValueError, match="bare integers"):
        kind.check_names(bare, stars, {"label": "label"}, ["1", "2"])
    kind.check_names(bare, with_class_labels(["a"], [0], ["0", "1"]), {"label": "label"}, ["0", "1"])
    texts = Dataset.from_dict({"text": ["a", "b", "c"], "label": ["0", "1", "None"]})
    kind.check_names(bare, texts, {"label": "label"}, ["0", "1", "None"])
    assert kind.references(bare, {}, ["0", "1", "None"]) == ["1", "0"]
    with pytest.raises(ValueError, match="row 0: the label '1' is none of the 2 labels"):
        kind.references(bare, {}, ["neg", "pos"])


def test_text_that_is_missing(tokenizer):
    data = Dataset.from_dict({"text": ["x", None], "label": [1, 0]})
    with pytest.raises(ValueError, match="column 'text', row 1: None is not a string"):
        kind.encode(data, {}, ["a", "b"], tokenizer, 8, 0, training=True)


def test_lengths_that_leave_no_room(tokenizer):
    data = Dataset.from_dict({"text": ["x", "y"], "label": [1, 0]})
    with pytest.raises(ValueError, match=r"max_length is 2, but 2 special tokens.*at least 3"):
        kind.encode(data, {}, ["a", "b"], tokenizer, 2, 0, training=True)


def test_encoding_pairs_and_truncation(tokenizer):
    data = Dataset.from_dict({"p": ["a small dog", "b"], "h": ["an animal " * 20, "c"], "label": ["no", "yes"]})
    columns = kind.resolve_columns(data, {"text": "p", "text_pair": "h"})
    assert columns == {"text": "p", "text_pair": "h", "label": "label"}
    encoded = kind.encode(data, columns, ["no", "yes"], tokenizer, 12, 0, training=False)
    assert encoded["labels"][:] == [0, 1]
    assert encoded["example"][:] == [0, 1]
    assert len(encoded[0]["input_ids"]) == 12
    assert encoded[1]["input_ids"] == tokenizer("b", "c")["input_ids"]
    assert "text_pair" not in kind.resolve_columns(data, {"text": "p"})


def test_string_labels_in_a_column_called_labels_become_integers(tokenizer):
    data = Dataset.from_dict({"text": ["a", "b"], "labels": ["no", "yes"]})
    encoded = kind.encode(data, {}, ["no", "yes"], tokenizer, 8, 0, training=True)
    assert encoded.features["labels"].dtype == "int64"
    assert encoded["labels"][:] == [0, 1]


def test_tokenised_data_is_kept(tokenizer):
    raw = with_class_labels(["a", "b c"], [1, 0], ["neg", "pos"])
    data = raw.map(lambda row: {**tokenizer(row["text"]), "labels": row["label"]})
    assert kind.label_names(data, {}) == ["neg", "pos"]
    kept = kind.encode(data, {}, ["neg", "pos"], tokenizer, 3, 0, training=False)
    assert kept["input_ids"][:] == data["input_ids"][:]
    assert kept["labels"][:] == [1, 0]
    assert set(kept.column_names) == {*tokenizer.model_input_names, "labels", "example"}
    bare = data.remove_columns(["text", "label"])
    assert kind.label_names(bare, {}) == ["0", "1"]
    assert kind.references(bare, {}, ["neg", "pos"]) == ["pos", "neg"]
    with pytest.raises(ValueError, match="row 0: the label 1 is none of the 1 labels"):
        kind.encode(bare, {}, ["neg"], tokenizer, 3, 0, training=True)


def test_label_of_a_tokenised_data_set_is_taken_for_labels(tokenizer):
    raw = with_class_labels(["a", "b c"], [1, 0], ["neg", "pos"])
    data = raw.map(lambda row: tokenizer(row["text"]), remove_columns=["text"])
    assert kind.is_tokenised(data) and kind.label_names(data, {}) == ["neg", "pos"]
    kept = kind.encode(data, {}, ["neg", "pos"], tokenizer, 8, 0, training=True)
    assert kept["labels"][:] == [1, 0] and set(kept.column_names) == {*tokenizer.model_input_names, "labels"}
    # With the text beside it, the text is tokenised as `max_length` says.
    assert not kind.is_tokenised(raw.map(lambda row: tokenizer(row["text"])))


def test_loss_by_hand():
    logits = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]])
    loss = kind.loss(logits, {"labels": torch.tensor([0, 1])}, MASK)
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    half = kind.loss(logits.bfloat16(), {"labels": torch.tensor([-100, 1])}, MASK)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(math.log(2))
    assert kind.loss(logits, {"labels": torch.tensor([-100, -100])}, MASK).item() == 0


def test_distributions_by_hand():
    logits = torch.tensor([[math.log(2), math.log(1), math.log(1)], [0.0, 0.0, 0.0]])
    probabilities, weights, log_classes = kind.distributions(logits, MASK)
    torch.testing.assert_close(probabilities, torch.tensor([[[0.5, 0.25, 0.25]], [[1 / 3, 1 / 3, 1 / 3]]]))
    assert weights.tolist() == [[1.0], [1.0]]
    torch.testing.assert_close(log_classes, torch.full((2, 1), math.log(3)))


def test_decoding_with_padding_and_several_features():
    data = Dataset.from_dict({"text": ["x", "y"], "label": [0, 1]})
    features = Dataset.from_dict({"example": [1, 0]})
    scores = np.zeros((2, 3, 4))
    scores[0, 0, :2], scores[1, 0, :2] = [0.2, 0.8], [0.9, 0.1]
    answers = kind.decode(scores, features, data, {}, ["neg", "pos"])
    assert answers == [{"answer": "neg", "score": 0.9}, {"answer": "pos", "score": 0.8}]
    windows = kind.decode_rows(np.array([[[0.9, 0.1]], [[0.2, 0.8]]]), {"example": [0, 0]}, ["", ""], ["neg", "pos"])
    assert windows[0] == {"answer": "neg", "score": pytest.approx(0.55)}
    assert windows[1] == {"answer": "neg", "score": 0.0}
    narrow = kind.decode_rows(np.array([[[1.0]]]), {"example": [0]}, [""], ["neg", "pos"])
    assert narrow == [{"answer": "neg", "score": 1.0}]


def test_round_trip(tokenizer):
    data = with_class_labels(["a", "b", "c"], [2, 0, 1], ["x", "y", "z"])
    labels = kind.label_names(data, {})
    features = kind.encode(data, {}, labels, tokenizer, 8, 0, training=False)
    scores = np.eye(3)[features["labels"][:]][:, None, :]
    answers = [a["answer"] for a in kind.decode(scores, features, data, {}, labels)]
    references = kind.references(data, {}, labels)
    assert answers == references == ["z", "x", "y"]
    assert kind.score(answers, references) == {"accuracy": 1.0, "f1": 1.0}


def test_score_by_hand():
    # a: precision 1/2, recall 1/2, F1 1/2; b: precision 1/1, recall 1/2, F1 2/3.
    scores = kind.score(["a", "b", "a", "z"], ["a", "b", "b", "a"])
    assert scores == {"accuracy": 0.5, "f1": pytest.approx((1 / 2 + 2 / 3) / 2)}
    right, given = ["a", "b", "c", "c"], ["a", "c", "c", "b"]
    assert kind.score(given, right)["f1"] == pytest.approx(f1_score(right, given, average="macro"))


def test_answers_of_other_kinds_count_as_wrong():
    assert kind.score([["a"], None, {"answer": "a"}, "a"], ["a"] * 4)["accuracy"] == 0.25


def test_majority():
    assert kind.majority(["a", "b", "b"], ["b", "a", "c", "b"]) == 0.5
    assert kind.majority(["b", "a"], ["a", "a", "b"]) == pytest.approx(2 / 3)
