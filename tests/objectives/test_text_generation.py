"""Prompts and answers of language models."""

import copy

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_lifelong.objectives import get_kind
from hf_lifelong.objectives.prompts import encode_answers, encode_prompts, ensure_padding, prompt_of, with_prompts

kind = get_kind("text-generation")
CHAT = "{% for m in messages %}<|end|>{{ m.role }}\n{{ m.content }}<|end|>{% endfor %}<|end|>assistant{{ '\n' }}"


@pytest.fixture
def chat(language_tokenizer):
    language_tokenizer.chat_template = CHAT
    yield language_tokenizer
    language_tokenizer.chat_template = None


def encoded(data, tokenizer, training=True, labels=(), max_length=64):
    return kind.encode(data, {}, list(labels), tokenizer, max_length, 0, training)


def test_targets_are_the_answers_tokens_alone(language_tokenizer):
    data = Dataset.from_dict({"prompt": ["The film: ", "who"], "answer": ["was good", "the north"]})
    rows = encoded(data, language_tokenizer)
    assert set(rows.column_names) == {"input_ids", "attention_mask", "labels"}
    for row, prompt, answer in zip(rows, ("The film:", "who"), data["answer"], strict=True):
        start = next(i for i, label in enumerate(row["labels"]) if label != -100)
        assert language_tokenizer.decode(row["input_ids"][:start]) == prompt
        assert language_tokenizer.decode(row["input_ids"][start:]) == f" {answer}<|end|>"
        assert row["labels"][start:] == row["input_ids"][start:]
        assert row["attention_mask"] == [1] * len(row["input_ids"])
    asked = encoded(data, language_tokenizer, training=False)
    assert set(asked.column_names) == {"input_ids", "attention_mask", "example"}
    assert [language_tokenizer.decode(ids) for ids in asked["input_ids"]] == ["The film:", "who"]


def test_chat_template_is_used_where_there_is_one(chat):
    data = Dataset.from_dict({"text": ["a film"], "answer": [["good", "fine"]]})
    row = encoded(data, chat)[0]
    assert chat.decode(row["input_ids"]) == "<|end|>user\na film<|end|><|end|>assistant\ngood<|end|>"
    turns = [{"role": "user", "content": "a film"}]
    expected = chat.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert encoded(data, chat, training=False)[0]["input_ids"] == expected
    assert kind.references(data, {}, []) == [{"text": ["good", "fine"]}]


@pytest.mark.parametrize("length", [28, 34, 41])
def test_long_prompts_lose_their_beginning_and_nothing_else(length, chat):
    text = "the weather in the north was bad and then it was good again for ever and ever, naïvely " * 3
    (ids,) = encode_prompts(chat, [text], length)
    found = chat.decode(ids)
    assert length - 4 <= len(ids) <= length
    assert found.startswith("<|end|>user\n") and found.endswith("<|end|><|end|>assistant\n")
    kept = found.removeprefix("<|end|>user\n").removesuffix("<|end|><|end|>assistant\n")
    assert kept and text.endswith(kept)
    with pytest.raises(ValueError, match="max_length is 4, which the chat template fills"):
        encode_prompts(chat, [text], 4)


def test_answers_that_are_cut_are_told(language_tokenizer, caplog):
    data = Dataset.from_dict({"prompt": ["a", "b"], "answer": ["good", "the weather in the north was bad"]})
    rows = encoded(data, language_tokenizer, max_length=5)
    encode_prompts(language_tokenizer, ["a long long prompt", "b"], 3)
    assert "1 of 2 prompts are longer than `max_length` (3) and lose their beginning" in caplog.text
    assert "1 of 2 answers are longer than `max_length` (5)" in caplog.text
    assert [label for label in rows[1]["labels"] if label != -100][-1] != language_tokenizer.eos_token_id
    assert encode_answers(language_tokenizer, ["good"], 9)[0][-1] == language_tokenizer.eos_token_id


def test_labels_squad_and_lists_as_answers(language_tokenizer):
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    data = Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, 1]}, features=features)
    assert kind.label_names(data, {}) == ["neg", "pos"]
    assert kind.references(data, {}, ["neg", "pos"]) == [{"text": ["pos"]}, {"text": ["neg"]}, {"text": ["pos"]}]
    train, test = (kind.references(data.select(i), {}, ["neg", "pos"]) for i in ([0, 1, 2], [0, 1]))
    assert kind.majority(train, test) == 0.5
    assert kind.score(["Pos.", "pos", None], train) == {"exact_match": 1 / 3, "f1": 1 / 3}
    turned = Dataset.from_dict(
        {"text": ["a", "b"], "label": [0, 1]},
        features=Features({"text": Value("string"), "label": ClassLabel(names=["pos", "neg"])}),
    )
    for labels in (["neg", "pos"], []):  # names of their own split, also where train has texts
        assert kind.references(turned, {}, labels) == [{"text": ["pos"]}, {"text": ["neg"]}]
    answer = encoded(turned, language_tokenizer, labels=["neg", "pos"])[0]["labels"]
    assert language_tokenizer.decode([token for token in answer if token != -100]) == " pos<|end|>"
    strings = Dataset.from_dict({"text": ["a", "b"], "answer": ["pos", "neg"]})
    assert kind.references(strings, {}, ["neg", "pos"]) == [{"text": ["pos"]}, {"text": ["neg"]}]
    squad = Dataset.from_dict(
        {
            "question": ["who?"],
            "context": ["Jim did."],
            "answers": [{"text": ["Jim", "Jim K"], "answer_start": [0, 0]}],
        }
    )
    prompts = with_prompts(squad, {}, None)
    assert prompts["prompt"] == ["Jim did.\n\nQuestion: who?\nAnswer:"]
    assert prompts["prompt"][0] == prompt_of({"question": "who?", "context": "Jim did."}, 0)
    assert kind.references(prompts, {}, []) == [{"text": ["Jim", "Jim K"]}]
    np.testing.assert_allclose(kind.score(["Jim R"], kind.references(prompts, {}, []))["f1"], 2 / 3)
    assert encoded(prompts, language_tokenizer)[0]["labels"][0] == -100


