"""What learning a task costs: `DriftTrainer` against `Trainer` with one PEFT LoRA or with none, in turns.

    python benchmarks/training.py --data_dir DATA --model all-minilm-l6
    python benchmarks/training.py --data_dir DATA --model MODEL --tiny --out tiny.json     # to see that it runs

Four trainings on the same rows: ours, a LoRA of the same rank on the same linear layers (those above the trunk), a
LoRA on those of all layers, and all weights of the base itself. Each has a process of its own; a few steps of one
alternate with a few of the others, so that whatever else the machine does falls on all of them. A ratio of step times
is that of the medians.

The time of a task is that of training with snapshots, signature and grouping; three earlier groups have the same
labels, which is the most that grouping compares with. It is without the scores on test data, which `Trainer` does not
take. Peak memory is that of the same span: on a GPU what torch allocated; on a CPU, in short runs of their own,
resident memory above what was resident once model and data were loaded, freed memory being given back at once.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import multiprocessing
import os
import re
import statistics
import tempfile
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from record import RESULTS, header
from rivals import logits_of
from streams import load_task
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, Task
from hf_lifelong.adapter import add_task, close_task, lifelong_of, open_task, take_snapshot, target_names
from hf_lifelong.knowledge import LearnedTask, fit_signature
from hf_lifelong.training import PreparedTask, TaskLearner, Visit

METHODS = ("ours", "lora", "lora_all_layers", "full")
RANK, MEMBERS, EARLIER = 8, 5, 3
BATCH, LANGUAGE_BATCH, TOKENS = 32, 4, 64
TURN, MEMORY_STEPS = 4, 8  # steps
# Random weights in the shapes of language models, for the time of a step.
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {},  # its default: the small one of 124 million parameters
    "llama": {
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
    },
}
TINY = {
    "gpt2": {"n_layer": 4, "n_embd": 64, "n_head": 2},
    "llama": {
        **SHAPES["llama"],
        "hidden_size": 72,
        "num_hidden_layers": 4,
        "intermediate_size": 96,
        "vocab_size": 32000,
    },
}


@dataclass(frozen=True)
class Setting:
    """One comparison.

    Args:
        model (`str`): Folder or Hub id of an encoder, which is trained and scored; its tokenizer is used in any case.
        task (`dict`): Keyword arguments of the `Task`.
        shape (`dict`, *optional*): Configuration of a language model with random weights, of which only the steps are
            timed.
        epochs (`float`): Of the training; as many steps as that gives where `steps` is -1.
        steps (`int`): Of the training.
        batch (`int`): Rows of a step.
        bf16 (`bool`): Products in bfloat16 (autocast).
        seed (`int`): Of data and training.
    """

    model: str
    task: dict[str, Any]
    shape: dict[str, Any] | None = None
    epochs: float = 1
    steps: int = -1
    batch: int = BATCH
    bf16: bool = False
    seed: int = 0


class Turns(TrainerCallback):
    """Takes the time of each step, and waits for its turn after every few.

    Args:
        pipe (`Connection`): Gets a word when it is this training's turn, and is told when the turn is over.
    """

    def __init__(self, pipe: Connection) -> None:
        self.pipe = pipe
        self.steps: list[float] = []
        self.whole = self.since = 0.0

    def hand_over(self) -> None:
        """Ends this training's turn, and returns when the next one begins."""
        self.pipe.send(None)
        self.pipe.recv()
        self.since = now()

    def stop(self) -> float:
        """Seconds since the last stop or turn, which count for the whole too."""
        passed, self.since = now() - self.since, now()
        self.whole += passed
        return passed

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.stop()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(self.stop())
        if state.global_step % TURN == 0:
            self.hand_over()


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def adapter_config(setting: Setting, **changes: Any) -> DriftAdapterConfig:
    task_type = "CAUSAL_LM" if setting.shape else None
    return DriftAdapterConfig(
        task_type=task_type, r=RANK, lora_alpha=16, members=MEMBERS, max_length=TOKENS, stride=16, **changes
    )


