"""An 8-billion-parameter base in 4 bits: training and answering against PEFT LoRA, speed and memory only.

    python benchmarks/gpu_8b.py                                # on one GPU of 24 GB or more
    python benchmarks/gpu_8b.py --tiny --out tiny.json         # the same code on a CPU, to see that it runs

A Llama-shaped model with random weights, NF4 with bf16 products; the same rank and modules (those above the trunk) for
both; the rounds of the two alternate, and a ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from pathlib import Path
from typing import Any

import bitsandbytes as bnb
import torch
from generation import teach
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from record import RESULTS, header
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig
from transformers.integrations.bitsandbytes import replace_with_bnb_linear

from hf_lifelong import DriftAdapterConfig
from hf_lifelong.adapter import close_task, open_task
from hf_lifelong.memory import estimate_memory

SHAPE = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}
TINY = {**SHAPE, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1}
TINY |= {"intermediate_size": 128, "vocab_size": 512}
SHARED = {"max_position_embeddings": 4096, "tie_word_embeddings": False}
ADAPTER = {"task_type": "CAUSAL_LM", "r": 8, "members": 5}
TRAIN_BATCH, ANSWER_BATCH, TOKENS, NEW_TOKENS = 4, 8, 512, 32


def random_base(shape: dict[str, int], device: str) -> Any:
    """A Llama with random weights, its linear layers in 4 bits, made layer by layer so that it never exists whole."""
    config = LlamaConfig(**SHARED, **shape)
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = replace_with_bnb_linear(model, modules_to_not_convert=["lm_head"], quantization_config=quantisation)
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            shape = module.out_features, module.in_features
            weight = torch.randn(shape, dtype=torch.bfloat16, device=device) * 0.02
            module.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4").to(device)
            continue
        for name, parameter in module.named_parameters(recurse=False):
            values = torch.ones if parameter.dim() == 1 else torch.randn
            fresh = values(parameter.shape, dtype=torch.bfloat16, device=device) * (
                1 if parameter.dim() == 1 else 0.02
            )
            setattr(module, name, torch.nn.Parameter(fresh, requires_grad=False))
    model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    model.is_loaded_in_4bit = model.is_quantized = True
    model.config.quantization_config = quantisation
    return model


def synchronised() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def train_step(model: Any, optimizer: Any, ids: torch.Tensor) -> float:
    start = synchronised()
    model.train()
    model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return synchronised() - start


@torch.inference_mode()
def answer(model: Any, ids: torch.Tensor, new: int) -> float:
    model.eval()
    start = synchronised()
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
    model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
    return synchronised() - start


def allocated() -> int:
    """Bytes of all tensors on the GPU, 0 without one."""
    gc.collect()
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def measured(own: int, function: Any) -> tuple[float, int]:
    """Seconds, and the most bytes on the GPU: those of the model itself and what came on top of both models."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        seconds = function()
        return seconds, torch.cuda.max_memory_allocated() - before + own
    return function(), 0


