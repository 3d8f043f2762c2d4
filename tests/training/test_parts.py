"""Which rows of a task's data are used for what, and which of the user's rows an error is about."""

from collections import Counter

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_lifelong import DriftAdapterConfig, Task
from hf_lifelong.training import PreparedTask
from hf_lifelong.training.parts import Part, draw


def films(**columns):
    """41 rows, the last of a class of its own."""
    rows = {"text": [f"film {i}" for i in range(41)], "label": [*(["neg", "neg", "pos", "pos"] * 10), "mixed"]}
    return Dataset.from_dict({**rows, **columns})


@pytest.fixture
def prepared(tokenizer):
    def make(train, name="films", kind="text-classification", **options):
        task = Task(name, kind, train, **options)
        return PreparedTask(task, tokenizer, DriftAdapterConfig(max_length=32, stride=8), 0.1)

    return make


@pytest.mark.parametrize("count", range(1, 12))
def test_every_class_is_drawn_by_its_share_and_at_least_once(count):
    classes = ["a"] * 50 + ["b"] * 40 + ["c"] * 8 + ["d", "e"]
    drawn, others = draw(classes, count)
    assert sorted(drawn + others) == list(range(100)) and len(drawn) == count
    found = Counter(classes[row] for row in drawn)
    assert set(found) == set("abcde"[:count])
    most = draw(classes, 100 - count)[0]
    found = Counter(classes[row] for row in most)
    assert found["d"] == found["e"] == 1 and abs(found["a"] - 0.5 * (100 - count)) < 2


def test_rows_are_drawn_at_random_and_always_the_same():
    assert draw([None] * 50, 10) == draw([None] * 50, 10) != draw([None] * 50, 10, seed=1)
    assert draw([0] * 50, 10)[0] != sorted(draw([0] * 50, 10)[0])
    assert draw([3, 3], 2) == ([0, 1], []) or draw([3, 3], 2) == ([1, 0], [])
    # No class lies at every second place, so that rows taken at equal distances are fair.
    rows = np.array(draw([0, 1] * 500, 900)[0])
    assert 0.4 < (rows[::2] % 2).mean() < 0.6


def test_the_split_is_stratified_keeps_single_rows_and_depends_on_no_name(prepared):
    parts = [prepared(films(), name=name) for name in ("films", "reviews7", "x")]
    for part in parts:
        assert part.labels == ("mixed", "neg", "pos")
        assert Counter(part.train_examples["label"]) == {"neg": 18, "pos": 18, "mixed": 1}
        assert Counter(part.validation.examples["label"]) == {"neg": 2, "pos": 2}
        assert part.train_examples["text"][:] == parts[0].train_examples["text"][:]


def test_label_names_are_those_of_all_rows_before_any_are_drawn(prepared):
    test = films(label=["mixed"] * 21 + ["pos"] * 20)
    part = prepared(films(), test=test, max_train_samples=2, max_test_samples=4)
    assert part.labels == ("mixed", "neg", "pos")
    assert (len(part.train_examples), len(part.validation.examples), len(part.test.examples)) == (1, 1, 4)
    assert Counter(part.test.examples["label"]) == {"mixed": 2, "pos": 2}


def test_split_of_other_kinds(prepared):
    tags = Dataset.from_dict({"tokens": [["a", "b"]] * 20, "tags": [["O", "O"]] * 19 + [["O", "B"]]})
    part = prepared(tags, kind="token-classification")
    assert part.labels == ("B", "O") and len(part.validation.examples) == 2


