"""What cannot be answered is one clear error of ours, whatever was given."""

import copy

import pytest
import torch
from learned import TEXTS
from transformers import pipeline

import hf_lifelong  # noqa: F401
from hf_lifelong import generate, predict

HOW = r"give what `tokenizer\(texts, padding=True, return_tensors=\"pt\"\)` gives"
IDS = torch.tensor([[101, 2023, 102], [101, 2003, 102]])
BATCHES = {
    "nothing": ({}, f"`batch` has no `input_ids`, only \\[\\]; {HOW}"),
    "a text": ("a film", f"`batch` is 'a film'; {HOW}"),
    "texts": (TEXTS, r"`batch` is \['a film', "),
    "a tensor": (IDS, r"`batch` is tensor\("),
    "lists": ({"input_ids": [[101, 102]]}, f"`input_ids` of `batch` is a list, no tensor; {HOW}"),
    "a list beside a tensor": ({"input_ids": IDS, "attention_mask": [[1, 1, 0]] * 2}, "`attention_mask` .* is a list"),
    "arrays": ({"input_ids": IDS.numpy()}, "`input_ids` of `batch` is a ndarray, no tensor"),
    "a mask alone": ({"attention_mask": torch.ones_like(IDS)}, r"no `input_ids`, only \['attention_mask'\]"),
    "one row": ({"input_ids": IDS[0]}, r"are torch.int64 of shape \(3,\); give integers, a row for each"),
    "no row": ({"input_ids": IDS[:0]}, r"are torch.int64 of shape \(0, 3\)"),
    "fractions": ({"input_ids": IDS.float()}, r"are torch.float32 of shape \(2, 3\)"),
    "a mask of another shape": (
        {"input_ids": IDS, "attention_mask": torch.ones(2, 1, dtype=torch.long)},
        r"`attention_mask` of `batch` has shape \(2, 1\), but `input_ids` have \(2, 3\)",
    ),
}
OPTIONS = {
    "text as a switch": ({"per_batch": "no"}, "`per_batch` is 'no'; give `True` or `False`"),
    "number as a switch": ({"novelty": 1}, "`novelty` is 1; give `True` or `False`"),
    "text as a wish for states": ({"states": "yes"}, "`states` is 'yes'; give `True` or `False`"),
    "kinds that are none": ({"kinds": 3}, "`kinds` is 3; give a list with kinds"),
    "fractions of groups": ({"policy": "oracle", "group": torch.zeros(2)}, "`group` must hold one group from 0 to 3"),
}


@pytest.fixture(scope="module")
def model(make_model):
    return make_model()


@pytest.fixture(scope="module")
def answer(model, tokenizer):
    return pipeline("lifelong", model=model, tokenizer=tokenizer)


@pytest.mark.parametrize("case", BATCHES)
def test_batches(case, model):
    batch, message = BATCHES[case]
    with pytest.raises(ValueError, match=message):
        predict(model, batch)


@pytest.mark.parametrize("case", OPTIONS)
def test_options(case, model):
    options, message = OPTIONS[case]
    with pytest.raises(ValueError, match=message):
        predict(model, {"input_ids": IDS}, **options)


def test_models_that_cannot_answer(model):
    for other in (None, "folder"):
        with pytest.raises(ValueError, match=f"`model` must be a model with a lifelong adapter, not {other!r}"):
            predict(other, {"input_ids": IDS})
    with pytest.raises(ValueError, match="`model` is no language model, so it writes no text; ask it with `predict`"):
        generate(model, {"input_ids": IDS})


@pytest.mark.parametrize("size", [-1, 0, 1.5, "x"])
def test_batch_sizes(size, answer):
    with pytest.raises(ValueError, match=f"`batch_size` is {size!r}; give an integer of at least 1"):
        answer(TEXTS, batch_size=size)


HALF = "\ud83c"
HALVES = (
    f"a {HALF} film",
    {"text": "a", "text_pair": HALF},
    {"question": HALF, "context": "a"},
    {"tokens": ["a", HALF]},
)


@pytest.mark.parametrize("entry", HALVES)
def test_half_a_character(entry, answer):
    with pytest.raises(ValueError, match=r"inputs\[1\] holds half a character \(a lone surrogate\)"):
        answer(["a film", entry])


def test_half_a_character_of_a_prompt(make_language_model, language_tokenizer):
    answer = pipeline("lifelong", model=make_language_model(), tokenizer=copy.deepcopy(language_tokenizer))
    with pytest.raises(ValueError, match=r"inputs\[0\] holds half a character"):
        answer([HALVES[0]])


def test_a_pipeline_without_a_tokenizer(model):
    with pytest.raises(ValueError, match="`tokenizer` is missing"):
        pipeline("lifelong", model=model)("a film")


def test_a_tokenizer_that_breaks_down(model, tokenizer, monkeypatch):
    """What `tokenizers` raises where its own code panics is no `Exception`."""

    class PanicException(BaseException):
        pass

    def panic(*_, **__):
        raise PanicException("index out of bounds")

    answer = pipeline("lifelong", model=model, tokenizer=copy.deepcopy(tokenizer))
    monkeypatch.setattr(type(answer.tokenizer), "__call__", panic)
    with pytest.raises(
        ValueError, match=r"The tokenizer broke down \(index out of bounds\); use the tokenizer of the base"
    ):
        answer(["a film"])


def test_a_language_model_has_no_states_for_heads(make_language_model):
    with pytest.raises(ValueError, match="`states` are those that heads read, and a language model has no heads"):
        predict(make_language_model(), {"input_ids": IDS.clamp(max=100)}, states=True)