def run(shape: dict[str, int], rounds: int, groups: int, tokens: int) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    ids = torch.randint(5, shape["vocab_size"], (ANSWER_BATCH, tokens), device=device)

    def base() -> Any:
        return prepare_model_for_kbit_training(random_base(shape, device), use_gradient_checkpointing=True)

    ours = get_peft_model(base(), DriftAdapterConfig(**ADAPTER))
    teach(ours, groups, 5, ids)
    open_task(ours, "text-generation", (), 0)
    own = {"ours": allocated()}
    targets = sorted(ours.peft_config["default"].target_modules)
    lora = get_peft_model(base(), LoraConfig(r=8, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM"))
    own["lora"] = allocated() - own["ours"]
    models = {"ours": ours, "lora": lora}
    taken: dict[str, dict[str, list[float]]] = {n: {"train": [], "prefill": [], "answer": []} for n in models}
    peak = {name: {"train": 0, "answer": 0} for name in models}
    optimizers = {
        name: torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        for name, model in models.items()
    }
    order = list(models)
    for i in range(rounds + 1):
        for name in order if i % 2 else order[::-1]:
            model = models[name]
            seconds, size = measured(own[name], lambda: train_step(model, optimizers[name], ids[:TRAIN_BATCH]))  # noqa: B023
            if i:  # the first round warms up
                taken[name]["train"].append(seconds)
            peak[name]["train"] = max(peak[name]["train"], size)
    close_task(ours)
    for i in range(rounds + 1):
        for name in order if i % 2 else order[::-1]:
            model = models[name]
            prefill, _ = measured(own[name], lambda: answer(model, ids, 1))  # noqa: B023
            seconds, size = measured(own[name], lambda: answer(model, ids, NEW_TOKENS))  # noqa: B023
            if i:
                taken[name]["prefill"].append(prefill)
                taken[name]["answer"].append(seconds)
            peak[name]["answer"] = max(peak[name]["answer"], size)
    return {
        "taken": taken,
        "peak_bytes": peak,
        "estimated_bytes": estimated(shape, groups, tokens, device),
        "trunk_layers": ours.lifelong.conductor.trunk,
    }


def estimated(shape: dict[str, int], groups: int, tokens: int, device: str) -> dict[str, int]:
    """What `estimate_memory` says of our training step and answer."""
    config, adapter = LlamaConfig(**SHARED, **shape), DriftAdapterConfig(**ADAPTER)
    asked = {"bits": 4, "tasks": groups, "length": tokens, "new_tokens": NEW_TOKENS, "device": device}
    train = estimate_memory(config, adapter, batch_size=TRAIN_BATCH, gradient_checkpointing=True, **asked)
    answer = estimate_memory(config, adapter, batch_size=ANSWER_BATCH, **asked)
    return {"train": train.training, "answer": answer.answering}


def summarise(found: dict[str, Any], tokens: int) -> dict[str, Any]:
    middle = {n: {p: statistics.median(v) for p, v in parts.items()} for n, parts in found["taken"].items()}
    decode = {n: (m["answer"] - m["prefill"]) / (NEW_TOKENS - 1) for n, m in middle.items()}
    summary: dict[str, Any] = {
        "step_time_ratio": round(middle["ours"]["train"] / middle["lora"]["train"], 4),
        "prefill_ratio": round(middle["ours"]["prefill"] / middle["lora"]["prefill"], 4),
        "decode_ratio": round(decode["ours"] / decode["lora"], 4),
    }
    for name in middle:
        summary[f"{name}_training_tokens_per_second"] = round(TRAIN_BATCH * tokens / middle[name]["train"], 1)
        summary[f"{name}_answering_tokens_per_second"] = round(ANSWER_BATCH / decode[name], 1)
        for part, size in found["peak_bytes"][name].items():
            summary[f"{name}_{part}_peak_gib"] = round(size / 2**30, 3) if size else None
    for part, size in found["estimated_bytes"].items():
        summary[f"ours_{part}_estimated_gib"] = round(size / 2**30, 3)
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--groups", type=int, default=10)
    parser.add_argument("--tiny", action="store_true", help="a tiny shape, to see on a CPU that it runs")
    parser.add_argument("--out", default=str(RESULTS / "gpu_8b.json"))
    args = parser.parse_args()
    if not args.tiny and not torch.cuda.is_available():
        raise SystemExit("No GPU here: the full shape needs one. Give `--tiny` to see that the script runs.")
    tokens = 32 if args.tiny else TOKENS
    shape = TINY if args.tiny else SHAPE
    found = run(shape, args.rounds, args.groups, tokens)
    head = header("python benchmarks/gpu_8b.py")
    settings = {"shape": shape, "tokens": tokens, "train_batch": TRAIN_BATCH, "answer_batch": ANSWER_BATCH}
    result = {**head, "settings": settings, "summary": summarise(found, tokens), "rows": [found]}
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result["summary"], indent=1))


if __name__ == "__main__":
    main()
