import math
import sys

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from seqeval.metrics import f1_score

from hf_lifelong.objectives import get_kind

kind = get_kind("token-classification")
TAGS = ["O", "B-PER", "I-PER"]
WORDS = [["Jim", "Henson", "unquestionably", "sings"], ["rain"]]


def tagged(words=WORDS, tags=((1, 2, 0, 0), (0,)), names=TAGS, column="ner_tags"):
    features = Features({"tokens": List(Value("string")), column: List(ClassLabel(names=names))})
    return Dataset.from_dict({"tokens": words, column: [list(t) for t in tags]}, features=features)


def encode(data, tokenizer, max_length=16, training=False, labels=TAGS):
    return kind.encode(data, {}, labels, tokenizer, max_length, 0, training)


def test_label_names():
    assert kind.label_names(tagged(), {}) == TAGS
    assert kind.label_names(Dataset.from_dict({"tokens": [["a"], []], "tags": [["N", "V"], []]}), {}) == [
        "N",
        "V",
    ]
    assert kind.label_names(Dataset.from_dict({"tokens": [["a", "b"]], "pos_tags": [[7, 2]]}), {}) == ["2", "7"]
    assert kind.head_width(TAGS) == 3


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ([[0, 1], [None]], r"column 'tags', row 1: the label None is none of the 2 labels \('0', '1'\)"),
        ([[0, 1], None], "row 1: the list of labels is missing"),
    ],
)
def test_bad_labels(tags, message):
    with pytest.raises(ValueError, match=message):
        kind.label_names(Dataset.from_dict({"tokens": [["a", "b"], ["c"]], "tags": tags}), {})


@pytest.mark.parametrize(
    ("words", "tags", "message"),
    [
        ([["a"], ["b", "c"]], [["O"], ["O"]], "column 'tags', row 1: 1 tags for 2 words in column 'tokens'"),
        ([["a"], ["b"]], [["O"], None], "row 1: 0 tags for 1 words"),
        ([["a"], ["b"]], [["O"], ["X"]], "row 1: the label 'X' is none of the 3 labels"),
        ([["a"], [None]], [[0], [1]], r"column 'tokens', row 1: \[None\] is not a list of strings"),
        ([["a"], None], [[0], [1]], "column 'tokens', row 1: None is not a list of strings"),
    ],
)
def test_bad_rows(words, tags, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        encode(Dataset.from_dict({"tokens": words, "tags": tags}), tokenizer)


def test_labels_sit_on_first_tokens(tokenizer):
    row = encode(tagged(), tokenizer)[0]
    tokens = tokenizer.convert_ids_to_tokens(row["input_ids"])
    assert row["example"] == 0
    assert row["words"][0] == row["words"][-1] == -1
    assert len(tokens) > len(WORDS[0]) + 2
    labelled = [(t, label) for t, label in zip(tokens, row["labels"], strict=True) if label != -100]
    assert [label for _, label in labelled] == [1, 2, 0, 0]
    assert not any(t.startswith("##") for t, _ in labelled)


def one_hot(labels, classes=5, tokens=20):
    scores = np.zeros((len(labels), tokens, classes), dtype=np.float32)
    for i, row in enumerate(labels):
        for t, label in enumerate(row):
            scores[i, t, max(label, 0)] = 1
    return scores


def test_round_trip(tokenizer):
    data = tagged()
    features = encode(data, tokenizer)
    answers = kind.decode(one_hot(features["labels"]), features, data, {}, TAGS)
    references = kind.references(data, {}, TAGS)
    assert references == [["B-PER", "I-PER", "O", "O"], ["O"]]
    assert answers == [{"answer": right, "score": 1.0} for right in references]
    assert kind.score([a["answer"] for a in answers], references) == {"accuracy": 1.0, "f1": 1.0}


def test_words_that_were_cut_off_or_empty_get_an_answer(tokenizer):
    data = tagged([["", "Jim", *["word"] * 10]], [(0, 1, *[0] * 10)])
    features = encode(data, tokenizer, max_length=5)
    answer = kind.decode(one_hot(features["labels"]), features, data, {}, TAGS)[0]
    assert answer == {"answer": ["O", "B-PER"] + ["O"] * 10, "score": 1.0}
    none = kind.decode_rows(one_hot([[1]]), {"example": [0], "words": [[]]}, ["a text"], TAGS)
    assert none == [{"answer": [], "score": 0.0}]
    unread = kind.decode_rows(one_hot([[1]]), {"example": [0], "words": [[-1]]}, [["w"]], ["N", "V"])
    assert unread == [{"answer": ["N"], "score": 0.0}]


def test_decoding_by_hand():
    scores = np.array([[[1.0, 0.0], [0.4, 0.6], [0.9, 0.1], [0.8, 0.2]]])
    answers = kind.decode_rows(scores, {"example": [0], "words": [[-1, 0, 0, 1]]}, [["a", "b"]], ["N", "V"])
    assert answers == [{"answer": ["V", "N"], "score": pytest.approx(0.7)}]


def test_tokenised_data_is_kept(tokenizer):
    data = tagged()
    tokenised = encode(data, tokenizer, training=True).add_column("ner_tags", data["ner_tags"][:])
    tokenised = tokenised.cast_column("ner_tags", data.features["ner_tags"])
    assert kind.label_names(tokenised, {}) == TAGS
    kept = encode(tokenised, tokenizer, max_length=3)
    assert kept["input_ids"][:] == tokenised["input_ids"][:]
    assert kind.references(tokenised, {}, TAGS) == kind.references(data, {}, TAGS)
    answers = kind.decode(one_hot(kept["labels"]), kept, tokenised, {}, TAGS)
    assert [a["answer"] for a in answers] == kind.references(data, {}, TAGS)
    with pytest.raises(ValueError, match="row 0: the label 'I-PER' is none of the 2 labels"):
        encode(tokenised, tokenizer, labels=TAGS[:2])
    bare = tokenised.remove_columns("ner_tags")
    assert encode(bare, tokenizer)["labels"][:] == tokenised["labels"][:]  # positions in the names of train
    assert kind.references(bare, {}, TAGS) == kind.references(data, {}, TAGS)


def test_tags_have_the_names_of_their_own_split(tokenizer):
    turned = tagged(tags=((2, 1, 0, 0), (0,)), names=["O", "I-PER", "B-PER"])
    assert kind.references(turned, {}, TAGS) == kind.references(tagged(), {}, TAGS)
    assert encode(turned, tokenizer)["labels"][:] == encode(tagged(), tokenizer)["labels"][:]
    bare = turned.cast_column("ner_tags", List(Value("int64")))
    with pytest.raises(ValueError, match=r"column 'ner_tags': it holds bare integers.*\('O', 'B-PER', 'I-PER'\)"):
        kind.check_names(bare, tagged(), {"tags": "ner_tags"}, TAGS)


def test_targets_of_a_tokenised_data_set_are_one_a_token(tokenizer):
    data = Dataset.from_dict({"input_ids": [[1, 2, 3, 4]], "labels": [[7, -100, 3, 7]]})
    assert kind.label_names(data, {}) == ["3", "7"]
    assert encode(data, tokenizer, labels=["3", "7"])["labels"][:] == [[1, -100, 0, 1]]
    many = Dataset.from_dict({"input_ids": [[1, 2, 3, 4]], "labels": [[0, 1]]})
    with pytest.raises(ValueError, match=r"row 0: 2 labels for 4 tokens.*multi-label, which is not supported"):
        encode(many, tokenizer, labels=["0", "1"])


def test_loss_by_hand():
    logits = torch.zeros(2, 2, 3)
    logits[0, 0, 1] = math.log(4)
    labels = torch.tensor([[1, -100], [2, -100]])
    mask = torch.ones(2, 2)
    loss = kind.loss(logits, {"labels": labels}, mask)
    assert loss.item() == pytest.approx((math.log(6 / 4) + math.log(3)) / 2)
    assert kind.loss(logits, {"labels": torch.full((2, 2), -100)}, mask).item() == 0


def test_distributions_by_hand():
    logits = torch.zeros(2, 3, 2)
    logits[0, 0, 0] = math.log(3)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    probabilities, weights, log_classes = kind.distributions(logits, mask)
    torch.testing.assert_close(probabilities[0, 0], torch.tensor([0.75, 0.25]))
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, 3))
    assert weights.tolist() == [[0.5, 0.5, 0], [0, 0, 0]]
    torch.testing.assert_close(log_classes, torch.full((2, 3), math.log(2)))


