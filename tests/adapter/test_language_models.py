"""Causal language models: groups are chosen in the prefill, and generation goes on with them."""

import copy
import io
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout

import pytest
import torch
from adapter_helpers import LANGUAGE_TASKS, same_tensors, tensors_of
from learned import TEXTS
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationConfig, TextStreamer

from hf_lifelong import DriftAdapterConfig, forget, generate, predict, score_labels
from hf_lifelong.adapter import lifelong_of, trunk_features
from hf_lifelong.adapter.forward.causal import prompt_tokens
from hf_lifelong.adapter.low_rank import DriftLayer
from hf_lifelong.objectives.prompts import encode_answers
from hf_lifelong.objectives.uncertainty import mean_by_pair, normalised_entropy, summed_variance

FAMILIES = ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gpt_neox", "opt")
MODES = {
    "greedy": {"do_sample": False},
    "beams": {"num_beams": 3, "do_sample": False},
    "several beams": {"num_beams": 3, "num_return_sequences": 2, "do_sample": False},
    "beams by configuration": {"generation_config": GenerationConfig(num_beams=3, do_sample=False)},
    "static cache": {"do_sample": False, "cache_implementation": "static", "disable_compile": True},
}


def rows_of(tokenizer, texts=TEXTS, side="left"):
    """Tokenised texts, padded by hand: the tokenizer has no padding token."""
    ids = [tokenizer(text)["input_ids"] for text in texts]
    size = max(map(len, ids))
    pads = [[0] * (size - len(row)) for row in ids]
    ones = [[1] * len(row) for row in ids]
    columns = {"input_ids": ids, "attention_mask": ones}
    left = side == "left"
    return {
        name: torch.tensor([pad + row if left else row + pad for pad, row in zip(pads, rows, strict=True)])
        for name, rows in columns.items()
    }


def row(batch, i):
    """One row of a batch, without its padding."""
    keep = batch["attention_mask"][i] == 1
    return {key: value[i : i + 1, keep] for key, value in batch.items()}


@pytest.fixture(scope="module")
def spread(make_language_model):
    """A model whose signatures lie at the texts' own features, so that a batch mixes groups for sure."""

    def make(model_type, tokenizer, **config):
        model = make_language_model(model_type, **config)
        root = lifelong_of(model)
        features = trunk_features(model, rows_of(tokenizer))
        for means in (root.drift_signature_mean, root.drift_signature_classes):
            means["default"].data = features[: len(LANGUAGE_TASKS)].clone()
        root.refresh()
        return model

    return make