def load_base(setting: Setting, prepared: PreparedTask, with_head: bool) -> Any:
    """The base model in float32; `with_head` where it is not the adapter that brings one."""
    if setting.shape:
        base = AutoModelForCausalLM.from_config(AutoConfig.for_model(**setting.shape), dtype=torch.float32)
        base.name_or_path = "random-weights"  # an adapter names its base
        return base
    if with_head:
        return AutoModelForSequenceClassification.from_pretrained(
            setting.model, dtype=torch.float32, num_labels=prepared.width
        )
    return AutoModel.from_pretrained(setting.model, dtype=torch.float32)


def training_arguments(setting: Setting, out: str) -> dict[str, Any]:
    """Trainer's arguments, the same for all methods."""
    return {
        "output_dir": out,
        "seed": setting.seed,
        "num_train_epochs": setting.epochs,
        "max_steps": setting.steps,
        "per_device_train_batch_size": setting.batch,
        "per_device_eval_batch_size": 2 * setting.batch,
        "learning_rate": 2e-3,
        "warmup_steps": 0.1,
        "bf16": setting.bf16,
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "logging_steps": 20,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }


def make_tokenizer(setting: Setting) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(setting.model)
    if setting.shape and tokenizer.eos_token is None:
        tokenizer.eos_token = tokenizer.sep_token
    return tokenizer


def make_ours(setting: Setting, out: str, turns: Turns) -> tuple[DriftTrainer, PreparedTask]:
    """A `DriftTrainer` whose model has learned earlier groups of the same labels."""
    task, tokenizer, config = Task(**setting.task), make_tokenizer(setting), adapter_config(setting)
    prepared = PreparedTask(task, tokenizer, config, 0.1)
    set_seed(setting.seed)
    model = get_peft_model(load_base(setting, prepared, with_head=False), config)
    args = DriftTrainingArguments(**training_arguments(setting, out))
    trainer = DriftTrainer(model, args, tasks=[task], processing_class=tokenizer, callbacks=[turns])
    trainer.prepared = lambda _: prepared  # type: ignore[method-assign]
    if not setting.shape:
        # Of random features, because a pass of the model now would leave memory that training then needs no more.
        features = lifelong_of(model).features
        signature = fit_signature(torch.randn(2 * config.signature_rank, features), config.signature_rank)
        for i in range(EARLIER):
            open_task(model, prepared.kind, prepared.labels, prepared.width)
            snapshots = [take_snapshot(model) for _ in range(MEMBERS)]
            close_task(model)
            kind, labels, width, name = prepared.kind, prepared.labels, prepared.width, f"earlier-{i}"
            learned = LearnedTask(name, kind, labels, width, MEMBERS, name, len(prepared.train))
            add_task(model, learned, snapshots, signature)
    return trainer, prepared


def make_rival(setting: Setting, out: str, turns: Turns, method: str) -> tuple[Trainer, PreparedTask]:
    """A `Trainer` with a stock LoRA on the same linear layers or on those of all layers, or with the base itself."""
    changes = {"trunk_depth": 0} if method == "lora_all_layers" else {}
    tokenizer, config = make_tokenizer(setting), adapter_config(setting, **changes)
    prepared = PreparedTask(Task(**setting.task), tokenizer, config, 0.1)
    targets = target_names(config, load_base(setting, prepared, with_head=False))
    set_seed(setting.seed)
    model = load_base(setting, prepared, with_head=True)
    if method != "full":
        task_type = "CAUSAL_LM" if setting.shape else "SEQ_CLS"
        model = get_peft_model(model, LoraConfig(task_type=task_type, r=RANK, lora_alpha=16, target_modules=targets))
    args = TrainingArguments(**training_arguments(setting, out))
    trainer = Trainer(
        model,
        args,
        train_dataset=prepared.train,
        data_collator=prepared.collator(),
        processing_class=tokenizer,
        callbacks=[turns],
    )
    return trainer, prepared


