"""Joining adapters: each group answers as before, and what cannot be joined is refused and changes nothing."""

import copy

import pytest
import torch
from learned import TEXTS, learn_task
from peft import get_peft_model
from transformers import AutoModel

from hf_lifelong import DriftAdapterConfig, knowledge_of, predict, union
from hf_lifelong.adapter import drift_modules, lifelong_of, open_task
from hf_lifelong.knowledge import Constants


@pytest.fixture
def make(bert_folder):
    def model(*names, seed=0, **settings):
        config = DriftAdapterConfig(**{"r": 2, "members": 2, "signature_rank": 4, **settings})
        made = get_peft_model(AutoModel.from_pretrained(bert_folder, dtype=torch.float32), config)
        for i, name in enumerate(names):
            kind, labels = ("question-answering", ("start", "end")) if name == "answers" else (None, None)
            kind, labels = kind or "text-classification", labels or ("bad", "good", "fair")[: 2 + i % 2]
            learn_task(made, name, kind, labels, seed + i)
        return made.eval()

    return model


def tensors(model):
    return {
        f"{name}.{container}": tensor.clone()
        for name, module in drift_modules(model)
        for container, tensor in module.held("default").items()
    }


def test_each_group_answers_as_before(make, tokenizer):
    first, second = make("films", "answers"), make("news", "mail", seed=10)
    batch = dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))

    def ask(model, name, how):
        group = torch.full((len(TEXTS),), knowledge_of(model).group_index(name))
        return predict(model, batch, "oracle", group, how).scores

    asked = [(model, name) for model in (first, second) for name in knowledge_of(model).names]
    before = {(name, how): ask(model, name, how) for model, name in asked for how in ("merged", "ensemble")}
    theirs = tensors(second)
    union(first, second)
    assert knowledge_of(first).names == ["films", "answers", "news", "mail"]
    for (name, how), scores in before.items():
        after = ask(first, name, how)
        d, c = (min(sizes) for sizes in zip(after.shape[1:], scores.shape[1:], strict=True))  # less padding
        # The members are the same to the bit; the sums of wider heads are rounded otherwise.
        torch.testing.assert_close(after[:, :d, :c], scores[:, :d, :c], rtol=1e-6, atol=1e-6)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in tensors(second).items())
    assert predict(first, batch).group.max() < 4  # without being told, among all


def test_a_union_with_nothing_changes_nothing(make):
    first = make("films")
    before = tensors(first)
    union(first, make())
    assert knowledge_of(first).names == ["films"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(first).items())
    empty = union(make(), first)
    assert knowledge_of(empty).tasks == knowledge_of(first).tasks
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(empty).items())


def test_names_that_both_have_are_told_and_renamed_with_their_groups_and_lineage(make):
    first, second = make("films", "news"), make("films", seed=10)
    learn_task(second, "again", "text-classification", ("bad", "good"), 20, group="films", started_from="films")
    with pytest.raises(ValueError, match=r"Both adapters have a task `films`.*`rename=\{'films': ...\}`"):
        union(first, second)
    assert knowledge_of(first).names == ["films", "news"]
    union(first, second, rename={"films": "reviews"})
    last = knowledge_of(first).tasks[-1]
    assert (last.name, last.group, last.started_from) == ("again", "reviews", "reviews")
    assert knowledge_of(first).groups == ["films", "news", "reviews"]
    assert knowledge_of(second).names == ["films", "again"]


def test_a_forgotten_task_is_not_mistaken_for_one_of_the_same_name(make):
    first, second = make("films"), make(seed=10)
    learn_task(second, "news", "text-classification", ("bad", "good"), 20, started_from="films")
    with pytest.raises(ValueError, match="tasks that started from it"):
        union(first, second)
    union(first, second, rename={"films": "old films"})
    assert knowledge_of(first).tasks[-1].started_from == "old films"


@pytest.mark.parametrize(
    ("rename", "message"),
    [
        ({"sport": "x"}, r"`rename` names the task 'sport', which is none of \['films', 'mail'\]"),
        ({"films": "mail"}, "`rename` gives two tasks one name"),
        ({"films": ""}, "`rename` gives a task the name ''"),
        ({"films": "unknown"}, "`rename` gives a task the name 'unknown'"),
        ({"films": 3}, "`rename` gives a task the name 3"),
        ({"films": "news"}, "Both adapters have a task `news`"),
    ],
)
def test_a_wrong_name_is_refused(make, rename, message):
    first, second = make("news"), make("films", "mail")
    with pytest.raises(ValueError, match=message):
        union(first, second, rename=rename)
    assert knowledge_of(first).names == ["news"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 4}, "differ in `r`: 2 in the first, 4 in the second"),
        ({"lora_alpha": 8}, "differ in `lora_alpha`"),
        ({"answer": "ensemble"}, "differ in `answer`"),
        ({"target_modules": ["query"]}, "differ in `target_modules`"),
        ({"signature_rank": 2}, "differ in `signature_rank`"),
    ],
)
def test_other_settings_are_refused(make, settings, message):
    first = make("films")
    with pytest.raises(ValueError, match=message):
        union(first, make("news", **settings))
    assert knowledge_of(first).names == ["films"]


def test_another_base_other_constants_or_half_a_task_are_refused(make, tiny_folder):
    first, second = make("films"), make("news")
    base = AutoModel.from_pretrained(tiny_folder("bert", seed=1), dtype=torch.float32)
    other = get_peft_model(base, DriftAdapterConfig(r=2, members=2, signature_rank=4))
    learn_task(other, "news", "text-classification", ("bad", "good"), 0)
    with pytest.raises(ValueError, match="different bases: `fingerprint` is"):
        union(first, other)
    lifelong_of(other).knowledge["default"].base = knowledge_of(first).base
    lifelong_of(other).knowledge["default"].constants = Constants(sure=0.9)
    with pytest.raises(ValueError, match=r"different constants: `sure` is 100\.0 in the first and 0\.9"):
        union(first, other)
    deeper = copy.deepcopy(second)
    open_task(deeper, "text-classification", ("bad", "good"), 2)
    for pair in ((first, deeper), (deeper, first)):
        with pytest.raises(ValueError, match="A task is being learned"):
            union(*pair)
    with pytest.raises(ValueError, match="Both adapters have a task `films`"):
        union(first, first)
    assert knowledge_of(first).names == ["films"]