@pytest.mark.parametrize(
    ("model_type", "mode"),
    [(f, "greedy") for f in FAMILIES] + [(f, mode) for f in ("gpt2", "llama") for mode in MODES if mode != "greedy"],
)
def test_mixed_rows_generate_what_each_gives_alone(model_type, mode, spread, language_tokenizer):
    model, batch = spread(model_type, language_tokenizer), rows_of(language_tokenizer)
    options = {**MODES[mode], "max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": None}
    mixed = generate(model, batch, **options)
    assert len(set(mixed.group.tolist())) == 3
    plain = model.generate(**batch, **options)
    assert torch.equal(plain[:, batch["input_ids"].shape[1] :], mixed.tokens)
    count = options.get("num_return_sequences", 1)
    for i in range(len(TEXTS)):
        alone = generate(model, row(batch, i), **options)
        assert alone.group.item() == mixed.group[i].item()
        assert torch.equal(alone.tokens, mixed.tokens[i * count : (i + 1) * count])
        given = generate(model, row(batch, i), policy="oracle", group=alone.group.item(), **options)
        assert torch.equal(given.tokens, alone.tokens)
        torch.testing.assert_close(alone.margin[0], mixed.margin[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", FAMILIES)
def test_every_token_is_what_the_group_gives_without_a_cache(model_type, spread, language_tokenizer):
    model, batch = spread(model_type, language_tokenizer), rows_of(language_tokenizer)
    base = predict(model, batch, "oracle", 0).logits
    answer = generate(model, batch, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None)
    log_p = torch.zeros(len(TEXTS))
    for i in range(len(TEXTS)):
        prompt = row(batch, i)["input_ids"]
        whole = torch.cat([prompt, answer.tokens[i : i + 1]], 1)
        logits = predict(model, {"input_ids": whole}, "oracle", answer.group[i].item()).logits[
            0, prompt.shape[1] - 1 : -1
        ]
        assert torch.equal(logits.argmax(-1), answer.tokens[i])
        log_p[i] = logits.log_softmax(-1).gather(1, answer.tokens[i, :, None]).sum()
        entropy = torch.special.entr(logits.softmax(-1)).sum(-1).mean() / torch.tensor(float(logits.shape[-1])).log()
        torch.testing.assert_close(answer.uncertainty[i], entropy, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(answer.score, log_p.exp(), rtol=1e-3, atol=1e-6)
    other = predict(model, batch, "oracle", 1).logits
    assert not torch.allclose(base, other, atol=1e-3)  # the groups do differ


def test_sampling_draws_from_the_rows_own_group(spread, language_tokenizer):
    model, batch = spread("llama", language_tokenizer), rows_of(language_tokenizer)
    options = {"max_new_tokens": 8, "do_sample": True, "top_k": 20, "pad_token_id": 0}
    torch.manual_seed(1)
    chosen = generate(model, batch, **options)
    torch.manual_seed(1)
    given = generate(model, batch, policy="oracle", group=chosen.group, **options)
    assert torch.equal(chosen.tokens, given.tokens)
    torch.manual_seed(1)
    assert not torch.equal(generate(model, batch, policy="oracle", group=0, **options).tokens, chosen.tokens)


def test_streams_and_stops(spread, language_tokenizer):
    model, batch = spread("llama", language_tokenizer), row(rows_of(language_tokenizer), 1)
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    whole = generate(model, batch, eos_token_id=None, **options).tokens[0]
    printed = io.StringIO()
    with redirect_stdout(printed):
        generate(
            model, batch, eos_token_id=None, streamer=TextStreamer(language_tokenizer, skip_prompt=True), **options
        )
    assert printed.getvalue().strip() == language_tokenizer.decode(whole).strip()
    stopped = generate(model, batch, eos_token_id=int(whole[2]), **options)
    first = whole.tolist().index(int(whole[2]))
    assert stopped.tokens[0].tolist() == whole[: first + 1].tolist()
    logits = predict(
        model, {"input_ids": torch.cat([batch["input_ids"], stopped.tokens], 1)}, "oracle", stopped.group
    ).logits
    log_p = logits[0, batch["input_ids"].shape[1] - 1 : -1].log_softmax(-1).gather(1, stopped.tokens[0][:, None]).sum()
    torch.testing.assert_close(stopped.score[0], log_p.exp(), rtol=1e-3, atol=1e-6)


def test_trunk_runs_once_a_token_and_answers_do_not_mix(spread, language_tokenizer):
    model, batch = spread("llama", language_tokenizer), rows_of(language_tokenizer)
    base = model.get_base_model()
    calls = []
    handle = base.model.layers[0].register_forward_pre_hook(lambda m, a: calls.append(a[0].shape))
    generate(model, batch, max_new_tokens=5, do_sample=False, pad_token_id=0, eos_token_id=None)
    handle.remove()
    tokens = batch["input_ids"].shape[1]
    assert [tuple(shape[:2]) for shape in calls] == [(4, tokens)] + [(4, 1)] * 4
    first, second = row(batch, 0), row(batch, 1)
    with torch.no_grad():  # two answers under way at once
        a, b = model(**first), model(**second)
        step = {k: torch.tensor([[7]]) for k in ("input_ids",)}
        a2 = model(**step, past_key_values=a.past_key_values).logits
        b2 = model(**step, past_key_values=b.past_key_values).logits
    for prompt, found in ((first, a2), (second, b2)):
        group = predict(model, prompt).group.item()
        whole = {"input_ids": torch.cat([prompt["input_ids"], torch.tensor([[7]])], 1)}
        torch.testing.assert_close(predict(model, whole, "oracle", group).logits[:, -1:], found, rtol=1e-4, atol=1e-4)
    assert len(lifelong_of(model).conductor.under_way) == 2
    del a, b
    assert len(lifelong_of(model).conductor.under_way) == 0


@pytest.mark.parametrize("most", [2**27, 1])
@pytest.mark.parametrize("uncertainty", ["entropy", "variance"])
@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gemma2"])
def test_uncertainty_is_that_of_the_prompts_next_tokens(
    model_type, uncertainty, most, make_language_model, language_tokenizer, monkeypatch
):
    monkeypatch.setattr("hf_lifelong.adapter.forward.causal.MOST_LOGITS", most)  # all rows at once, one by one
    model, batch = make_language_model(model_type, uncertainty=uncertainty), rows_of(language_tokenizer)
    found = predict(model, batch, "uncertainty")
    members = lifelong_of(model)
    by_hand = []
    for i in range(len(TEXTS)):
        one, of_groups = row(batch, i), []
        for group in range(3):
            p = []
            for k in range(2):
                alone = copy.deepcopy(model)
                for _, layer in alone.named_modules():
                    if hasattr(layer, "drift_bank_A"):
                        for bank in (layer.drift_bank_A, layer.drift_bank_B):
                            bank["default"].data[2 * group + 1 - k] = bank["default"].data[2 * group + k]
                p.append(predict(alone, one, "oracle", group).logits.softmax(-1)[0])
            p = torch.stack(p)
            weights = torch.full((1, p.shape[1]), 1 / p.shape[1])
            pair = torch.zeros(2, dtype=torch.long)
            classes = torch.full((1, p.shape[1]), float(p.shape[2])).log()
            of_groups.append(
                normalised_entropy(mean_by_pair(p, pair, 1), weights, classes)
                if uncertainty == "entropy"
                else summed_variance(p, weights, pair, 1)
            )
        by_hand.append(torch.cat(of_groups))
    by_hand = torch.stack(by_hand)
    assert torch.equal(found.group, by_hand.argmin(1))
    torch.testing.assert_close(found.uncertainty, by_hand.min(1).values, rtol=1e-4, atol=1e-5)
    answer = generate(model, batch, "uncertainty", max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert torch.equal(answer.group, found.group)
    given = generate(model, batch, "oracle", found.group, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert torch.equal(answer.tokens, given.tokens)
    assert members.context.current is None


def test_cascade_and_batches_of_one_task(spread, language_tokenizer):
    model, batch = spread("llama", language_tokenizer), rows_of(language_tokenizer)
    one = predict(model, batch, "cascade", per_batch=True)
    assert len(set(one.group.tolist())) == 1
    alone = [predict(model, row(batch, i), "cascade").group.item() for i in range(len(TEXTS))]
    assert predict(model, batch, "cascade").group.tolist() == alone
    novel = predict(model, batch, novelty=True).novelty
    assert novel.shape == (4,)
    torch.testing.assert_close(generate(model, batch, novelty=True, max_new_tokens=1, pad_token_id=0).novelty, novel)


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "qwen3", "gemma2"])
def test_labels_are_scored_by_their_likelihood(model_type, spread, language_tokenizer):
    model, batch = spread(model_type, language_tokenizer), rows_of(language_tokenizer)
    found = score_labels(model, batch, language_tokenizer)
    assert set(found.task.tolist()) == {0, 1, 2}
    for i in range(len(TEXTS)):
        labels = list(LANGUAGE_TASKS.values())[found.task[i]]
        prompt = row(batch, i)["input_ids"]
        log_p = []
        for ids in encode_answers(language_tokenizer, labels, 99) if labels else ():
            whole = {"input_ids": torch.cat([prompt, torch.tensor([ids])], 1)}
            logits = predict(model, whole, "oracle", found.group[i].item()).logits[0, prompt.shape[1] - 1 : -1]
            log_p.append(logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum())
        right = torch.zeros(3)
        if labels:
            right[: len(labels)] = torch.stack(log_p).softmax(0)
        torch.testing.assert_close(found.scores[i, 0], right, rtol=1e-3, atol=1e-5)
    alone = score_labels(model, row(batch, 1), language_tokenizer, "oracle", "news")
    torch.testing.assert_close(alone.scores.sum(), torch.tensor(1.0))


def test_modes_in_which_groups_cannot_be_chosen_are_refused(spread, language_tokenizer):
    model, batch = spread("llama", language_tokenizer), rows_of(language_tokenizer)
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with pytest.raises(ValueError, match="chunked prefill"):
        model.generate(**batch, prefill_chunk_size=4, **options)
    repeated = {
        "input_ids": torch.tensor([[5, 6, 7, 5, 6, 7, 5, 6]]),
        "attention_mask": torch.ones(1, 8, dtype=torch.long),
    }
    with pytest.raises(ValueError, match="assisted decoding"):
        model.generate(**repeated, prompt_lookup_num_tokens=3, **options)
    with pytest.raises(ValueError, match="use_cache=False"):
        model.generate(**batch, use_cache=False, **options)
    fixed = generate(model, batch, "oracle", 1, use_cache=False, **options)
    assert torch.equal(fixed.tokens, generate(model, batch, "oracle", 1, **options).tokens)
    with torch.no_grad():
        with model.disable_adapter():
            foreign = model(**row(batch, 0)).past_key_values
        with pytest.raises(ValueError, match="not filled by this model"):
            model(input_ids=torch.tensor([[3]]), past_key_values=foreign)
        with pytest.raises(ValueError, match="Continuous batching"):
            model.get_base_model()(**row(batch, 0), cu_seq_lens_q=torch.tensor([0, 3]))
    right = rows_of(language_tokenizer, side="right")
    with pytest.raises(ValueError, match="padded on the right"):
        generate(model, right, **options)
    with pytest.raises(ValueError, match="padded on the right"):
        score_labels(model, right, language_tokenizer)
    with pytest.raises(ValueError, match="no `input_ids`"):
        generate(model, {"inputs_embeds": torch.zeros(1, 3, 32)}, **options)
    with pytest.raises(ValueError, match=r"`answer` is 'ensemble'; choose one of \['merged'\]"):
        predict(model, batch, answer="ensemble")
    with pytest.raises(ValueError, match="a cache for each member"):
        DriftAdapterConfig(task_type="CAUSAL_LM", answer="ensemble")
    assert torch.equal(model.generate(**batch, **options), model.generate(**batch, **options))  # and nothing stays


def test_base_and_task_type_must_fit(tiny_language_folder, bert_folder):
    language = AutoModelForCausalLM.from_pretrained(tiny_language_folder("llama"), dtype=torch.float32)
    with pytest.raises(ValueError, match=r'give `DriftAdapterConfig\(task_type="CAUSAL_LM"\)`'):
        get_peft_model(language, DriftAdapterConfig())
    encoder = AutoModel.from_pretrained(bert_folder, dtype=torch.float32)
    with pytest.raises(ValueError, match="no causal language model; load the base with `AutoModelForCausalLM`"):
        get_peft_model(encoder, DriftAdapterConfig(task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match="SEQ_CLS"):
        DriftAdapterConfig(task_type="SEQ_CLS")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_every_way_of_loading_answers_the_same(
    model_type, dtype, make_language_model, tiny_language_folder, language_tokenizer, tmp_path
):
    model, batch = make_language_model(model_type, dtype=dtype), rows_of(language_tokenizer)
    model.save_pretrained(tmp_path)
    folder = tiny_language_folder(model_type)
    base = lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)  # noqa: E731
    native = base()
    native.load_adapter(str(tmp_path))
    loaded = {
        "peft": PeftModel.from_pretrained(base(), tmp_path),
        "low memory": PeftModel.from_pretrained(base(), tmp_path, low_cpu_mem_usage=True),
        "auto": AutoPeftModelForCausalLM.from_pretrained(tmp_path, dtype=dtype),
        "native": native,
        "from adapter": AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype),
    }
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    right, tensors = generate(model, batch, **options), tensors_of(model)
    for way, other in loaded.items():
        same_tensors(tensors, tensors_of(other))
        found = generate(other.eval(), batch, **options)
        assert torch.equal(found.tokens, right.tokens) and torch.equal(found.group, right.group), way
        assert torch.equal(other.generate(**batch, **options)[:, batch["input_ids"].shape[1] :], right.tokens), way


def test_default_trunk_and_targets(make_language_model):
    model = make_language_model("llama", tasks=())
    config = model.peft_config["default"]
    assert config.trunk_depth == 0.25 and lifelong_of(model).conductor.trunk == 1
    assert {name.rsplit(".", 1)[-1] for name in config.target_modules} == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    gpt = make_language_model("gpt2", tasks=()).peft_config["default"].target_modules
    assert "transformer.h.1.attn.c_attn" in gpt and not any("h.0." in name or "lm_head" in name for name in gpt)
    rest = make_language_model("gpt_neox", tasks=()).peft_config["default"].target_modules
    assert {name.rsplit(".", 1)[-1] for name in rest} == {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}


def test_groups_are_chosen_in_float32_under_autocast(spread, language_tokenizer):
    model, batch = spread("llama", language_tokenizer, signature_size=16), rows_of(language_tokenizer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert trunk_features(model, batch).dtype == torch.float32
        found = predict(model, batch, novelty=True)
    assert found.novelty.dtype == found.margin.dtype == torch.float32
    assert torch.equal(found.group, predict(model, batch).group)


def test_a_static_cache_chooses_the_same_groups_under_a_sliding_window(make_language_model, language_tokenizer):
    model = make_language_model("mistral", base={"sliding_window": 4})
    # With the words at the end, because the last token, which the group is chosen by, reads no further back.
    batch = rows_of(language_tokenizer, [f"and so on {word}" * 3 for word in TEXTS])
    root = lifelong_of(model)
    for means in (root.drift_signature_mean, root.drift_signature_classes):
        means["default"].data = trunk_features(model, batch)[:3].clone()
    root.refresh()
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    right = generate(model, batch, **options)
    static = generate(model, batch, cache_implementation="static", disable_compile=True, **options)
    assert len(set(right.group.tolist())) == 3 and torch.equal(static.group, right.group)
    torch.testing.assert_close(static.margin, right.margin, rtol=1e-4, atol=1e-5)


def test_threads_answer_one_after_another(spread, language_tokenizer):
    model, batch = spread("llama", language_tokenizer), rows_of(language_tokenizer)
    right = [predict(model, row(batch, i)) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: (i, predict(model, row(batch, i))), [0, 1, 2, 3] * 8))
    for i, answer in found:
        assert torch.equal(answer.group, right[i].group) and torch.equal(answer.logits, right[i].logits)


def test_copies_and_pickles_answer_the_same(spread, language_tokenizer):
    model, batch = spread("llama", language_tokenizer), rows_of(language_tokenizer)
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    right = generate(model, batch, **options)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(generate(other, batch, **options).tokens, right.tokens)


@pytest.mark.parametrize("config", [{}, {"retrieval": "uncertainty"}])
@pytest.mark.parametrize("side", ["left", "right"])
def test_prompt_and_answer_in_one_pass_go_where_the_prompt_goes(config, side, spread, language_tokenizer):
    model = spread("llama", language_tokenizer, **config)
    prompts = rows_of(language_tokenizer)
    group = predict(model, prompts).group
    answers = [language_tokenizer(text)["input_ids"][:3] for text in reversed(TEXTS)]
    rows = [[*prompts["input_ids"][i][prompts["attention_mask"][i] == 1].tolist(), *answers[i]] for i in range(4)]
    size = max(map(len, rows))
    columns = {"input_ids": (0, rows), "attention_mask": (0, [[1] * len(row) for row in rows])}
    columns["labels"] = (-100, [[-100] * (len(row) - 3) + row[-3:] for row in rows])

    def pad(row, value):
        blank = [value] * (size - len(row))
        return blank + row if side == "left" else row + blank

    batch = {name: torch.tensor([pad(row, value) for row in table]) for name, (value, table) in columns.items()}
    given = predict(model, batch, "oracle", group).logits
    with torch.no_grad():
        found = model(**batch)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found.logits[real], given[real], rtol=1e-4, atol=1e-4)
    others = predict(model, batch, "oracle", (group + 1) % len(set(group.tolist()))).logits
    assert not torch.allclose(others[real], given[real], atol=1e-2)


def test_a_text_all_of_whose_tokens_have_labels_is_a_prompt():
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0], [0, 1, 1, 1, 1]])
    labels = torch.where(mask == 1, 7, -100)
    labels[2, :3] = -100
    assert prompt_tokens(labels, mask).tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 0], [0, 1, 1, 0, 0]]
    assert prompt_tokens(labels, None)[1:].tolist() == [[1] * 5, [1, 1, 1, 0, 0]]