def learn(pipe: Connection, method: str, setting: Setting) -> None:
    """One training, from loading to the last member; what it took goes to `pipe`."""
    turns = Turns(pipe)
    with tempfile.TemporaryDirectory() as out:
        if method == "ours":
            trainer, prepared = make_ours(setting, out, turns)
        else:
            trainer, prepared = make_rival(setting, out, turns, method)
        loaded = reset_peak()
        turns.hand_over()
        highest = 0
        if method == "ours":
            learner, visit = TaskLearner(trainer), Visit(prepared, trainer.knowledge)
            learner.open(visit)
            learner.train(visit)
            highest = peak()  # also taken here: files that are mapped later would count less of it
            if not setting.shape:
                turns.stop()
                learner.fit(visit)
                learner.group(visit)
        else:
            trainer.train()
        after = turns.stop()
        found = {"steps": turns.steps, "seconds": turns.whole, "seconds_after_training": after}
        found |= {"peak_bytes": max(highest, peak()) - loaded, "loaded_bytes": loaded}
        if not setting.shape and method != "full":  # the learning rate is one for adapters
            found["accuracy"] = accuracy(trainer, prepared)
    pipe.send(found)


def accuracy(trainer: Any, prepared: PreparedTask) -> float:
    """On the test rows; ours with the right group given, as each LoRA is asked its own task."""
    if isinstance(trainer, DriftTrainer):
        return trainer.evaluator.oracle(prepared, prepared.test, prepared.name)["accuracy"]
    rows = prepared.test.features.select_columns([*prepared.tokenizer.model_input_names, "labels"])
    hit = logits_of(trainer.model, prepared.tokenizer, rows).argmax(1) == torch.tensor(rows["labels"][:]).numpy()
    return float(hit.mean())


def reset_peak() -> int:
    """Forgets the highest memory so far; returns what is resident now (0 on a GPU, where all of it counts)."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return 0
    ctypes.CDLL(None).malloc_trim(0)  # what loading has freed must not hide what training takes
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """The highest memory so far: allocated on a GPU, otherwise resident and not mapped from a file."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    found = dict(re.findall(r"(VmHWM|RssFile):\s+(\d+) kB", Path("/proc/self/status").read_text()))
    if len(found) < 2:
        raise SystemExit("Peak memory is read from /proc/self/status, which this system does not have.")
    return 1024 * (int(found["VmHWM"]) - int(found["RssFile"]))


def memory_of(setting: Setting) -> dict[str, dict[str, Any]]:
    """A short run of each method in which resident memory is what is in use: allocations go past the heap, whose gaps
    are otherwise a third of what is measured, and MKL keeps no workspaces. That takes time, so steps are not timed in
    it."""
    task = {**setting.task, "test": setting.task["test"].select(range(BATCH))}
    given_back = {"MALLOC_MMAP_THRESHOLD_": str(2**17), "MKL_DISABLE_FAST_MM": "1"}
    os.environ.update(given_back)
    try:
        return in_turns(replace(setting, task=task, steps=MEMORY_STEPS))
    finally:
        for name in given_back:
            del os.environ[name]


def in_turns(setting: Setting, methods: tuple[str, ...] = METHODS) -> dict[str, dict[str, Any]]:
    """Runs the methods at once, a few steps of one after a few of another; returns what each measured."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for method in methods:
        pipes[method], other = context.Pipe()
        context.Process(target=learn, args=(other, method, setting), daemon=True).start()
        other.close()  # so that a training that fails ends the wait for it
    for pipe in pipes.values():
        pipe.recv()
    found: dict[str, dict[str, Any]] = {}
    while len(found) < len(methods):
        for method in (m for m in methods if m not in found):
            pipes[method].send(None)
            if (measured := pipes[method].recv()) is not None:
                found[method] = measured
    return found


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Ratios of ours to each LoRA, over all rounds; those of a language model end in its name."""
    summary: dict[str, Any] = {}
    for shape in dict.fromkeys(row["shape"] for row in rows):
        own = [row for row in rows if row["shape"] == shape and "time" in row["part"]]
        memory = [row for row in rows if row["shape"] == shape and "memory" in row["part"]]
        suffix = f"_{shape}" if shape else ""
        steps = {m: statistics.median(s for row in own for s in row[m]["steps"][1:]) for m in METHODS}
        for rival, against in (("lora", ""), ("lora_all_layers", "_all_layers"), ("full", "_full")):
            summary[f"step_time_ratio{against}{suffix}"] = round(steps["ours"] / steps[rival], 4)
            if memory:
                summary[f"peak_memory_ratio{against}{suffix}"] = _ratio(memory, "peak_bytes", rival)
            if not shape:
                summary[f"task_time_ratio{against}"] = _ratio(own, "seconds", rival)
        summary[f"step_seconds_ours{suffix}"] = round(steps["ours"], 4)
        if not shape:
            for method in METHODS[:-1]:
                mean = statistics.mean(row[method]["accuracy"] for row in own)
                summary[f"accuracy_{method}"] = round(mean, 4)
    return summary