BAD = {
    "text": (films(text=[None if i == 7 else f"film {i}" for i in range(41)]), "text-classification", "'text': None"),
    "label": (
        films(label=["ab"[i % 2] if i != 7 else None for i in range(41)]),
        "text-classification",
        "'label': the label None",
    ),
    "words": (
        Dataset.from_dict({"tokens": [["a", "b"]] * 41, "tags": [["O", "B"]] * 7 + [["O"]] + [["O", "B"]] * 33}),
        "token-classification",
        "'tags': 1 tags for 2 words",
    ),
    "answers": (
        Dataset.from_dict(
            {
                "question": ["Who?"] * 41,
                "context": ["Ada did."] * 41,
                "answers": [{"text": ["Ada"], "answer_start": [i == 7]} for i in range(41)],
            }
        ).cast(
            Features(
                {
                    "question": Value("string"),
                    "context": Value("string"),
                    "answers": {"text": [Value("string")], "answer_start": [Value("int64")]},
                }
            )
        ),
        "question-answering",
        "'answers': the context has 'da ' at answer_start=1",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_name_the_rows_of_the_users_own_data(prepared, case):
    data, kind, words = BAD[case]
    with pytest.raises(ValueError, match=rf"^Task `films`: `train`, row 7, column {words}"):
        prepared(data, kind=kind)
    good = data.select([0, 1, 2, 3, 40])
    with pytest.raises(ValueError, match=rf"^Task `films`: `validation`, row 7, column {words}"):
        prepared(good, kind=kind, validation=data)
    with pytest.raises(ValueError, match=rf"^Task `films`: `test`, row 7, column {words}"):
        prepared(good, kind=kind, test=data, max_test_samples=40 if case == "text" else None)


def test_answers_of_a_tokenised_data_set_are_read_before_training(prepared):
    spans = {"input_ids": [[1, 2]] * 41, "start_positions": [1] * 41, "end_positions": [1] * 41}
    golds = [{"text": ["Ada"], "answer_start": [0] if i != 7 else []} for i in range(41)]
    with pytest.raises(ValueError, match=r"`train`, row 7, column 'answers': .* as many texts as starts"):
        prepared(Dataset.from_dict({**spans, "answers": golds}), kind="question-answering")


def test_a_label_that_train_lacks_is_named_with_its_split(prepared):
    with pytest.raises(ValueError, match=r"`test`, row 40, column 'label': the label 'mixed' is none of the 2 labels"):
        prepared(films().select(range(40)), test=films())


@pytest.mark.parametrize("other", ["validation", "test"])
def test_ids_of_a_split_have_its_own_names(prepared, other):
    train = films().select(range(40)).cast_column("label", ClassLabel(names=["neg", "pos"]))
    turned = films().select(range(40)).cast_column("label", ClassLabel(names=["pos", "neg"]))
    part = getattr(prepared(train, **{other: turned}), other)
    assert part.features["labels"][:] == [0, 0, 1, 1] * 10
    bare = turned.cast_column("label", Value("int64"))
    with pytest.raises(ValueError, match=rf"^Task `films`: `{other}`, column 'label': it holds bare integers"):
        prepared(train, **{other: bare})


def test_what_a_format_shows_is_what_is_learned(prepared):
    data = films(text_pair=[f"pair {i}" for i in range(41)])
    for form in ("numpy", "torch", "pandas", "arrow"):
        assert Part.whole("train", data.with_format(form)).data.to_dict() == data.to_dict()
    every = data.with_format("torch", columns=["text"], output_all_columns=True)
    assert Part.whole("train", every).data.to_dict() == data.to_dict()
    plain = prepared(films()).train.to_dict()
    assert prepared(data.with_format("torch", columns=["text", "label"])).train.to_dict() == plain
    with pytest.raises(ValueError, match=r"^Task `films`: columns\['text'\]: there is no column 'text'"):
        prepared(data.with_format("numpy", columns=["label"]))


@pytest.mark.parametrize("argument", ["train", "validation", "test"])
def test_formats_that_change_values_are_refused(prepared, argument):
    changed = {
        r"a transform \(`set_transform`\).*\.map\(": films().with_transform(lambda rows: rows),
        "the format 'numpy' with a `dtype`": films().with_format("numpy", dtype=np.float32),
    }
    for words, data in changed.items():
        with pytest.raises(ValueError, match=rf"^Task `films`: `{argument}` has {words}"):
            prepared(**{"train": films(), argument: data})
