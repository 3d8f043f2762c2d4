"""`unknown="base"`: a language model answers what is unlike all of its tasks as it did before it learned any."""

import copy
from pathlib import Path

import pytest
import torch
from adapter_helpers import LANGUAGE_TASKS
from learned import TEXTS, learn_task
from peft import get_peft_model
from test_language_models import MODES, row, rows_of
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from hf_lifelong import DriftAdapterConfig, generate, predict, score_labels
from hf_lifelong.adapter import active_config, answer_prompts, lifelong_of, trunk_features
from hf_lifelong.knowledge import fit_signature

STORIES = Path(__file__).parents[3] / "shared" / "models" / "stories15m"
FAR = [2, 3]  # the rows of `TEXTS` that no task is near
OPTIONS = {"max_new_tokens": 6, "pad_token_id": 0, "eos_token_id": None}


@pytest.fixture(scope="module")
def near_two(make_language_model, language_tokenizer):
    """A model whose tasks lie at the first two texts, so near that the other texts are unknown."""

    def make(model_type="llama", **config):
        model = make_language_model(model_type, tasks=("films", "news"), unknown="base", **config)
        root, features = lifelong_of(model), trunk_features(model, rows_of(language_tokenizer))
        for means in (root.drift_signature_mean, root.drift_signature_classes):
            means["default"].data = features[:2].clone()
        for spread in (root.drift_signature_factor, root.drift_signature_diagonal):
            spread["default"].data *= 1e-4
        root.refresh()
        return model

    return make