def test_labels_in_parts_are_the_same_as_at_once(spread, language_tokenizer, monkeypatch):
    model, batch = spread("llama", language_tokenizer), rows_of(language_tokenizer)
    whole = score_labels(model, batch, language_tokenizer, novelty=True)
    monkeypatch.setattr("hf_lifelong.adapter.forward.generate.MOST_LABEL_ROWS", 3)
    parts = score_labels(model, batch, language_tokenizer, novelty=True)
    assert torch.equal(whole.group, parts.group)
    for key in ("scores", "margin", "novelty", "uncertainty"):
        torch.testing.assert_close(whole[key], parts[key], rtol=1e-4, atol=1e-5)
    assert len(set(score_labels(model, batch, language_tokenizer, per_batch=True).group.tolist())) == 1


def test_where_answers_end_is_read_from_the_configuration(spread, language_tokenizer):
    model, batch = spread("llama", language_tokenizer), row(rows_of(language_tokenizer), 1)
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    end = int(generate(model, batch, eos_token_id=None, **options).tokens[0, 2])
    given = generate(model, batch, eos_token_id=end, **options)
    configured = generate(model, batch, generation_config=GenerationConfig(eos_token_id=end, **options))
    assert torch.equal(configured.tokens, given.tokens)
    torch.testing.assert_close(configured.score, given.score)


