"""Estimates of memory against what real models, trainings and passes take."""

import json
import math
import resource
import time
from itertools import pairwise

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig
from transformers.models.bert.modeling_bert import BertLayer

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, Task, generate, predict
from hf_lifelong.adapter import lifelong_of
from hf_lifelong.adapter.bank import add_task, close_task, open_task, take_snapshot
from hf_lifelong.knowledge import LearnedTask, fit_signature
from hf_lifelong.memory import estimate_memory
from hf_lifelong.memory.tracing import LikeCpu, LikeCuda, LiveBytes, resident_tensors, size_of

ADAPTER = {"r": 4, "members": 2, "max_length": 32, "stride": 8, "signature_rank": 4, "max_new_tokens": 8}
LLAMA_8B = LlamaConfig(
    hidden_size=4096,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
    intermediate_size=14336,
    vocab_size=128256,
)
QUANTISED = {
    "4 bits": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "4 bits, constants in 8": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
    },
    "8 bits": {"load_in_8bit": True},
}


@pytest.fixture
def base(tiny_folder, tiny_language_folder):
    """`base(model_type)`: folder of a tiny base, and the adapter's configuration for it."""

    def make(model_type, **config):
        causal = model_type in ("gpt2", "llama")
        folder = (tiny_language_folder if causal else tiny_folder)(model_type)
        task_type = "CAUSAL_LM" if causal else "FEATURE_EXTRACTION"
        return folder, DriftAdapterConfig(task_type=task_type, **ADAPTER, **config)

    return make


def learner(folder, config, dtype=torch.float32, **options):
    """A real model that is learning a task, and a batch of padded rows for it."""
    causal = config.task_type == "CAUSAL_LM"
    auto = AutoModelForCausalLM if causal else AutoModel
    model = get_peft_model(auto.from_pretrained(folder, dtype=dtype, **options), config)
    open_task(model, *(("text-generation", (), 0) if causal else ("text-classification", ("no", "yes"), 2)))
    model.train()
    ids = torch.arange(4 * 32).view(4, 32) % 300
    mask = torch.ones_like(ids)
    mask[0, :8] = 0
    mask = mask if causal else mask.flip(1)
    rest = {"labels": ids, "use_cache": False} if causal else {"labels": ids[:, 0] % 2}
    return model, {"input_ids": ids, "attention_mask": mask}, rest


def small(folder, config, **options):
    settings = {"bits": 32, "batch_size": 4, "length": 32, "device": "cpu", **options}
    return estimate_memory(folder, config, **settings)


@pytest.mark.parametrize(("bits", "dtype"), [(32, torch.float32), (16, torch.bfloat16)])
@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_a_base_takes_the_bytes_of_its_weights(model_type, bits, dtype, base):
    folder, config = base(model_type)
    auto = AutoModelForCausalLM if model_type != "bert" else AutoModel
    real = auto.from_pretrained(folder, dtype=dtype)
    found = small(folder, config, bits=bits)
    assert found.base == size_of([*real.parameters(), *real.buffers()])
    assert found.parameters == real.num_parameters()


def test_weights_and_cache_of_a_llama_are_those_counted_by_hand(base):
    folder, config = base("llama")
    found = small(folder, config)
    hidden, inner, tokens, head = 32, 64, 320, 16
    attention = [(hidden, 2 * head), (hidden, head), (hidden, head), (2 * head, hidden)]
    linear = [*attention, (hidden, inner), (hidden, inner), (inner, hidden)]
    weights = 4 * (sum(i * o for i, o in linear) + 2 * hidden) + 2 * tokens * hidden + hidden
    frequencies = 2 * head // 2  # as they are, and as they were at first
    assert (found.parameters, found.base) == (weights, 4 * (weights + frequencies))
    assert found.trainable == 3 * sum(4 * i + o * 4 for i, o in linear)  # rank 4, above a trunk of one layer
    assert found.adapter == found.gradients == 4 * found.trainable
    assert found.cache == 4 * 4 * 2 * head * (32 + 8 - 1) * 4  # layers, rows, keys and values; the last is not fed