def test_templates():
    data = Dataset.from_dict({"title": ["A"], "body": ["b {x}"], "answer": ["c"]})
    assert with_prompts(data, {}, "{title}: {body} {{?}}")["prompt"] == ["A: b {x} {?}"]
    for template, message in (
        ("{titel}", r"`template` has 'titel', which is no column; the data set has \['title'"),
        ("no braces", "`template` names no column in braces"),
        ("{title", "cannot be read"),
        ("{title.__class__}", "only names of columns"),
        ("{title!r:>9}", "only names of columns"),
    ):
        with pytest.raises(ValueError, match=message):
            with_prompts(data, {}, template)
    with pytest.raises(ValueError, match="would replace the column 'prompt'"):
        with_prompts(data.add_column("prompt", ["x"]), {}, "{title}")
    assert with_prompts(data, {}, None) is data


def test_bad_prompts_and_answers(language_tokenizer):
    for data, message in (
        ({"prompt": ["a", " "], "answer": ["b", "c"]}, "column 'prompt', row 1: ' ' is no text"),
        ({"prompt": ["a", "b"], "answer": ["b", None]}, "column 'answer', row 1: None gives no answer"),
        ({"prompt": ["a"], "answer": [1]}, r"columns\['answer'\]: column 'answer' holds .*class_encode_column"),
        ({"prompt": ["a"]}, r"no column 'answer' or 'completion'"),
        ({"input_ids": [[1]], "labels": [[1]]}, r"no column 'prompt' or 'text'"),
    ):
        with pytest.raises(ValueError, match=message):
            encoded(Dataset.from_dict(data), language_tokenizer)
    for entry, message in ((3, "no known form"), ({"a": "b"}, "no known form"), ("  ", r"inputs\[7\] is empty")):
        with pytest.raises(ValueError, match=message):
            prompt_of(entry, 7)
    assert prompt_of({"text": "a", "text_pair": "b"}, 0) == "a\nb"
    assert prompt_of({"text": "a"}, 0) == "a"
    labelled = {"summary": "s", "text": "a", "label": 1}
    assert prompt_of({"text": "a", "label": "b"}, 0, (), {"label", "summary"}) == "a"
    assert prompt_of(labelled, 0, (), {"label", "summary"}) == "a"
    assert prompt_of({"summary": "s"}, 0, ["{summary}!"], {"summary"}) == "s!"  # an input of this task
    with pytest.raises(ValueError, match="no known form"):
        prompt_of(labelled, 0)


def test_values_of_a_template_are_written_as_in_training():
    rows = [
        {"title": "x", "year": 1843, "share": 0.5, "new": True},
        {"title": "", "year": -1, "share": 2.0, "new": False},
    ]
    template = "{title} ({year}): {share}, {new}"
    data = with_prompts(Dataset.from_list(rows), {}, template)
    assert [prompt_of(row, i, [template]) for i, row in enumerate(rows)] == data["prompt"][:]
    with pytest.raises(ValueError, match=r"inputs\[4\]: nothing stands in 'year'"):
        prompt_of({**rows[0], "year": None}, 4, [template])
    with pytest.raises(ValueError, match="no known form"):
        prompt_of({"text": 3}, 0)


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        *[("The Nile.", "nile", True), ("", "A", False), ("the", "A", False), ("A", "A", True), ("a", "A", True)],
        *[("+", "-", False), ("-", "-", True), ("15", "1.5", False), ("5", "-5", False), ("-5", "-5", True)],
        *[("in 1990-1995", "in 1990-1995", True), ("1,200 men", "1,200 men", True), ("", "", True)],
    ],
)
def test_answers_that_normalising_would_make_equal(answer, gold, same):
    scores = kind.score([answer], [{"text": [gold]}])
    assert scores["exact_match"] == same
    assert scores["f1"] >= scores["exact_match"]


def test_padding_token_is_made_of_the_end_token(language_tokenizer):
    tokenizer = copy.deepcopy(language_tokenizer)
    tokenizer.pad_token = None
    ensure_padding(tokenizer)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    tokenizer.pad_token = tokenizer.eos_token = None
    with pytest.raises(ValueError, match="no `eos_token`"):
        ensure_padding(tokenizer)