def test_entity_f1_by_hand():
    references = [["B-PER", "I-PER", "O"], ["B-LOC", "O"]]
    answers = [["B-PER", "O", "O"], ["B-LOC", "B-PER"]]
    given = kind.score(answers, references)
    # Given: PER (word 0), LOC, PER; right: PER (words 0 and 1), LOC. In common: LOC. Precision 1/3, recall 1/2.
    assert given == {"accuracy": 0.6, "f1": pytest.approx(0.4)}
    assert given["f1"] == pytest.approx(f1_score(references, answers))


def test_word_f1_by_hand():
    # N: precision 1/2, recall 1, F1 2/3; V: precision 1, recall 1/2, F1 2/3.
    scores = kind.score([["N", "N"], ["V"]], [["N", "V"], ["V"]])
    assert scores == {"accuracy": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3)}


@pytest.mark.parametrize("wrong", ["B-PER", None, {"a": 1}, [], ["B-PER"], [1, 2], ["joy", "sad"], ["", None]])
def test_answers_of_other_kinds_count_as_wrong(wrong):
    assert kind.score([wrong], [["B-PER", "I-PER"]]) == {"accuracy": 0.0, "f1": 0.0}
    assert kind.score([wrong], [["N", "V"]]) == {"accuracy": 0.0, "f1": 0.0}


def test_majority():
    assert kind.majority([["O", "O"], ["B-PER"]], [["O", "B-PER"]]) == 0.0
    # Always N: accuracy 2/3; N has F1 4/5 and V 0.
    assert kind.majority([["N", "N", "V"]], [["N", "N", "V"]]) == pytest.approx(0.4)


def test_missing_seqeval_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "seqeval.metrics", None)
    with pytest.raises(ImportError, match=r'pip install "hf_lifelong\[token-classification\]"'):
        kind.score([["O"]], [["B-PER"]])
    assert kind.score([["N"]], [["N"]])["f1"] == 1.0


def test_references_without_words():
    with pytest.raises(ValueError, match="holds no words"):
        kind.score([[]], [[]])
