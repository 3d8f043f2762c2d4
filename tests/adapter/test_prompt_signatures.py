"""What a language model's signature is made of, and that adapters which were saved with other features keep them."""

import copy
import json

import pytest
import torch
from adapter_helpers import LANGUAGE_TASKS, learn_language_task
from learned import TEXTS
from peft import AutoPeftModelForCausalLM, get_peft_model
from transformers import AutoModel, AutoModelForCausalLM

from hf_lifelong import DriftAdapterConfig, predict, union
from hf_lifelong.adapter import knowledge_of, lifelong_of, trunk_features
from hf_lifelong.adapter.forward.pooling import last_state

FAMILIES = ("gpt2", "llama", "gemma2")


def padded(tokenizer, side, texts=TEXTS):
    ids = [tokenizer(text)["input_ids"] for text in texts]
    size = max(map(len, ids))

    def pad(row, value):
        blank = [value] * (size - len(row))
        return blank + row if side == "left" else row + blank

    # Padding is a token like others, so that nothing but the mask tells it apart.
    columns = {"input_ids": [pad(row, 5) for row in ids], "attention_mask": [pad([1] * len(row), 0) for row in ids]}
    return {name: torch.tensor(rows) for name, rows in columns.items()}


def as_before(base, **config):
    """An adapter with the features that language models had before they read the last token, saved in its manifest."""
    config = DriftAdapterConfig(task_type="CAUSAL_LM", r=2, members=2, signature_rank=4, trunk_depth=0.5, **config)
    fresh = knowledge_of(get_peft_model(copy.deepcopy(base), config)).to_dict()
    del fresh["pooling"]
    fresh["constants"]["checksum"] = None
    config.knowledge = fresh | {"depths": [0, 1, 2]}
    return get_peft_model(base, config).eval()


@pytest.fixture
def base(tiny_language_folder):
    return AutoModelForCausalLM.from_pretrained(tiny_language_folder("llama"), dtype=torch.float32).eval()


def test_the_last_token_is_found_on_either_side_of_the_padding():
    hidden = torch.arange(24, dtype=torch.bfloat16).view(3, 4, 2)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    found = last_state(hidden, mask)
    assert found.dtype == torch.float32
    assert found.tolist() == [[6, 7], [10, 11], [16, 17]]  # positions 3 and 1, and the first where there is no token


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("model_type", FAMILIES)
def test_features_are_the_last_tokens_state_at_the_end_of_the_trunk(
    model_type, side, make_language_model, tiny_language_folder, language_tokenizer
):
    model, batch = make_language_model(model_type, tasks=()), padded(language_tokenizer, side)
    base = AutoModelForCausalLM.from_pretrained(tiny_language_folder(model_type), dtype=torch.float32).eval()
    knowledge = knowledge_of(model)
    assert (knowledge.depths, knowledge.pooling) == ([knowledge.trunk], "last")
    found = trunk_features(model, batch)
    assert found.shape == (4, base.config.hidden_size)
    for i in range(4):
        ids = batch["input_ids"][i, batch["attention_mask"][i] == 1][None]
        with torch.no_grad():
            states = base(input_ids=ids, output_hidden_states=True).hidden_states[knowledge.trunk][0]
        torch.testing.assert_close(found[i], states[-1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(trunk_features(model, {"input_ids": ids})[0], found[i], rtol=1e-4, atol=1e-4)


def test_saved_adapters_keep_the_features_that_their_manifest_states(base, language_tokenizer, tmp_path):
    model, batch = as_before(copy.deepcopy(base)), padded(language_tokenizer, "left")
    for seed, (name, labels) in enumerate(LANGUAGE_TASKS.items()):
        learn_language_task(model, name, labels, seed)
    features = trunk_features(model, batch)
    with torch.no_grad():
        position_ids = (batch["attention_mask"].cumsum(1) - 1).clamp_min(0)
        states = base(**batch, position_ids=position_ids, output_hidden_states=True).hidden_states
    real = batch["attention_mask"].bool()
    for i in range(4):
        later = real[i] & (real[i].cumsum(0) > 1) if real[i].sum() > 1 else real[i]
        first, second, third = (state[i][later].mean(0) for state in states[:3])
        expected = torch.cat([first, second - first, third - second, states[0][i][real[i]].amax(0) - first])
        torch.testing.assert_close(features[i], expected, rtol=1e-4, atol=1e-4)
    model.save_pretrained(str(tmp_path))
    manifest = json.loads((tmp_path / "adapter_config.json").read_text())["knowledge"]
    assert "pooling" not in manifest
    base.save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(
        json.dumps(config | {"base_model_name_or_path": str(tmp_path / "base")})
    )
    again = AutoPeftModelForCausalLM.from_pretrained(str(tmp_path), dtype=torch.float32)
    assert torch.equal(trunk_features(again, batch), features)
    right, found = predict(model, batch, novelty=True), predict(again, batch, novelty=True)
    for part in ("logits", "group", "margin", "novelty"):
        assert torch.equal(found[part], right[part])


def test_adapters_with_other_features_neither_join_nor_share_a_model(base):
    old = as_before(copy.deepcopy(base))
    config = DriftAdapterConfig(task_type="CAUSAL_LM", r=2, members=2, signature_rank=4, trunk_depth=0.5)
    new = get_peft_model(base, config)
    for model, name in ((old, "films"), (new, "news")):
        learn_language_task(model, name, LANGUAGE_TASKS[name], 0)
    with pytest.raises(ValueError, match=r"made of different hidden states.*Learn the tasks of the older one again"):
        union(old, new)
    narrow = as_before(AutoModelForCausalLM.from_config(base.config), signature_size=24)
    config = DriftAdapterConfig(task_type="CAUSAL_LM", r=2, members=2, trunk_depth=0.5, signature_size=24)
    with pytest.raises(ValueError, match=r"made of different hidden states.*on a model of its own"):
        narrow.add_adapter("second", config)


def test_without_a_trunk_all_tokens_are_read(make_language_model):
    model = make_language_model("llama", tasks=(), trunk_depth=0.0)
    knowledge = knowledge_of(model)
    assert (knowledge.trunk, knowledge.depths, knowledge.pooling) == (0, [0], "mean-and-peak")


def test_text_classification_on_a_decoder_reads_all_tokens(tiny_language_folder):
    base = AutoModel.from_pretrained(tiny_language_folder("llama"), dtype=torch.float32)
    model = get_peft_model(base, DriftAdapterConfig(r=2, members=2, signature_rank=4))
    knowledge = knowledge_of(model)
    assert knowledge.pooling == "mean-and-peak" and knowledge.depths == [0, 1, 2]
    assert "pooling" not in knowledge.to_dict() and lifelong_of(model).features == 4 * base.config.hidden_size