@pytest.mark.parametrize("quantised", QUANTISED)
@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_quantised_layers_take_what_those_of_bitsandbytes_take(model_type, quantised, base, tiny_language_folder):
    pytest.importorskip("bitsandbytes")
    settings = BitsAndBytesConfig(**QUANTISED[quantised])
    folder, config = base(model_type)
    real = AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings, dtype=torch.bfloat16)
    tensors = [*real.parameters(), *real.buffers()]
    before = size_of(tensors)
    for module in real.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            nested = [] if state.state2 is None else [state.offset, state.state2.absmax, state.state2.code]
            tensors += [state.absmax, state.code, *nested]
        if type(module).__name__ == "Linear8bitLt":
            tensors.append(module.weight.SCB)
    found = small(folder, config, bits=settings)
    assert found.base == size_of(tensors)
    prepare_model_for_kbit_training(real, use_gradient_checkpointing=False)
    assert found.upcast == size_of([*real.parameters(), *real.buffers()]) - before
    assert small(folder, config, bits=settings, prepared=False).upcast == 0
    stored = AutoConfig.from_pretrained(folder, dtype="bfloat16")
    stored.quantization_config = settings.to_dict()
    assert small(stored, config, bits=None).base == found.base


def test_known_tasks_adapter_and_optimiser_take_what_a_trained_model_holds(base, tokenizer, tmp_path):
    folder, config = base("bert")
    model = get_peft_model(AutoModel.from_pretrained(folder, dtype=torch.float32), config)
    rows = Dataset.from_dict({"text": [f"text {i}" for i in range(20)], "label": ["no", "yes"] * 10})
    rows = rows.class_encode_column("label")
    tasks = [Task(name, "text-classification", rows, test=rows) for name in ("first", "second")]
    arguments = {"max_steps": 2, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    trainer = DriftTrainer(
        model,
        DriftTrainingArguments(str(tmp_path), grouping="boundary", **arguments),
        tasks=tasks,
        processing_class=tokenizer,
    )
    trainer.train()
    found = small(folder, config, tasks=2)
    parts = ("drift_bank", "drift_signature", "drift_closed")
    kept = [p for n, p in model.named_parameters() if any(part in n for part in parts)]
    assert found.knowledge == size_of(kept)
    optimizer = trainer.optimizer
    optimizer = getattr(optimizer, "optimizer", optimizer)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    assert found.trainable == sum(p.numel() for p in trained)
    assert found.adapter == found.gradients == size_of(trained)
    states = [value for state in optimizer.state.values() for value in state.values()]
    assert found.optimizer == size_of(value for value in states if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("optimizer", ["adafactor", "adamw_8bit", "sgd"])
def test_other_optimisers_take_what_they_really_keep(optimizer, base):
    folder, config = base("bert", target_modules=["dense"])
    model, batch, rest = learner(folder, config)
    trained = [p for p in model.parameters() if p.requires_grad]
    if optimizer == "adafactor":
        from transformers.optimization import Adafactor

        made = Adafactor(trained, lr=1e-3, relative_step=False, scale_parameter=False)
    elif optimizer == "sgd":
        made = torch.optim.SGD(trained, lr=1e-3)
    else:
        made = pytest.importorskip("bitsandbytes").optim.AdamW8bit(trained, lr=1e-3)
    model(**batch, **rest).loss.backward()
    made.step()
    states = [v for s in made.state.values() for k, v in s.items() if "qmap" not in k and k != "RMS"]
    real = size_of(value for value in states if isinstance(value, torch.Tensor))
    assert small(folder, config, optimizer=optimizer).optimizer == real


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("model_type", ["bert", "gpt2", "llama"])
def test_a_training_step_keeps_and_takes_what_a_real_one_does(model_type, checkpointing, attention, base):
    folder, config = base(model_type)
    model, batch, rest = learner(folder, config, attn_implementation=attention)
    if checkpointing:
        model.gradient_checkpointing_enable()
    given = [*batch.values(), rest["labels"]]
    resident = size_of(resident_tensors(model))
    with LiveBytes([*resident_tensors(model), *given]) as live:
        loss = model(**batch, **rest).loss
        kept = live.now
        loss.backward()
    found = small(folder, config, attention=attention, gradient_checkpointing=checkpointing)
    assert found.activations == kept - loss.nbytes
    assert found.training - found.knowledge - found.projection - found.optimizer == pytest.approx(
        resident + live.peak, abs=3 * size_of(given)
    )


@pytest.mark.parametrize("model_type", ["distilbert", "gpt2", "llama"])
def test_what_is_kept_for_the_backward_pass_are_the_saved_tensors(model_type, base):
    folder, config = base(model_type)
    model, batch, rest = learner(folder, config)
    others = {t.untyped_storage().data_ptr() for t in (*resident_tensors(model), *batch.values(), rest["labels"])}
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor
    ):
        model(**batch, **rest)
    saved = [tensor for tensor in saved if tensor.untyped_storage().data_ptr() not in others]
    assert small(folder, config).activations == size_of(saved)


@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_an_answer_takes_what_a_real_one_does(model_type, base):
    folder, config = base(model_type)
    found = small(folder, config)
    model, batch, _ = learner(folder, config)
    kind, labels = ("text-generation", ()) if model_type == "llama" else ("text-classification", ("no", "yes"))
    classes = max(1, len(labels))
    task = LearnedTask("task", kind, labels, len(labels), 2, "task", 8, classes=classes)
    features = torch.randn(8, lifelong_of(model).features)
    add_task(model, task, [take_snapshot(model)] * 2, fit_signature(features, 4, torch.arange(8) % classes, classes))
    close_task(model)
    resident = size_of(resident_tensors(model))
    with LiveBytes(resident_tensors(model)) as live:
        if model_type == "bert":
            predict(model, batch)
        else:
            generate(model, batch, max_new_tokens=8, min_new_tokens=8, do_sample=False, pad_token_id=0)
    assert found.answering == pytest.approx(resident + live.peak, rel=0.01)


@pytest.mark.parametrize("model_type", ["bert", "llama"])
def test_more_rows_and_longer_ones_take_more_and_checkpointing_takes_less(model_type, base):
    folder, config = base(model_type)
    # Large enough that passes take more than what is computed once, before the first answer.
    sizes = [small(folder, config, batch_size=b, length=n) for b, n in ((32, 32), (64, 32), (64, 64), (128, 64))]
    for name in ("activations", "training", "answering"):
        values = [getattr(found, name) for found in sizes]
        assert values == sorted(set(values)), name
    less = small(folder, config, batch_size=128, length=64, gradient_checkpointing=True)
    assert less.activations < sizes[-1].activations / 2 and less.training < sizes[-1].training
    assert less.answering == sizes[-1].answering
    assert small(folder, config, tasks=3).knowledge == 3 * small(folder, config).knowledge


def test_the_trunk_keeps_nothing_for_the_backward_pass(base):
    kept = []
    for trunk_depth in (0.0, 0.25, 0.5, 0.75):
        folder, config = base("llama", trunk_depth=trunk_depth)
        kept.append(small(folder, config).activations)
    steps = [a - b for a, b in pairwise(kept)]
    assert steps[1] == steps[2] and min(steps) > 0


def test_cuda_keeps_one_byte_for_each_element_of_a_dropout(base):
    folder, config = base("bert")
    assert small(folder, config, device="cuda").activations < small(folder, config).activations


@pytest.mark.parametrize(("dtype", "copies"), [(torch.bfloat16, 3), (torch.float32, 0)])
def test_a_cpu_copies_the_head_for_each_last_token_in_half_precision(dtype, copies):
    hidden, weight = torch.ones(3, 7, 4, dtype=dtype), torch.ones(1000, 4, dtype=dtype)

    def taken(rows, **more):
        with LiveBytes([hidden, weight]) as live, LikeCpu():
            scores = functional.linear(rows, weight=weight[:, : rows.shape[-1]], **more)
            assert live.now == size_of([scores])
            return live.peak - live.now

    assert taken(hidden[:, -1:]) == copies * size_of([weight])
    assert taken(hidden[:1, -1:]) == (copies > 0) * size_of([weight])  # lies side by side, but torch does not see it
    assert taken(hidden) == taken(hidden[..., :2]) == 0


def test_autocast_keeps_norms_and_softmax_in_float32_on_cuda():
    x = torch.randn(2, 8, dtype=torch.bfloat16)
    for autocast, dtype in ((True, torch.float32), (False, torch.bfloat16)):
        with LikeCuda(autocast):
            assert functional.layer_norm(x, (8,), weight=x[0]).dtype == dtype
            assert functional.softmax(x, -1).dtype == dtype


def test_autocast_keeps_less_of_a_base_in_float32(base):
    folder, config = base("gpt2")
    sizes = [small(folder, config, autocast=on, device="cuda").activations for on in (True, False)]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("retrieval", ["uncertainty", "cascade"])
def test_a_language_model_that_asks_its_members_takes_more(retrieval, base):
    sizes = []
    for options in ({}, {"retrieval": retrieval}):
        folder, config = base("llama", **options)
        sizes.append(small(folder, config, tasks=3).answering)
    assert sizes[0] < sizes[1]


def test_members_that_run_one_by_one_take_more_than_merged_ones(base):
    sizes = {}
    for name, options in {
        "merged": {},
        "ensemble": {"answer": "ensemble"},
        "all": {"retrieval": "uncertainty"},
    }.items():
        folder, config = base("bert", **options)
        sizes[name] = small(folder, config, tasks=4, batch_size=64).answering
    assert sizes["merged"] < sizes["ensemble"] < sizes["all"]


def test_a_model_is_estimated_as_its_folder_is_and_left_as_it_is(base):
    folder, config = base("bert")
    model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    before = {name: id(module) for name, module in model.named_modules()}, config.to_dict()
    found = estimate_memory(model, config)
    assert ({name: id(module) for name, module in model.named_modules()}, config.to_dict()) == before
    sizes = found.to_dict(), estimate_memory(folder, config, bits=32).to_dict()
    assert all(size.pop("settings") for size in sizes) and sizes[0] == sizes[1]


def test_eight_billion_weights_are_estimated_in_seconds_and_take_no_memory():
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    config = DriftAdapterConfig(task_type="CAUSAL_LM")
    found = estimate_memory(LLAMA_8B, config, bits=4, batch_size=4, length=512, gradient_checkpointing=True)
    assert time.process_time() - start < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # KiB
    assert found.parameters == 8_030_261_248
    assert 5.5 * 2**30 < found.base < 6 * 2**30 < found.answering < found.training < 16 * 2**30


def test_an_estimate_is_json_and_a_table(base):
    folder, config = base("llama")
    found = small(folder, config)
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()
    assert str(found) == found.table()
    lines = found.table().splitlines()
    assert "length=32" in lines[0] and lines[1].startswith("base (")
    assert [line.split("  ")[0] for line in lines[-3:]] == ["PEAK, loading", "PEAK, training", "PEAK, answering"]
    assert lines[-2].endswith(f"{found.training / 2**20:,.1f} MiB")
    assert not any(line.startswith("projection") for line in lines)  # of nothing there is no line
    assert math.isclose(found.loading, found.base + found.knowledge + found.adapter)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 2}, r"`bits` is 2; choose one of \[4, 8, 16, 32\], or give a `BitsAndBytesConfig`"),
        ({"batch_size": 0}, "`batch_size` is 0; it must be an integer of at least 1"),
        ({"tasks": True}, "`tasks` is True; it must be an integer of at least 1"),
        ({"labels": 1}, "`labels` is 1; it must be an integer of at least 2"),
        ({"length": 1.5}, r"`length` is 1\.5; it must be an integer of at least 1"),
        ({"length": 161}, "`length` .* asks for 161 tokens, but the base reads at most 160"),
        ({"optimizer": "adam"}, r"`optimizer` is 'adam'; choose one of \['adamw_torch', .*'sgd'\]"),
        ({"attention": "flash"}, r"`attention` is 'flash'; choose one of \[None, 'sdpa', 'eager'\]"),
        ({"device": "tpu"}, r"`device` is 'tpu'; choose one of \['cuda', 'cpu'\]"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(options, message, base):
    folder, config = base("bert")
    with pytest.raises(ValueError, match=message):
        estimate_memory(folder, config, **options)


def test_a_base_that_depends_on_numbers_is_refused(base, monkeypatch):
    folder, config = base("bert")
    monkeypatch.setattr(BertLayer, "forward", lambda layer, hidden_states, *args, **kwargs: hidden_states.nonzero())
    message = r"`model`: `BertModel` cannot be run without numbers, .*nonzero.*, so it cannot be estimated"
    with pytest.raises(ValueError, match=message):
        small(folder, config)


def test_bases_that_cannot_be_used_are_named(base, tmp_path):
    folder, _ = base("bert")
    with pytest.raises(ValueError, match=r"`model` must be a Hub id, a folder, a configuration or a model, not `int`"):
        estimate_memory(3)
    with pytest.raises(ValueError, match="`config` must be a `DriftAdapterConfig`, not `LoraConfig`"):
        estimate_memory(folder, LoraConfig())
    with pytest.raises(ValueError, match=r"`model` is .*, whose configuration cannot be read"):
        estimate_memory(tmp_path)
    config = AutoConfig.from_pretrained(folder)
    config.quantization_config = {"quant_method": "gptq", "bits": 4}
    with pytest.raises(ValueError, match="`model` is quantised by 'gptq', which cannot be estimated; give `bits`"):
        estimate_memory(config)


def test_members_that_rest_off_the_device_are_not_counted(bert_folder):
    every, some, none = (
        estimate_memory(bert_folder, DriftAdapterConfig(r=4, members=2, resident_groups=most), tasks=8, length=16)
        for most in (None, 2, 20)
    )
    bank = every.knowledge - some.knowledge
    assert bank > 0 and every.answering - some.answering == every.training - some.training == bank
    assert {**none.to_dict(), "settings": None} == {**every.to_dict(), "settings": None}