def _ratio(rows: list[dict[str, Any]], what: str, rival: str) -> float:
    ours, theirs = (statistics.median(row[method][what] for row in rows) for method in ("ours", rival))
    return round(ours / theirs, 4)


def settings(args: argparse.Namespace) -> list[Setting]:
    """Every comparison: the encoder in each round, then a language model of each shape."""
    made = []
    for seed in range(args.rounds):
        task = load_task(args.data, args.data_dir, seed, args.texts, test_size=args.test_texts)
        made.append(Setting(args.model, task, epochs=args.epochs, bf16=args.bf16, seed=seed))
    columns = {"prompt": task["columns"]["text"], "answer": task["columns"]["label"]}
    language = {**task, "kind": "text-generation", "columns": columns}
    for name in args.shapes:
        shape = {"model_type": name, **(TINY if args.tiny else SHAPES)[name]}
        made.append(Setting(args.model, language, shape, steps=args.steps, batch=LANGUAGE_BATCH, bf16=args.bf16))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or Hub id of an encoder")
    parser.add_argument("--data_dir", help="folder of data sets; default: the Hub")
    parser.add_argument("--data", default="ag_news", help="a text classification set of `streams.SOURCES`")
    parser.add_argument("--texts", type=int, default=2000, help="training texts")
    parser.add_argument("--test_texts", type=int, default=1000)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=1, help="tasks that each method learns")
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), help="language models whose steps are timed")
    parser.add_argument("--steps", type=int, default=12, help="steps of a language model")
    parser.add_argument("--bf16", action="store_true", help="products in bfloat16 (autocast)")
    parser.add_argument("--tiny", action="store_true", help="few texts and tiny language models, to see that it runs")
    parser.add_argument("--out", default=str(RESULTS / "training.json"))
    args = parser.parse_args()
    if args.tiny:
        args.texts, args.test_texts, args.epochs, args.steps = 160, BATCH, 1, 6
    fixed = {"rank": RANK, "members": MEMBERS, "batch": BATCH, "language_batch": LANGUAGE_BATCH, "tokens": TOKENS}
    given = {
        name: getattr(args, name) for name in ("data", "texts", "test_texts", "epochs", "rounds", "steps", "bf16")
    }
    head = header("python benchmarks/training.py --data_dir DATA --model MODEL", args.model)
    head |= {"settings": fixed | given}
    rows: list[dict[str, Any]] = []
    for setting in settings(args):
        shape = setting.shape["model_type"] if setting.shape else None
        cuda = torch.cuda.is_available()
        if not (shape or cuda or args.tiny):
            rows.append({"shape": shape, "part": "memory", "seed": setting.seed, **memory_of(setting)})
        part = "time and memory" if cuda else "time"
        rows.append({"shape": shape, "part": part, "seed": setting.seed, **in_turns(setting)})
        result = {**head, "summary": summarise(rows), "rows": rounded(rows)}
        Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps(result["summary"], indent=1), flush=True)


def rounded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with step times in tenths of a millisecond."""
    return json.loads(json.dumps(rows), parse_float=lambda text: round(float(text), 4))


if __name__ == "__main__":
    main()