def test_an_answer_does_not_go_on_after_the_adapter_has_changed(spread, language_tokenizer):
    model, batch = spread("llama", language_tokenizer), row(rows_of(language_tokenizer), 1)
    with torch.no_grad():
        cache = model(**batch).past_key_values
        model.forget("films")
        with pytest.raises(ValueError, match="this adapter as it is now"):
            model(input_ids=torch.tensor([[7]]), past_key_values=cache)


def test_bases_without_a_cache_are_refused():
    config = AutoConfig.for_model("mamba", vocab_size=64, hidden_size=16, num_hidden_layers=2, state_size=4)
    with pytest.raises(ValueError, match="keeps no cache"):
        get_peft_model(AutoModelForCausalLM.from_config(config), DriftAdapterConfig(task_type="CAUSAL_LM"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "text-classification"}, r"task `films`: `kind` is 'text-classification', but on a causal"),
        ({"width": 2}, "a head of 2 rows does not fit"),
        ({"labels": ["bad", "bad"]}, "empty or twice"),
        ({"labels": ["bad", ""]}, "empty or twice"),
        ({"template": "{text.__class__}"}, "only names of columns"),
        ({"template": 3}, "template"),
    ],
)
def test_manifests_that_lie_are_refused(change, message, make_language_model, tiny_language_folder, tmp_path):
    make_language_model().save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    config = json.loads(file.read_text())
    config["knowledge"]["tasks"][0] |= change
    file.write_text(json.dumps(config))
    base = AutoModelForCausalLM.from_pretrained(tiny_language_folder("llama"), dtype=torch.float32)
    with pytest.raises(ValueError, match=message):
        PeftModel.from_pretrained(base, tmp_path)