def base_of(tiny_language_folder, model_type="llama"):
    return AutoModelForCausalLM.from_pretrained(tiny_language_folder(model_type), dtype=torch.float32).eval()


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_logits_of_unknown_rows_are_those_of_the_base_to_the_bit(
    model_type, near_two, tiny_language_folder, language_tokenizer
):
    model, batch = near_two(model_type), rows_of(language_tokenizer)
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        right = base_of(tiny_language_folder, model_type)(**batch, position_ids=positions).logits
        found = model(**batch).logits
    assert torch.equal(found[FAR], right[FAR])
    asked = predict(model, batch, novelty=True)
    assert torch.equal(asked.logits, found) and (asked.novelty > 1).tolist() == [False, False, True, True]
    for i in (0, 1):
        own = predict(model, row(batch, i), "oracle", i).logits[0, -1]
        torch.testing.assert_close(found[i, -1], own, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(found[i, -1], right[i, -1], atol=1e-2)


@pytest.mark.parametrize("mode", MODES)
def test_unknown_prompts_are_continued_by_the_base(mode, near_two, tiny_language_folder, language_tokenizer):
    model, batch = near_two(), rows_of(language_tokenizer)
    options = OPTIONS | MODES[mode]
    count = options.get("num_return_sequences", 1)
    mixed = generate(model, batch, **options)
    assert mixed.novelty is None
    for i in range(len(TEXTS)):
        if i in FAR:
            alone = row(batch, i)
            whole = base_of(tiny_language_folder).generate(**alone, **options)
            right = whole[:, alone["input_ids"].shape[1] :]
        else:
            right = generate(model, row(batch, i), "oracle", i, **options).tokens
        assert torch.equal(mixed.tokens[i * count : (i + 1) * count], right)


def test_only_the_setting_leaves_unknown_inputs_to_the_base(near_two, language_tokenizer):
    model, batch = near_two(), rows_of(language_tokenizer)
    left = generate(model, batch, **OPTIONS, do_sample=False)
    active_config(model).unknown = "nearest"
    nearest = generate(model, batch, **OPTIONS, do_sample=False)
    assert torch.equal(left.group, nearest.group) and torch.equal(left.tokens[:2], nearest.tokens[:2])
    assert not torch.equal(left.tokens[FAR], nearest.tokens[FAR])
    active_config(model).unknown = "base"
    given = generate(model, batch, "oracle", nearest.group, **OPTIONS, do_sample=False)
    assert torch.equal(given.tokens, nearest.tokens)  # a group that is given always answers


@pytest.mark.parametrize("settings", [{"retrieval": "cascade"}, {"retrieval": "uncertainty"}, {"resident_groups": 1}])
def test_it_goes_with_other_settings(settings, near_two, tiny_language_folder, language_tokenizer):
    model, batch = near_two(**settings), rows_of(language_tokenizer)
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        right, found = base_of(tiny_language_folder)(**batch, position_ids=positions).logits, model(**batch).logits
    asked = predict(model, batch, novelty=True)
    far = asked.novelty > 1
    assert torch.equal(asked.logits, found) and torch.equal(found[far], right[far])
    given = predict(model, batch, "oracle", asked.group).logits
    torch.testing.assert_close(found[~far, -1], given[~far, -1], rtol=1e-4, atol=1e-4)
    assert far[FAR].all() and not torch.allclose(given[far], right[far], atol=1e-2)


def test_the_pipeline_gives_the_text_of_the_base_and_calls_its_task_unknown(
    near_two, tiny_language_folder, language_tokenizer
):
    model = near_two()
    answer = pipeline("lifelong", model=model, tokenizer=language_tokenizer)
    found = answer(TEXTS, max_new_tokens=6, labels=True)
    assert [one["task"] for one in found] == ["films", "news", "unknown", "unknown"]
    assert found[0]["answer"] in LANGUAGE_TASKS["films"] and "novelty" not in found[0]
    alone = language_tokenizer(TEXTS[2], return_tensors="pt")
    ends = {"eos_token_id": language_tokenizer.eos_token_id, "pad_token_id": language_tokenizer.eos_token_id}
    whole = base_of(tiny_language_folder).generate(**alone, max_new_tokens=6, do_sample=False, **ends)
    text = language_tokenizer.decode(whole[0, alone["input_ids"].shape[1] :], skip_special_tokens=True)
    assert found[2]["answer"] == text.strip()
    assert [one["answer"] for one in answer(TEXTS, max_new_tokens=6, abstain=True)][2:] == [None, None]
    assert [one["task"] for one in answer.route(TEXTS)] == ["films", "news", "unknown", "unknown"]
    given = answer(TEXTS, max_new_tokens=6, policy="oracle", group="films")
    assert {one["task"] for one in given} == {"films"} and given[2]["answer"] != found[2]["answer"]


def test_labels_are_scored_by_the_base_where_it_answers(near_two, language_tokenizer, monkeypatch):
    model, batch = near_two(), rows_of(language_tokenizer)
    whole = score_labels(model, batch, language_tokenizer)
    nearest = score_labels(model, batch, language_tokenizer, unknown="nearest").scores
    assert torch.equal(whole.scores[:2], nearest[:2]) and not torch.allclose(whole.scores[FAR], nearest[FAR])
    monkeypatch.setattr("hf_lifelong.adapter.forward.generate.MOST_LABEL_ROWS", 3)
    parts = score_labels(model, batch, language_tokenizer)
    torch.testing.assert_close(parts.scores, whole.scores, rtol=1e-4, atol=1e-5)


def test_the_text_of_the_base_is_no_label(near_two, language_tokenizer):
    model, batch = near_two(), rows_of(language_tokenizer)
    texts, labels = (
        answer_prompts(model, batch, language_tokenizer, labels, max_new_tokens=6) for labels in (False, True)
    )
    assert labels[0]["answer"] in LANGUAGE_TASKS["films"] and labels[1]["answer"] in LANGUAGE_TASKS["news"]
    assert labels[2:] == texts[2:]
    nearest = answer_prompts(model, batch, language_tokenizer, labels=True, max_new_tokens=6, unknown="nearest")
    assert all(one["answer"] in LANGUAGE_TASKS[("films", "news")[one["task"]]] for one in nearest)


def test_a_misspelt_setting_is_refused(near_two, language_tokenizer):
    model, batch = near_two(), rows_of(language_tokenizer)
    with pytest.raises(ValueError, match="`unknown` is 'stay'; choose one of"):
        generate(model, batch, unknown="stay")
    active_config(model).unknown = "Base"
    for ask in (lambda: model(**batch), lambda: generate(model, batch)):
        with pytest.raises(ValueError, match="`unknown` of the configuration is 'Base'; set one of"):
            ask()
    active_config(model).unknown = "base"


def test_it_is_for_language_models():
    with pytest.raises(ValueError, match=r'`unknown` is "base", but a base without a head has no answer of its own'):
        DriftAdapterConfig(unknown="base")
    with pytest.raises(ValueError, match="`unknown` is 'stay'; choose one of"):
        DriftAdapterConfig(task_type="CAUSAL_LM", unknown="stay")


@pytest.mark.skipif(not STORIES.exists(), reason="the model `stories15m` is not in ../shared/models")
def test_a_story_has_the_loss_that_it_had_before_other_tasks_were_learned():
    base = AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(STORIES)
    config = DriftAdapterConfig(task_type="CAUSAL_LM", r=2, members=2, signature_rank=4, unknown="base")
    model = get_peft_model(copy.deepcopy(base), config).eval()
    names = ("Ann", "Bob", "Carl", "Dora", "Emil", "Fred")
    prompts = {
        "sums": [f"Question: {i} + {j} =\nAnswer:" for i in range(4) for j in range(3)],
        "mail": [f"Subject: meeting on day {i} with {name}" for i in range(2) for name in names],
    }
    signatures = {}
    for task, texts in prompts.items():
        rows = [trunk_features(model, tokenizer(text, return_tensors="pt")) for text in texts]
        signatures[task] = fit_signature(torch.cat(rows), 4)
    for seed, (task, signature) in enumerate(signatures.items()):
        learn_task(model, task, "text-generation", (), seed, width=0, signature=signature)
    story = tokenizer("Once upon a time, a little girl found a red ball in the garden.", return_tensors="pt")
    asked = tokenizer(prompts["sums"][0], return_tensors="pt")
    with torch.no_grad():
        before, after = (one(**story, labels=story["input_ids"]) for one in (base, model))
        assert torch.equal(after.loss, before.loss) and torch.equal(after.logits, before.logits)
        assert not torch.allclose(model(**asked).logits, base(**asked).logits, atol=0.1)


def test_the_text_of_the_base_ends_where_the_base_ends_it(near_two, tiny_language_folder, language_tokenizer):
    """A base that was trained on chats ends its turns with another token than its tokenizer's end of text."""
    model, base = near_two(), base_of(tiny_language_folder)
    unknown = row(rows_of(language_tokenizer), FAR[0])
    start = unknown["input_ids"].shape[1]
    written = base.generate(**unknown, **OPTIONS)[0, start:].tolist()
    turn = next(token for token in written[1:] if token != written[0])
    model.generation_config.eos_token_id = [language_tokenizer.eos_token_id, turn]
    answer = answer_prompts(model, unknown, language_tokenizer, max_new_tokens=6)[0]
    kept = written[: written.index(turn)]
    assert len(kept) < len(written)
    assert answer["answer"] == language_tokenizer.decode(kept, skip_special_tokens=True).strip()
