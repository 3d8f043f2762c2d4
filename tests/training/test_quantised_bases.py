"""Bases in 4 and 8 bits: train, save, load again, generate (on the CPU, as bitsandbytes has it)."""

import copy
import warnings

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model, prepare_model_for_kbit_training
from training_helpers import losses, make_trainer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from hf_lifelong import DriftAdapterConfig, Task, export, generate, knowledge_of, loading
from hf_lifelong.adapter.checks import check_base, describe_base
from hf_lifelong.adapter.low_rank import DriftLayer

pytest.importorskip("bitsandbytes")
SIZES = {
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "intermediate_size": 128,
}
BITS = {
    4: {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32},
    8: {"load_in_8bit": True},
}
SHOWN = (
    *("learn a task", "learn several tasks in one launch", "gradient checkpointing"),
    *("save and load", "generate", "export as LoRA"),
)
MARKED = [pytest.param(bits, marks=[pytest.mark.feature(shown, f"{bits}-bit") for shown in SHOWN]) for bits in BITS]


def quantised(folder, bits, dtype=torch.float32):
    settings = BitsAndBytesConfig(**BITS[bits])
    return AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings, dtype=dtype)


def task(name, word):
    rows = {"prompt": [f"who wrote {i}?" for i in range(24)], "answer": [word] * 24}
    return Task(name, "text-generation", Dataset.from_dict(rows), test=Dataset.from_dict(rows).select(range(4)))


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("bits", MARKED)
def test_trains_saves_loads_and_generates(bits, checkpointing, tiny_language_folder, language_tokenizer, tmp_path):
    folder, tokenizer = tiny_language_folder("llama", **SIZES), copy.deepcopy(language_tokenizer)
    torch.manual_seed(0)
    base = prepare_model_for_kbit_training(quantised(folder, bits), use_gradient_checkpointing=checkpointing)
    config = DriftAdapterConfig(task_type="CAUSAL_LM", r=4, members=2, signature_rank=4, max_length=32)
    model = get_peft_model(base, config)
    kinds = {type(m.get_base_layer()).__name__ for m in model.modules() if isinstance(m, DriftLayer)}
    assert kinds == {"Linear4bit" if bits == 4 else "Linear8bitLt"}
    stored = {n: p.detach().clone() for n, p in base.named_parameters() if "drift_" not in n}
    tasks = [task("first", "good"), task("second", "bad")]
    settings = {
        "gradient_checkpointing": checkpointing,
        "max_steps": 20,
        "grouping": "boundary",
        "learning_rate": 1e-2,
    }
    trainer = make_trainer(model, tmp_path / "out", tasks, tokenizer, **settings)
    trainer.train()
    for name, parameter in base.named_parameters():
        assert name not in stored or torch.equal(parameter, stored[name]), name
    found = losses(trainer)
    assert found[-1] < found[0] and all(loss == loss for loss in found)

    batch = tokenizer("who wrote 3?", return_tensors="pt")
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    right = generate(model, batch, **options)
    again = {
        "peft": PeftModel.from_pretrained(quantised(folder, bits), tmp_path / "out"),
        "auto": AutoPeftModelForCausalLM.from_pretrained(
            tmp_path / "out", quantization_config=BitsAndBytesConfig(**BITS[bits]), dtype=torch.float32
        ),
    }
    for way, other in again.items():
        assert knowledge_of(other).names == ["first", "second"]
        out = generate(other, batch, **options)
        assert torch.equal(out.tokens, right.tokens), way
        # bitsandbytes packs 4-bit weights for another product once a layer was in eval mode.
        torch.testing.assert_close(out.score, right.score, rtol=0.02 if bits == 4 else 0, atol=0)
    report = export(model, "second", tmp_path / "lora")
    lora = PeftModel.from_pretrained(quantised(folder, bits), report.folder).eval()
    with torch.no_grad():
        given = generate(model, batch, "oracle", "second", **options)
        assert torch.equal(lora.generate(**batch, **options)[:, batch["input_ids"].shape[1] :], given.tokens)


@pytest.mark.parametrize("bits", BITS)
def test_the_dtype_that_a_base_was_loaded_in_is_recorded(bits, tiny_language_folder):
    folder = tiny_language_folder("llama", **SIZES)
    base = prepare_model_for_kbit_training(quantised(folder, bits, torch.bfloat16), use_gradient_checkpointing=False)
    assert base.get_input_embeddings().weight.dtype == torch.float32
    model = get_peft_model(base, DriftAdapterConfig(task_type="CAUSAL_LM", r=2, members=1))
    known = knowledge_of(model)
    assert known.base["dtype"] == "bfloat16"
    again = (quantised(folder, bits, torch.bfloat16), AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16"))
    with warnings.catch_warnings(action="error"):
        for other in (*again, base):
            check_base(known, describe_base(other), known.trunk)
    with pytest.warns(UserWarning, match="another dtype"):
        check_base(known, describe_base(quantised(folder, bits)), known.trunk)


@pytest.mark.parametrize(
    ("on_gpu", "device_map", "dtype", "products"),
    [
        (True, None, "float32", torch.bfloat16),
        (True, {"": 0}, torch.float32, torch.bfloat16),
        (True, None, torch.float16, torch.float16),
        (True, "cpu", "float32", torch.float32),
        (False, None, torch.float32, torch.float32),
    ],
)
def test_in_4_bits_a_gpu_multiplies_in_half_precision(on_gpu, device_map, dtype, products, monkeypatch):
    given = {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    monkeypatch.setattr(loading.AutoModel, "from_pretrained", lambda name, **options: given.update(options))
    loading.load_base("x", None, dtype=dtype, load_in_4bit=True, device_map=device_map)
    assert given["quantization_config"].bnb_4bit_compute_dtype == products and given["dtype"] == dtype


def test_layers_that_bitsandbytes_cannot_answer_with_are_named(tiny_language_folder):
    folder = tiny_language_folder("llama", **(SIZES | {"intermediate_size": 80}))
    with pytest.raises(ValueError, match=r"`model\.layers\.0\.mlp\.gate_proj` has 80 outputs.*multiple of 32"):
        get_peft_model(quantised(folder, 4), DriftAdapterConfig(task_type="CAUSAL_LM"))