def test_merged_factors_of_a_forgotten_task_are_dropped(make_language_model):
    model = make_language_model()
    ids = torch.randint(5, 90, (2, 8))
    generate(model, {"input_ids": ids}, "oracle", 1, max_new_tokens=2, pad_token_id=0)
    layers = [m for m in model.modules() if isinstance(m, DriftLayer)]
    assert all(layer.mixtures for layer in layers)
    forget(model, "news")
    assert not any(layer.mixtures for layer in layers)


def test_prompts_that_are_padded_on_the_right_are_predicted_as_on_the_left(spread, language_tokenizer):
    model = spread("gpt2", language_tokenizer)
    left, right = (rows_of(language_tokenizer, side=side) for side in ("left", "right"))
    found, expected = predict(model, right), predict(model, left)
    assert torch.equal(found.group, expected.group)
    for i in range(len(TEXTS)):
        a, b = (
            answer.logits[i, batch["attention_mask"][i] == 1] for answer, batch in ((found, right), (expected, left))
        )
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_a_prompt_without_finite_numbers_is_an_error_or_unknown(spread, language_tokenizer):
    model, batch = spread("llama", language_tokenizer), rows_of(language_tokenizer)
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    expected = generate(model, batch, novelty=True, **options)
    right = score_labels(model, batch, language_tokenizer)
    words = [set(batch["input_ids"][i].tolist()) for i in range(4)]
    word = next(iter(words[1] - words[0] - words[2] - words[3] - set(expected.tokens.flatten().tolist())))
    weight = torch.nn.Parameter(model.get_input_embeddings().weight.detach().clone(), requires_grad=False)
    weight[word] = float("nan")
    model.get_input_embeddings().weight = weight
    for ask in (
        lambda **more: predict(model, batch, **more),
        lambda **more: generate(model, batch, **options, **more),
        lambda **more: generate(model, batch, **{**options, "do_sample": True}, **more),
        lambda **more: generate(model, batch, num_beams=2, **options, **more),
        lambda **more: generate(model, batch, "oracle", 1, **options, **more),
        lambda **more: score_labels(model, batch, language_tokenizer, **more),
    ):
        with pytest.raises(ValueError, match=r"NaN or infinite numbers for 1 of the 4 inputs .*rows \[1\]"):
            ask()
        found = ask(novelty=True)
        assert found.novelty[1] > 1e30 and found.margin[1] == 0 and (found.novelty[[0, 2, 3]] < 1e30).all()
    found = generate(model, batch, novelty=True, **options)
    assert torch.equal(found.tokens[[0, 2, 3]], expected.tokens[[0, 2, 3]])
    torch.testing.assert_close(found.novelty[[0, 2, 3]], expected.novelty[[0, 2, 3]])
    scores = score_labels(model, batch, language_tokenizer, novelty=True).scores
    torch.testing.assert_close(scores[[0, 2, 3]], right.scores[[0, 2, 3]])
    assert not scores[1].any()
