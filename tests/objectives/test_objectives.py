import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from datasets import Dataset, DatasetDict

from hf_lifelong.objectives import HeadKind, TaskKind, get_kind, kind_names, kinds_on
from hf_lifelong.objectives.encoding import BatchEncoder

KINDS, HEAD_KINDS = kind_names(), kinds_on("FEATURE_EXTRACTION")
IMAGE_KINDS = kinds_on("FEATURE_EXTRACTION", "image")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_one_stateless_instance(kind):
    task_kind = get_kind(kind)
    assert isinstance(task_kind, TaskKind) and isinstance(task_kind, HeadKind) == (kind in HEAD_KINDS + IMAGE_KINDS)
    assert task_kind.kind == kind
    assert task_kind is get_kind(kind)
    assert not vars(task_kind)


def test_unknown_kind_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"`kind` is 'regression'.*text-classification, question-answering, token-cl"):
        get_kind("regression")


def test_naming_the_kinds_imports_no_torch():
    code = "import sys; from hf_lifelong.objectives import kind_names; kind_names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_package_imports_of_hf_lifelong_only_what_handles_data():
    code = (
        "import sys; from hf_lifelong.objectives import kind_names, get_kind;"
        "[get_kind(kind) for kind in kind_names()];"
        "print(*sorted(m for m in sys.modules if m.startswith('hf_lifelong.') and 'objectives' not in m))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == [
        "hf_lifelong.compat",
        *(f"hf_lifelong.utils{part}" for part in ("", ".lazy", ".rendering", ".texts")),
    ]


ROWS = {
    "text-classification": {"text": ["a", "b"], "label": [0, 1]},
    "question-answering": {
        "question": ["who?"],
        "context": ["Jim did."],
        "answers": [{"text": ["Jim"], "answer_start": [0]}],
    },
    "token-classification": {"tokens": [["Jim", "did"]], "tags": [["B-PER", "O"]]},
    "text-regression": {"text": ["a", "b"], "label": [0.5, 2.0]},
    "image-classification": {"image": [[[0, 1]], [[2, 3]]], "label": [0, 1]},
    "text-generation": {"prompt": ["a", "b"], "answer": ["0", "1"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_bad_data_sets_and_columns(kind, tokenizer):
    task_kind = get_kind(kind)
    data = Dataset.from_dict(ROWS[kind])
    first, second = [role for role in task_kind.columns if role != "text_pair"][:2]
    with pytest.raises(ValueError, match=f"unknown role 'lable'; a {kind} task has the roles {first}"):
        task_kind.resolve_columns(data, {"lable": "label"})
    with pytest.raises(ValueError, match=rf"columns\['{second}'\].*no column 'nope'.*'{first}'"):
        task_kind.resolve_columns(data, {second: "nope"})
    with pytest.raises(ValueError, match=rf"columns\['{first}'\].*no column '{first}'"):
        task_kind.resolve_columns(data.rename_column(first, "other"), {})
    resolved = task_kind.resolve_columns(data.rename_column(first, "other"), {first: "other"})
    assert resolved[first] == "other"
    assert task_kind.resolve_columns(data.rename_column(first, "other"), resolved) == resolved
    for role in [first] if kind == "text-regression" else [first, second]:
        floats = data.remove_columns(role).add_column(role, [0.5] * len(data))
        with pytest.raises(ValueError, match=rf"columns\['{role}'\].*column '{role}' holds .*float64.* needs "):
            task_kind.resolve_columns(floats, {})
    with pytest.raises(ValueError, match="not DatasetDict; pass one split"):
        task_kind.resolve_columns(DatasetDict(train=data), {})
    with pytest.raises(ValueError, match="not IterableDataset"):
        task_kind.label_names(data.to_iterable_dataset(), {})


@pytest.mark.parametrize("kind", KINDS)
def test_empty_data_set(kind, tokenizer):
    task_kind = get_kind(kind)
    data = Dataset.from_dict(ROWS[kind])
    labels = task_kind.label_names(data, {})
    with pytest.raises(ValueError, match="dataset is empty"):
        task_kind.encode(data.select([]), {}, labels, tokenizer, 16, 4, training=True)
    with pytest.raises(ValueError, match="dataset is empty"):
        task_kind.label_names(data.select([]), {})


@pytest.mark.parametrize("kind", KINDS)
def test_scores_need_references_and_as_many_answers(kind):
    task_kind = get_kind(kind)
    references = task_kind.references(Dataset.from_dict(ROWS[kind]), {}, ["0", "1", "B-PER", "O"])
    with pytest.raises(ValueError, match="references is empty"):
        task_kind.score([], [])
    with pytest.raises(ValueError, match=f"answers has 0 entries and references {len(references)}"):
        task_kind.score([], references)
    with pytest.raises(ValueError, match="references_train is empty"):
        task_kind.majority([], references)


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_encoding_ignores_the_format_of_a_data_set(kind, tokenizer):
    task_kind = get_kind(kind)
    data = Dataset.from_dict(ROWS[kind])
    labels = task_kind.label_names(data, {})
    options = ({}, labels, tokenizer, 16, 4)
    plain = task_kind.encode(data, *options, training=False)
    numpy = task_kind.encode(data.with_format("numpy"), *options, training=False)
    assert plain.to_dict() == numpy.to_dict()
    assert set(plain.column_names) == {*tokenizer.model_input_names, *task_kind.targets, *task_kind.extras}
    train = task_kind.encode(data, *options, training=True)
    assert set(train.column_names) == {*tokenizer.model_input_names, *task_kind.targets}


@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_features_and_scores_must_fit(kind, tokenizer):
    task_kind = get_kind(kind)
    data = Dataset.from_dict(ROWS[kind])
    labels = task_kind.label_names(data, {})
    features = task_kind.encode(data, {}, labels, tokenizer, 16, 4, training=False)
    with pytest.raises(ValueError, match="scores has the shape"):
        task_kind.decode(np.ones((7, 2, 2)), features, data, {}, labels)
    train = task_kind.encode(data, {}, labels, tokenizer, 16, 4, training=True)
    with pytest.raises(ValueError, match="features has no column 'example'"):
        task_kind.decode(np.ones((len(train), 2, 2)), train, data, {}, labels)


def test_a_file_that_was_encoded_is_not_encoded_again_with_an_equal_tokenizer(tokenizer, tmp_path):
    Dataset.from_dict(ROWS["text-classification"]).save_to_disk(tmp_path)
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["weather"])

    def encode(tokenizer):
        data, task_kind = Dataset.load_from_disk(tmp_path), get_kind("text-classification")
        return task_kind.encode(
            data, task_kind.resolve_columns(data, {}), ["0", "1"], tokenizer, 8, 0, True
        ).cache_files

    first = encode(tokenizer)
    assert first == encode(tokenizer) == encode(copy.deepcopy(tokenizer))
    assert first != encode(other)


def input_ids(batch, rows, tokenizer, max_length):
    return {"input_ids": tokenizer(batch["text"], truncation=True, max_length=max_length)["input_ids"]}


def test_what_encodes_can_be_sent_to_another_process(tokenizer):
    encoder = BatchEncoder(input_ids, tokenizer, max_length=4)
    batch = {"text": ["the weather in the north", "a film"]}
    assert pickle.loads(pickle.dumps(encoder))(batch, [0, 1]) == input_ids(batch, [0, 1], tokenizer, 4)
