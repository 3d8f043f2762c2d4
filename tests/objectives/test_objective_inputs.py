import pytest
from datasets import Dataset

from hf_lifelong.objectives import encode_inputs, get_kind

LONG = "The committee met on Tuesday and could not agree. " * 6
MIXED = [
    {"question": "Who met?", "context": LONG},
    "A joy from start to end.",
    {"tokens": ["Jim", "Henson", "unquestionably"]},
    {"text": "A dog runs.", "text_pair": "An animal moves."},
    {"question": "When?", "context": "On Tuesday."},
    {"text": LONG},
    {"text": "single", "text_pair": None},
]


def encode(inputs, tokenizer):
    return encode_inputs(inputs, tokenizer, 32, 8)


def test_mixed_inputs_make_one_table_in_order(tokenizer):
    features, sources = encode(MIXED, tokenizer)
    assert set(features) == {*tokenizer.model_input_names, "example", "kinds", "offsets", "words"}
    kinds = ["question-answering", "text-classification", "token-classification", "text-classification"]
    example = features["example"]
    assert all(kind in features["kinds"][example.index(i)] for i, kind in enumerate(kinds))
    assert sources == [LONG, "", ["Jim", "Henson", "unquestionably"], "", "On Tuesday.", "", ""]
    assert example == sorted(example)
    assert set(example) == set(range(len(MIXED)))
    assert example.count(0) > 1
    for i, ids, offsets, words in zip(
        example, features["input_ids"], features["offsets"], features["words"], strict=True
    ):
        assert len(offsets) == (len(ids) if i in (0, 4) else 0)
        assert len(words) == (len(ids) if i == 2 else 0)
    Dataset.from_dict(features)


def test_alone_or_together_makes_no_difference(tokenizer):
    together, _ = encode(MIXED, tokenizer)
    for i, entry in enumerate(MIXED):
        alone, _ = encode([entry], tokenizer)
        assert set(alone["example"]) == {0}
        rows = [k for k, owner in enumerate(together["example"]) if owner == i]
        for name in ("input_ids", "attention_mask", "token_type_ids", "offsets", "words"):
            assert alone[name] == [together[name][k] for k in rows]


@pytest.mark.parametrize(
    ("kind", "rows", "columns", "targets"),
    [
        ("text-classification", ["a joy", LONG], ["text"], {"label": ["a", "b"]}),
        (
            "text-classification",
            [{"text": "a", "text_pair": LONG}, {"text": LONG, "text_pair": "b"}],
            ["text", "text_pair"],
            {"label": ["a", "b"]},
        ),
        (
            "question-answering",
            [MIXED[0], MIXED[4]],
            ["question", "context"],
            {"answers": [{"text": ["The"], "answer_start": [0]}, {"text": ["On"], "answer_start": [0]}]},
        ),
        (
            "token-classification",
            [MIXED[2], {"tokens": ["a"] * 50}],
            ["tokens"],
            {"tags": [["a", "b", "a"], ["b"] * 50]},
        ),
    ],
)
def test_inputs_are_encoded_as_the_rows_of_a_task(kind, rows, columns, targets, tokenizer):
    table = {c: [row if isinstance(row, str) else row[c] for row in rows] for c in columns}
    task_kind = get_kind(kind)
    encoded = task_kind.encode(Dataset.from_dict({**table, **targets}), {}, ["a", "b"], tokenizer, 32, 8, False)
    features, _ = encode(rows, tokenizer)
    for name in (*tokenizer.model_input_names, *task_kind.extras):
        assert encoded[name][:] == features[name]


@pytest.mark.parametrize(
    "wrong",
    [
        3,
        None,
        {},
        {"text": 1},
        {"txt": "a"},
        {"question": "a"},
        {"tokens": "a b"},
        {"tokens": [1]},
        {"text_pair": "a"},
    ],
)
def test_unknown_forms_are_refused_with_the_known_ones(wrong, tokenizer):
    with pytest.raises(ValueError, match=r'inputs\[1\] is .*no known form.*"question".*"tokens"'):
        encode(["fine", wrong], tokenizer)


def test_no_inputs(tokenizer):
    features, sources = encode([], tokenizer)
    assert sources == features["example"] == []
    assert set(features) == {*tokenizer.model_input_names, "example", "kinds", "offsets", "words"}


def test_the_answer_of_a_labelled_row_is_not_looked_at(tokenizer):
    asked = [*MIXED, {"text": "label"}]
    answers = [{"answers": {"text": ["Jim"]}}, {}, {"ner_tags": [0, 0, 0]}, {"label": 1}, {"answers": None}]
    answers += [{"labels": "good"}, {"score": 0.5}, {"label": None}]
    labelled = [
        {**entry, **one} if isinstance(entry, dict) else entry for entry, one in zip(asked, answers, strict=True)
    ]
    assert encode(labelled, tokenizer) == encode(asked, tokenizer)
    with pytest.raises(ValueError, match=r"inputs\[0\] is {'text': 'a', 'id': 3}, which is no known form"):
        encode([{"text": "a", "id": 3}], tokenizer)
