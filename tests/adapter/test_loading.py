"""Every way to load an adapter gives the answers and, bit by bit, the tensors that were saved."""

import copy
import json
import pickle

import pytest
import torch
from adapter_helpers import TASKS, answers_equal, same_tensors, tensors_of
from learned import learn_task
from peft import AutoPeftModelForFeatureExtraction, PeftConfig, PeftModel, get_peft_model
from transformers import AlbertConfig, AlbertModel, AutoModel, AutoModelForSequenceClassification

from hf_lifelong import DriftAdapterConfig, knowledge_of, predict
from hf_lifelong.adapter import lifelong_of
from hf_lifelong.adapter.low_rank import DriftLayer

ARCHITECTURES = [
    ("bert", torch.float32, {}),
    ("bert", torch.bfloat16, {}),
    ("roberta", torch.float32, {}),
    ("distilbert", torch.float32, {}),
    ("deberta-v2", torch.float32, {}),
    ("modernbert", torch.float32, {}),
    ("modernbert", torch.bfloat16, {}),
    ("mpnet", torch.float32, {"target_modules": "all-linear"}),
]


def load_native(base, folder, dtype):
    model = AutoModel.from_pretrained(base, dtype=dtype)
    model.load_adapter(folder)
    return model


ROUTES = {
    "PeftModel": lambda base, folder, dtype: PeftModel.from_pretrained(
        AutoModel.from_pretrained(base, dtype=dtype), folder
    ),
    "low_cpu_mem_usage": lambda base, folder, dtype: PeftModel.from_pretrained(
        AutoModel.from_pretrained(base, dtype=dtype), folder, low_cpu_mem_usage=True
    ),
    "AutoPeftModel": lambda base, folder, dtype: AutoPeftModelForFeatureExtraction.from_pretrained(
        folder, dtype=dtype
    ),
    "AutoModel": lambda base, folder, dtype: AutoModel.from_pretrained(folder, dtype=dtype),
    "load_adapter": load_native,
}


@pytest.mark.parametrize(("model_type", "dtype", "config"), ARCHITECTURES)
def test_every_route_gives_what_was_saved(make_model, tiny_folder, batch, tmp_path, model_type, dtype, config):
    model = make_model(model_type, dtype=dtype, **config)
    options = [{"policy": p} for p in ("signature", "uncertainty", "cascade")] + [{"answer": "ensemble"}]
    expected = [predict(model, batch, **o) for o in options]
    model.save_pretrained(tmp_path)
    assert isinstance(PeftConfig.from_pretrained(tmp_path), DriftAdapterConfig)
    for route, load in ROUTES.items():
        loaded = load(tiny_folder(model_type), tmp_path, dtype).eval()
        same_tensors(tensors_of(loaded), tensors_of(model))
        assert knowledge_of(loaded) == knowledge_of(model), route
        for option, answer in zip(options, expected, strict=True):
            answers_equal(predict(loaded, batch, **option), answer)


def test_a_saved_adapter_is_the_same_file_after_loading(make_model, tiny_folder, tmp_path):
    make_model().save_pretrained(tmp_path / "first")
    base = AutoModel.from_pretrained(tiny_folder("bert"), dtype=torch.float32)
    PeftModel.from_pretrained(base, tmp_path / "first").save_pretrained(tmp_path / "second")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_a_loaded_adapter_learns_on(make_model, tiny_folder, batch, tmp_path):
    make_model(tasks=("films", "news")).save_pretrained(tmp_path)
    base = AutoModel.from_pretrained(tiny_folder("bert"), dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, tmp_path)
    for name in ("answers", "names"):
        learn_task(loaded, name, *TASKS[name], seed=list(TASKS).index(name))
    same_tensors(tensors_of(loaded), tensors_of(make_model()))
    answers_equal(predict(loaded, batch), predict(make_model(), batch))


def test_adapters_lie_above_the_trunk_only(make_model):
    for depth, first in ((0.0, 0), (0.25, 1), (0.5, 2), (0.99, 3)):
        model = make_model(tasks=(), trunk_depth=depth).base_model.model
        carriers = {int(n.split(".")[2]) for n, m in model.named_modules() if isinstance(m, DriftLayer)}
        assert carriers == set(range(first, 4))


@pytest.mark.parametrize(
    ("model_type", "count"), [("bert", 6), ("distilbert", 6), ("deberta-v2", 4), ("modernbert", 4)]
)
def test_default_targets_are_all_linear_layers(make_model, model_type, count):
    default = make_model(model_type, tasks=())
    everything = make_model(model_type, tasks=(), target_modules="all-linear")
    names = [[n for n, m in model.named_modules() if isinstance(m, DriftLayer)] for model in (default, everything)]
    assert names[0] == names[1] and len(names[0]) == 2 * count


def test_layers_that_read_shared_positions_are_refused(make_model):
    with pytest.raises(ValueError, match=r"names \['key_proj'\].*Leave them out"):
        make_model("deberta-v2", tasks=(), target_modules=["key_proj", "value_proj"])


def test_targets_may_be_chosen_and_left_out(make_model):
    def carriers(**config):
        model = make_model(tasks=(), **config)
        return {n.rsplit(".", 1)[1] for n, m in model.named_modules() if isinstance(m, DriftLayer)}

    assert carriers(target_modules=["query", "value"]) == {"query", "value"}
    assert carriers(target_modules=r".*attention.*\.key") == {"key"}
    assert carriers(target_modules="all-linear", exclude_modules=["dense"]) == {"query", "key", "value"}
    with pytest.raises(ValueError, match=r"c_attn.*matches no linear layer above the trunk.*'dense', 'key'"):
        make_model(tasks=(), target_modules=["c_attn"])
    with pytest.raises(ValueError, match=r"\['c_attn', 'uery'\] matches no linear layer above the trunk"):
        make_model(tasks=(), target_modules=["query", "uery", "c_attn"])
    with pytest.raises(ValueError, match=r"\['word_embeddings'\] matches no linear.*is not part of a layer"):
        make_model(tasks=(), target_modules=["query", "word_embeddings"])
    assert carriers(target_modules=["encoder.layer.0.attention.self.query", "value"]) == {"value"}


