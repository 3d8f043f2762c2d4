"""What `estimate_memory` says against what a real run takes; and which bases fit on which GPU.

    python benchmarks/memory.py --model all-minilm-l6     # measures, on the GPU where there is one and on the CPU
    python benchmarks/memory.py --table                   # what fits, estimated
    python benchmarks/memory.py --model MODEL --tiny --out tiny.json      # to see that it runs

Every measurement is a process of its own: the peak of two training steps (AdamW, gradient noise) or of one answer,
of padded rows. On a GPU it is `torch.cuda.max_memory_allocated`. On the CPU it is the most memory that the process
held, less what it held before there was a model; glibc is told to give back at once what is freed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from generation import teach
from peft import get_peft_model
from record import RESULTS, header
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    Dinov2Config,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
)

from hf_lifelong import DriftAdapterConfig, predict
from hf_lifelong.adapter import add_task, close_task, open_task, take_snapshot, trunk_features
from hf_lifelong.knowledge import LearnedTask, fit_signature
from hf_lifelong.memory import MemoryEstimate, estimate_memory
from hf_lifelong.training import gradient_noise_hook

GPT2 = {"vocab_size": 50257, "n_positions": 1024}
LLAMA = {
    "hidden_size": 1024,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "intermediate_size": 2816,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
}
DINOV2 = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 518}
ENCODERS = ("minilm", "dinov2")
# Base, what the estimate is told, and what is measured.
CASES: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("minilm", {"bits": 32, "batch_size": 32, "length": 128}, "training"),
    ("minilm", {"bits": 32, "batch_size": 32, "length": 128, "gradient_checkpointing": True}, "training"),
    ("minilm", {"bits": 32, "batch_size": 16, "length": 512}, "training"),
    ("minilm", {"bits": 32, "batch_size": 32, "length": 128, "attention": "eager"}, "training"),
    ("minilm", {"bits": 32, "batch_size": 128, "length": 256}, "answering"),
    ("dinov2", {"bits": 32, "batch_size": 16, "length": 98}, "training"),
    ("dinov2", {"bits": 32, "batch_size": 16, "length": 224}, "training"),
    ("dinov2", {"bits": 32, "batch_size": 16, "length": 224, "gradient_checkpointing": True}, "training"),
    ("dinov2", {"bits": 32, "batch_size": 32, "length": 224}, "answering"),
    ("gpt2", {"bits": 32, "batch_size": 8, "length": 256}, "training"),
    ("gpt2", {"bits": 32, "batch_size": 8, "length": 256, "gradient_checkpointing": True}, "training"),
    ("gpt2", {"bits": 32, "batch_size": 8, "length": 256, "new_tokens": 16, "tasks": 4}, "answering"),
    ("llama", {"bits": 32, "batch_size": 4, "length": 256}, "training"),
    ("llama", {"bits": 32, "batch_size": 4, "length": 256, "gradient_checkpointing": True}, "training"),
    ("llama", {"bits": 32, "batch_size": 4, "length": 256, "r": 64, "optimizer": "adafactor"}, "training"),
    ("llama", {"bits": 16, "batch_size": 4, "length": 256}, "training"),
    ("llama", {"bits": 16, "batch_size": 4, "length": 256, "autocast": True}, "training"),
    ("llama", {"bits": 32, "batch_size": 1, "length": 1024, "new_tokens": 16}, "answering"),
    ("llama", {"bits": 16, "batch_size": 8, "length": 512, "new_tokens": 16, "tasks": 4}, "answering"),
)
TINY: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("minilm", {"bits": 32, "batch_size": 4, "length": 32}, "training"),
)
# Billions of weights → hidden size, layers, heads, key and value heads, inner size, tokens: Llama 1, 2, 3 and 3.2,
# Yi 34B.
BASES = {
    1: (2048, 16, 32, 8, 8192, 128256),
    3: (3072, 28, 24, 8, 8192, 128256),
    8: (4096, 32, 32, 8, 14336, 128256),
    13: (5120, 40, 40, 40, 13824, 32000),
    34: (7168, 60, 56, 8, 20480, 64000),
    70: (8192, 80, 64, 8, 28672, 128256),
}
TABLE = {"bits": 4, "batch_size": 4, "length": 512, "new_tokens": 128}
GPUS = (24, 40, 80)
SPARE = 2**30  # CUDA's context and workspaces


def base_config(base: str, model: str) -> PretrainedConfig:
    if base == "minilm":
        return AutoConfig.from_pretrained(model)
    if base == "dinov2":
        return Dinov2Config(**DINOV2)
    return GPT2Config(**GPT2) if base == "gpt2" else LlamaConfig(**LLAMA)


def adapter_config(base: str, settings: dict[str, Any]) -> DriftAdapterConfig:
    task_type = "FEATURE_EXTRACTION" if base in ENCODERS else "CAUSAL_LM"
    return DriftAdapterConfig(r=settings.get("r", 8), task_type=task_type)


def estimate(base: str, model: str, settings: dict[str, Any], device: str) -> MemoryEstimate:
    asked = {name: value for name, value in settings.items() if name != "r"}
    config = base_config(base, model)
    return estimate_memory(config, adapter_config(base, settings), device=device, **asked)


def padded(base: str, settings: dict[str, Any], device: str, length: int | None = None) -> dict[str, torch.Tensor]:
    """Random images; or random rows, the first of which is padded: on the right for an encoder, else on the left."""
    if base == "dinov2":
        side = length or settings["length"]
        return {"pixel_values": torch.randn(settings["batch_size"], 3, side, side, device=device)}
    ids = torch.randint(5, 1000, (settings["batch_size"], length or settings["length"]), device=device)
    mask = torch.ones_like(ids)
    mask[0, : ids.shape[1] // 4] = 0
    return {"input_ids": ids, "attention_mask": mask.flip(1) if base == "minilm" else mask}


def learner(config: PretrainedConfig, base: str, settings: dict[str, Any], device: str) -> Any:
    """A base with random weights and an adapter that knows some tasks."""
    dtype = torch.float32 if settings["bits"] == 32 else torch.bfloat16
    auto = AutoModel if base in ENCODERS else AutoModelForCausalLM
    options = {"attn_implementation": settings["attention"]} if "attention" in settings else {}
    with torch.device(device):
        loaded = auto.from_config(config, dtype=dtype, **options)
    adapter = adapter_config(base, settings)
    model = get_peft_model(loaded, adapter)
    # As many rows as tasks, so that the signature of each task lies at a row of its own.
    batch = padded(base, {"batch_size": settings.get("tasks", 1)}, device, 28 if base == "dinov2" else 16)
    if base not in ENCODERS:
        teach(model, settings.get("tasks", 1), adapter.members, batch["input_ids"])
        return model
    batch.pop("attention_mask", None)
    features, kind = trunk_features(model, batch).cpu(), kind_on(base)
    open_task(model, kind, ("no", "yes"), 2)
    learned = LearnedTask("task", kind, ("no", "yes"), 2, adapter.members, "task", 8)
    around = features[:1] + 0.01 * torch.randn(8, features.shape[1])
    signature = fit_signature(around, adapter.signature_rank)
    add_task(model, learned, [take_snapshot(model) for _ in range(adapter.members)], signature)
    close_task(model)
    return model


def kind_on(base: str) -> str:
    return "image-classification" if base == "dinov2" else "text-classification"


def train(model: Any, base: str, settings: dict[str, Any], device: str, steps: int = 2) -> None:
    if settings.get("gradient_checkpointing"):
        model.gradient_checkpointing_enable()
    heads = base in ENCODERS
    open_task(model, *((kind_on(base), ("no", "yes"), 2) if heads else ("text-generation", (), 0)))
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(trained, settings.get("optimizer", "adamw_torch_fused"))
    optimizer.register_step_pre_hook(gradient_noise_hook(lambda: 0.05, lambda: 0, lambda: "task"))
    for _ in range(steps):
        batch = padded(base, settings, device)
        classes = torch.arange(settings["batch_size"], device=device) % 2
        labels = classes if heads else batch["input_ids"]
        with torch.autocast(device, torch.bfloat16, enabled=settings.get("autocast", False)):
            loss = model(**batch, labels=labels, **({} if heads else {"use_cache": False})).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def make_optimizer(trained: list[torch.nn.Parameter], name: str) -> torch.optim.Optimizer:
    if name == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(trained, lr=1e-4, scale_parameter=False, relative_step=False)
    return torch.optim.AdamW(trained, lr=1e-4, fused=True)


def answer(model: Any, base: str, settings: dict[str, Any], device: str) -> None:
    batch = padded(base, settings, device)
    if base in ENCODERS:
        predict(model, batch)
        return
    new = settings["new_tokens"]
    model.generate(**batch, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0)


def resident(peak: bool = False) -> int:
    """Bytes that this process holds in memory, or the most since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM" if peak else "VmRSS")))


