"""Tables of seconds and memory: answering, learning, many tasks, and a GPU. `tables.py` writes them into the pages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cells import Record, fixed, percent, read, table

NOT_MEASURED = "not measured"


def answering(folder: Path) -> list[str]:
    record = read(folder, "answering")
    own = [row for row in record["rows"] if (row["base"], row["policy"]) == (record["model"], "signature")]
    ratios = {(row["groups"], row["batch"], row["tokens"]): row["ratio"] for row in own}
    shapes = list(dict.fromkeys((row["batch"], row["tokens"]) for row in own))
    rows = (
        [f"{groups:,} group{'s' if groups > 1 else ''}", *(fixed(ratios[groups, *shape], 2) for shape in shapes)]
        for groups in dict.fromkeys(row["groups"] for row in own)
    )
    head = [f"{batch} × {tokens} tokens" for batch, tokens in shapes]
    return table(["times one LoRA's forward, `signature`", *head], rows)


def training(folder: Path) -> list[str]:
    found = read(folder, "training")["summary"]
    labels = {
        "step_time_ratio": "a step",
        "task_time_ratio": "a task, with snapshots, signature and grouping",
        "peak_memory_ratio": "peak memory",
    }
    rows = [[label, *(fixed(found[key + rival], 2) for rival in ("", "_all_layers"))] for key, label in labels.items()]
    theirs = [fixed(found[f"accuracy_lora{rival}"], 3) for rival in ("", "_all_layers")]
    accuracy = [f"accuracy (ours {fixed(found['accuracy_ours'], 3)})", *theirs]
    return table(["ours to LoRA", "same layers", "all layers"], [*rows, accuracy])


def many_tasks(folder: Path) -> list[str]:
    record = read(folder, "many_tasks")
    found, (few, more, most) = record["summary"], record["rows"]
    batch, tokens = record["batch"]
    of_fewer = [f"{fixed(row['first_answer_seconds'], 1)} with {row['groups']}" for row in (few, more)]
    fewer = f"{of_fewer[0]} groups, {of_fewer[1]}"
    changes = "the first after each change (what tasks share and how each differs is computed)"
    of_file = f"{fixed(found['load_to_read'], 2)} × reading the file into memory"
    of_few = f"{fixed(found['answer_to_10_groups'], 2)} × that with {few['groups']} groups"
    rows = [
        ["load", fixed(most["load_seconds"], 2), of_file],
        [
            "load, mapped (`low_cpu_mem_usage=True`)",
            fixed(most["mapped_load_seconds"], 2),
            f"{fixed(found['mapped_load_to_read'], 2)} ×",
        ],
        [f"first answer, and {changes}", fixed(most["first_answer_seconds"], 1), fewer],
        [f"every further answer ({batch} × {tokens} tokens)", fixed(most["answer_seconds"], 3), of_few],
        ["add one task, after training", fixed(most["add_seconds"], 2), ""],
        ["forget one", fixed(most["forget_seconds"], 2), ""],
        ["save", fixed(most["save_seconds"], 1), f"{fixed(found['save_to_write'], 2)} × writing the same bytes"],
    ]
    size = fixed(most["bytes"] / 1e9, 1)
    return table([f"{found['groups']:,} groups, {size} GB", "seconds", "beside"], rows)


def gpu(folder: Path) -> list[str]:
    """The figures of `gpu.json`, and what of it was not measured."""
    parts = read(folder, "gpu")["parts"] if (folder / "gpu.json").exists() else []
    summaries = {
        row["part"]: {key: figure for key, figure in row["result"]["summary"].items() if figure is not None}
        for row in parts
        if "result" in row
    }

    def value(part: str, text: Callable[[Record], str]) -> str:
        try:
            return text(summaries[part]) or NOT_MEASURED
        except KeyError:  # its time may have been up before it measured this
            return NOT_MEASURED

    def ratios(*keys: str) -> Callable[[Record], str]:
        return lambda found: " and ".join(fixed(found[key], 2) for key in keys)

    def peaks(found: Record) -> str:
        both = [
            " to ".join(fixed(found[f"{who}_{what}_peak_gib"], 1) for who in ("ours", "lora"))
            for what in ("train", "answer")
        ]
        return f"{' and '.join(both)} GiB"

    def compiled(found: Record) -> str:
        prefix = "speedup_"
        times = {key.removeprefix(prefix): 1 / found[key] for key in found if key.startswith(prefix)}
        return ", ".join(f"{fixed(t, 2)} ({shape.replace('x', ' × ')} tokens)" for shape, t in times.items())

    layers = ("step_time_ratio", "step_time_ratio_all_layers", "step_time_ratio_full")
    rows = [
        [
            "estimated memory against CUDA's peak, largest error of 19 trainings and answers",
            value("memory", lambda found: percent(found["worst_relative_error_cuda"], 1)),
        ],
        [
            "an 8-billion-parameter Llama in 4 bits, a training step, ours to LoRA",
            value("gpu_8b", ratios("step_time_ratio")),
        ],
        [
            "its prefill and each further token with ten groups, ours to LoRA",
            value("gpu_8b", ratios("prefill_ratio", "decode_ratio")),
        ],
        ["its peak memory in training and in answering, ours to LoRA", value("gpu_8b", peaks)],
        [
            "an answer by `signature` with 1,000 groups, ours to one LoRA and to the bare base, most of five shapes",
            value("answering", ratios("signature_ratio_1000", "signature_ratio_to_base_1000")),
        ],
        [
            "a training step, ours to a LoRA on the same layers, on all layers, and to all weights of the base",
            value("training", ratios(*layers)),
        ],
        ["an answer with `torch.compile`, to one without", value("compiled", compiled)],
    ]
    return table(["on one GPU", ""], rows)