def test_a_base_with_a_head_of_its_own_is_refused(tiny_folder):
    base = AutoModelForSequenceClassification.from_pretrained(tiny_folder("bert"), dtype=torch.float32)
    with pytest.raises(ValueError, match=r"has a head of its own.*AutoModel"):
        get_peft_model(base, DriftAdapterConfig())


def test_a_base_whose_layers_run_several_times_is_refused():
    base = AlbertModel(
        AlbertConfig(vocab_size=20, hidden_size=16, embedding_size=8, num_attention_heads=2, intermediate_size=16)
    )
    with pytest.raises(ValueError, match="layers that run once each"):
        get_peft_model(base, DriftAdapterConfig())


def test_a_second_adapter_answers_for_itself(make_model, batch, tmp_path):
    other = make_model(tasks=("names", "films"))
    other.save_pretrained(tmp_path)
    model = make_model(tasks=("films", "news"))
    before = predict(model, batch)
    model.load_adapter(tmp_path, adapter_name="other")
    answers_equal(predict(model, batch), before)
    model.set_adapter("other")
    answers_equal(predict(model, batch), predict(other, batch))
    same_tensors(tensors_of(model, "other"), tensors_of(other))
    model.set_adapter("default")
    answers_equal(predict(model, batch), before)
    model.delete_adapter("other")
    answers_equal(predict(model, batch), before)
    assert list(lifelong_of(model).knowledge) == ["default"]


def test_a_second_adapter_must_share_the_trunk(make_model):
    model = make_model(tasks=())
    with pytest.raises(ValueError, match=r"trunk_depth.*trunk of 1 layers.*with 2"):
        model.add_adapter("other", DriftAdapterConfig(trunk_depth=0.25))
    model = make_model(tasks=())
    with pytest.raises(ValueError, match=r"signature_size.*16 signature features.*128"):
        model.add_adapter("other", DriftAdapterConfig(signature_size=16))


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "deberta-v2", "modernbert"])
def test_a_disabled_adapter_gives_the_base_model(make_model, tiny_folder, batch, model_type):
    model = make_model(model_type)
    base = AutoModel.from_pretrained(tiny_folder(model_type), dtype=torch.float32)
    with torch.no_grad(), model.disable_adapter():
        off = model(**batch).last_hidden_state
        with pytest.raises(ValueError, match="disabled"):
            predict(model, batch)
    assert torch.equal(off, base(**batch).last_hidden_state)
    assert predict(model, batch).scores is not None


def test_a_fresh_adapter_gives_the_base_model(make_model, tiny_folder, batch):
    base = AutoModel.from_pretrained(tiny_folder("bert"), dtype=torch.float32)
    model = make_model(tasks=())
    assert torch.equal(model(**batch).last_hidden_state, base(**batch).last_hidden_state)
    with pytest.raises(ValueError, match="knows no task yet"):
        predict(model, batch)


def test_unload_leaves_no_trace(make_model, tiny_folder, batch):
    base = AutoModel.from_pretrained(tiny_folder("bert"), dtype=torch.float32)
    unloaded = make_model().unload()
    assert {n for n, _ in unloaded.named_modules()} == {n for n, _ in base.named_modules()}
    # Private state of torch, which tells of hooks that change no output but take time.
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unloaded.modules())
    assert torch.equal(unloaded(**batch).last_hidden_state, base(**batch).last_hidden_state)


def test_merging_is_refused_and_changes_nothing(make_model, batch):
    model = make_model()
    before = predict(model, batch)
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(ValueError, match=r"cannot be merged.*unload"):
            merge()
    answers_equal(predict(model, batch), before)


def test_a_copy_is_a_model_of_its_own(make_model, batch):
    model, other = make_model(), make_model()
    before = predict(model, batch)
    other.forget("films")
    for duplicate in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        answers_equal(predict(duplicate, batch), before)
        duplicate.forget("films")
        answers_equal(predict(duplicate, batch), predict(other, batch))
        assert knowledge_of(model).names == ["films", "news", "answers", "names"]
        answers_equal(predict(model, batch), before)
        assert lifelong_of(duplicate) is not lifelong_of(model)


def test_the_manifest_is_readable_json(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    text = (tmp_path / "adapter_config.json").read_text()
    assert "NaN" not in text
    stored = json.loads(text)
    assert stored["peft_type"] == "DRIFT"
    assert [t["name"] for t in stored["knowledge"]["tasks"]] == ["films", "news", "answers", "names"]
    assert stored["target_modules"] == sorted(stored["target_modules"])


def test_adapters_of_one_model_may_have_other_targets(make_model, bert_folder, batch, tmp_path):
    wide, narrow = make_model("bert"), make_model("bert", target_modules=["value"])
    for name, model in (("wide", wide), ("narrow", narrow)):
        model.save_pretrained(tmp_path / name)
    both = PeftModel.from_pretrained(AutoModel.from_pretrained(bert_folder, dtype=torch.float32), tmp_path / "wide")
    both.load_adapter(tmp_path / "narrow", "other")
    for name, right in (("other", narrow), ("default", wide), ("other", narrow)):
        both.set_adapter(name)
        answers_equal(predict(both, batch), predict(right, batch))