def measure(base: str, model: str, settings: dict[str, Any], what: str, device: str) -> int:
    """Peak in bytes of the training steps or the answer of one case."""
    run = train if what == "training" else answer
    config = base_config(base, model)
    if device == "cpu":
        # Code and threads are loaded before anything is counted.
        small = {**settings, "batch_size": 2, "length": 28 if base == "dinov2" else 16} | (
            {"new_tokens": 2} if "new_tokens" in settings else {}
        )
        tiny = base_config(base, model)
        for name in ("num_hidden_layers", "n_layer"):
            if hasattr(tiny, name):
                setattr(tiny, name, 2)
        tiny.vocab_size = 1000
        run(learner(tiny, base, small, device), base, small, device)
    before = resident()
    made = learner(config, base, settings, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    run(made, base, settings, device)
    return torch.cuda.max_memory_allocated() if device == "cuda" else resident(peak=True) - before


def row(case: tuple[str, dict[str, Any], str], model: str, device: str) -> dict[str, Any]:
    base, settings, what = case
    command = [sys.executable, __file__, "--model", model, "--case", json.dumps([*case, device])]
    give_back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_TOP_PAD_": "0"}
    environment = {**os.environ, **give_back}
    output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    measured = int(output.splitlines()[-1])
    said = getattr(estimate(base, model, settings, device), what)
    return {"estimated": said, "measured": measured, "error": round(said / measured - 1, 4)}


def compare(model: str, out: Path, cases: tuple[Any, ...], devices: list[str], jobs: int) -> None:
    """Fills the result file with the rows that it lacks: a killed run goes on. A case that fails stops no other."""
    rows = json.loads(out.read_text())["rows"] if out.exists() else {"cuda": [], "cpu": []}
    failed = []
    for device in devices:
        missing = []
        for case in cases:
            asked = {"base": case[0], "what": case[2], **case[1]}
            if not any(asked.items() <= known.items() and len(known) == len(asked) + 3 for known in rows[device]):
                missing.append((asked, case))
        with ThreadPoolExecutor(jobs) as pool:
            running = [(asked, pool.submit(row, case, model, device)) for asked, case in missing]
            for asked, future in running:
                if future.exception() is not None:
                    failed.append(f"{asked} on {device}: {future.exception()}")
                    continue
                rows[device].append(asked | future.result())
                out.write_text(json.dumps(summarise(rows, model), indent=1) + "\n")
                print(rows[device][-1], flush=True)
    if failed:
        raise SystemExit("\n".join(["Not measured:", *failed]))


def summarise(rows: dict[str, list[dict[str, Any]]], model: str) -> dict[str, Any]:
    head = header("python benchmarks/memory.py --model MODEL", model)
    # In bfloat16 a process on the CPU was seen to hold more than its tensors; in float32 it does not.
    parts = rows | {"cpu_float32": [row for row in rows["cpu"] if row["bits"] == 32]}
    worst = {name: max((abs(row["error"]) for row in known), default=None) for name, known in parts.items()}
    summary = {f"worst_relative_error_{name}": error for name, error in worst.items()}
    return {**head, "settings": {"gpt2": GPT2, "llama": LLAMA, "dinov2": DINOV2}, "summary": summary, "rows": rows}


def table() -> Iterator[str]:
    """What of `BASES` fits on which GPU, as lines of Markdown."""
    gpus = " | ".join(f"{gpu} GB" for gpu in GPUS)
    yield f"| base, 4 bits | checkpointing | training, estimated | answering, estimated | {gpus} |"
    yield "|---|---|---|---|" + "---|" * len(GPUS)
    for billions, (hidden, layers, heads, shared, inner, tokens) in BASES.items():
        config = LlamaConfig(
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=shared,
            intermediate_size=inner,
            vocab_size=tokens,
            max_position_embeddings=4096,
            tie_word_embeddings=billions < 8,
        )
        for checkpointing in (False, True):
            adapter = DriftAdapterConfig(task_type="CAUSAL_LM")
            found = estimate_memory(config, adapter, gradient_checkpointing=checkpointing, **TABLE)
            most = max(found.training, found.answering) + SPARE
            fits = ["yes" if most <= gpu * 2**30 else "no" for gpu in GPUS]
            sizes = [f"{size / 2**30:.1f} GiB" for size in (found.training, found.answering)]
            yield "| " + " | ".join([f"{billions} B", "on" if checkpointing else "off", *sizes, *fits]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder or Hub id of all-minilm-l6")
    parser.add_argument("--table", action="store_true", help="print what fits on which GPU, estimated")
    devices = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--device", choices=devices, help="where to measure; default: on all")
    parser.add_argument("--jobs", type=int, default=1, help="cases that are measured at a time")
    parser.add_argument("--tiny", action="store_true", help="one small case, to see that it runs")
    parser.add_argument("--out", default=str(RESULTS / "memory.json"))
    parser.add_argument("--case", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.table:
        for line in table():
            print(line, flush=True)
    elif args.model is None:
        parser.error("give `--model` or `--table`")
    elif args.case:
        base, settings, what, device = json.loads(args.case)
        torch.manual_seed(0)
        print(measure(base, args.model, settings, what, device))
    else:
        chosen = [args.device] if args.device else devices
        compare(args.model, Path(args.out), TINY if args.tiny else CASES, chosen, args.jobs)


if __name__ == "__main__":
    main()
