"""Tasks one after another on a language model, all as text: sentiment, questions, topics, and two more.

    python benchmarks/causal_lm.py --data_dir DATA --model MODEL

Ours against one LoRA (stock PEFT, stock Trainer, the same layers, rank, data and steps) trained on task after task.
Prompts carry no instruction that would name the task: a review sentence, a context with its question, a headline. Of
the stream `five`, questions and yes-or-no questions even have the same form. Beside the tasks, the loss on plain texts
that no task is about is measured before and after them.

Every (method, seed) of a stream is a row of `benchmarks/results/causal_lm.json` (`three`) or `causal_lm_five.json`;
rows that are there are not run again. MODEL is a folder or Hub id; `recipes/sentiment_then_qa.py --config
recipes/configs/causal_lm.yaml` writes such a folder.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import load_dataset
from peft import get_peft_model
from record import RESULTS, fill, header
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

from hf_lifelong import AccuracyMatrix, DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, Task
from hf_lifelong.adapter import active_config, route
from hf_lifelong.objectives import encode_prompts
from hf_lifelong.training import adapter_record

sys.path.append(str(Path(__file__).parents[1] / "recipes"))
from plain_lora import learn_in_turn

BUDGET = {"batch_size": 8, "learning_rate": 5e-4, "max_length": 224, "r": 8, "members": 3}
VALIDATION, TEST, PLAIN, PLAIN_LENGTH = 20, 60, 100, 128
METHODS = ("ours", "sequential")


@dataclass(frozen=True)
class Stream:
    """Tasks in order, by the folder of their data.

    Args:
        tasks (`dict`): Name → folder.
        train (`int`): Training texts of a task.
        epochs (`int`): Epochs over them.
        longest (`int`): Characters of the longest passage; longer ones would not fit. Known before any text is drawn.
    """

    tasks: Mapping[str, str]
    train: int
    epochs: int
    longest: int


THREE = {"sentiment": "sentiment_sentences", "questions": "squad", "topics": "ag_news"}
STREAMS = {
    "three": Stream(THREE, train=200, epochs=2, longest=450),
    "five": Stream({**THREE, "yes_or_no": "boolq", "kinds": "trec"}, train=400, epochs=1, longest=500),
}
TEMPLATES = {"boolq": "{passage}\n\nQuestion: {question}?\nAnswer:"}  # the form that questions on a passage have
PASSAGES = {"squad": "context", "boolq": "passage"}
PlainTexts = Mapping[str, Sequence[torch.Tensor]]
PLAIN_TEXTS = {"film reviews": "imdb", "newsgroups": "newsgroups20"}


def make_tasks(stream: Stream, data_dir: str, seed: int, scale: float) -> list[Task]:
    """The stream, with parts drawn anew for each seed; the test part is the same for all."""
    tasks = []
    for name, folder in stream.tasks.items():
        data = load_dataset(str(Path(data_dir) / folder))
        if name == "sentiment":
            data = data.cast_column("label", datasets.ClassLabel(names=["negative", "positive"]))
        if column := PASSAGES.get(folder):
            data = data.filter(lambda row, column=column: len(row[column]) <= stream.longest)
        train, test = data["train"].shuffle(seed=seed), data["test"].shuffle(seed=0)
        sizes = [max(round(size * scale), 4) for size in (stream.train, VALIDATION, TEST)]
        parts = train.select(range(sizes[0])), train.select(range(sizes[0], sizes[0] + sizes[1]))
        test = test.select(range(sizes[2]))
        tasks.append(Task(name, "text-generation", *parts, test=test, template=TEMPLATES.get(folder)))
    return tasks


def plain_texts(data_dir: str, tokenizer: Any, scale: float) -> dict[str, list[torch.Tensor]]:
    """Tokens of texts that no task is about, `[1, T]` each, without a chat template."""
    found = {}
    for name, folder in PLAIN_TEXTS.items():
        rows = load_dataset(str(Path(data_dir) / folder))["test"].shuffle(seed=0).select(range(round(PLAIN * scale)))
        ids = tokenizer(list(rows["text"]), truncation=True, max_length=PLAIN_LENGTH)["input_ids"]
        found[name] = [torch.tensor([row]) for row in ids]
    return found


@torch.no_grad()
def read(model: Any, texts: PlainTexts) -> tuple[dict[str, float], dict[str, list[str]]]:
    """Mean loss a token, in nats, of what follows each text's first token; and digests of the logits of each text."""
    model.eval()
    device = next(model.parameters()).device
    losses: dict[str, float] = {}
    digests: dict[str, list[str]] = {}
    for name, rows in texts.items():
        total, tokens, digests[name] = 0.0, 0, []
        for ids in (row.to(device) for row in rows):
            answer, count = model(input_ids=ids, labels=ids), ids.shape[1] - 1
            total, tokens = total + float(answer.loss) * count, tokens + count
            digests[name].append(hashlib.sha256(answer.logits.float().cpu().numpy()).hexdigest())
        losses[name] = total / tokens
    return losses, digests


def of_ours(
    model: Any, tokenizer: Any, prompts: Mapping[str, list[str]], plain: PlainTexts, base: Mapping[str, list[str]]
) -> dict[str, Any]:
    """What an adapter does to plain texts, and how many of them and of its tasks' own test prompts are unknown to it.

    Args:
        base (`dict`): Digests of the base's logits of the plain texts.

    Returns:
        `nearest`, the loss where the nearest group answers all the same; `after`, the loss where the base answers
        unknown inputs; `same_logits`, the share of texts whose logits are then those of the base to the bit;
        `unknown`, the share of texts and of own prompts that count as unknown.
    """
    config = active_config(model)
    found: dict[str, Any] = {"nearest": read(model, plain)[0]}
    config.unknown = "base"
    found["after"], digests = read(model, plain)
    found["same_logits"] = {
        name: sum(a == b for a, b in zip(digests[name], base[name], strict=True)) / len(rows)
        for name, rows in plain.items()
    }
    rows_of = plain | {
        name: [torch.tensor([ids]) for ids in encode_prompts(tokenizer, texts, config.max_length)]
        for name, texts in prompts.items()
    }
    found["unknown"] = {
        name: sum(bool(route(model, {"input_ids": ids}, novelty=True).novelty > 1) for ids in rows) / len(rows)
        for name, rows in rows_of.items()
    }
    config.unknown = "nearest"
    return found


def run(stream: Stream, method: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    set_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype)
    plain = plain_texts(args.data_dir, tokenizer, args.scale)
    before, digests = read(base, plain)
    config = DriftAdapterConfig(
        task_type="CAUSAL_LM",
        max_new_tokens=16,
        **{k: BUDGET[k] for k in ("r", "members", "max_length")},
    )
    with tempfile.TemporaryDirectory() as out:
        settings = DriftTrainingArguments(
            out,
            seed=seed,
            num_train_epochs=stream.epochs,
            per_device_train_batch_size=BUDGET["batch_size"],
            per_device_eval_batch_size=16,
            learning_rate=BUDGET["learning_rate"],
            warmup_steps=0.1,
            train_sampling_strategy="group_by_length",
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_steps=10,
            report_to="none",
            grouping="boundary",
            hub_base_model=args.hub_base_model,
            disable_tqdm=True,
        )
        model = get_peft_model(base, config)
        tasks = make_tasks(stream, args.data_dir, seed, args.scale)
        trainer = DriftTrainer(model, settings, tasks=tasks, processing_class=tokenizer)
        prepared = [trainer.prepared(task) for task in trainer.tasks]
        start = time.process_time()
        if method == "sequential":
            base = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype)
            scores = learn_in_turn(base, prepared, settings, config)
            seconds, matrix = round(time.process_time() - start), AccuracyMatrix()
            names = [task.name for task in trainer.tasks]
            for i, name in enumerate(names):
                found = {n: s for n, s in zip(names, scores[i], strict=True) if s is not None}
                matrix.add(name, "exact_match", None, found)
            measured = {"matrix": matrix.to_dict(), "summary": matrix.summary()}
            return {"seconds": seconds, **measured, "plain_text": {"before": before, "after": read(base, plain)[0]}}
        trainer.train()
        seconds = round(time.process_time() - start)
        scores = trainer.evaluate()
        record = adapter_record(trainer, seconds=seconds)
        matrix = trainer.matrix
        folder = Path(out, "adapter") if args.keep is None else Path(args.keep)
        folder.mkdir(exist_ok=True)
        model.save_pretrained(str(folder))
        size = (folder / "adapter_model.safetensors").stat().st_size
    details = {key.removeprefix("eval_"): value for key, value in scores.items() if key.startswith("eval_")}
    prompts = {task.name: list(task.test.examples[task.columns["prompt"]]) for task in prepared}
    # The base itself, which now holds the adapter: the trainer's wrapper would round to bfloat16.
    plain_text = {"before": before, **of_ours(base, tokenizer, prompts, plain, digests)}
    return {
        "seconds": seconds,
        "bytes": size,
        "matrix": matrix.to_dict(),
        "summary": matrix.summary(),
        "details": details,
        "plain_text": plain_text,
        "adapter": record,
    }


def summarise(name: str, rows: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    stream, summary = STREAMS[name], {}
    for method in METHODS:
        own = [row["summary"] for row in rows if row["method"] == method]
        for key in ("average_accuracy", "learning_accuracy", "forgetting", "bwt", "retrieval_accuracy"):
            values = [row[key] for row in own if row.get(key) is not None]
            if values:
                summary[f"{method}_{key}"] = round(sum(values) / len(values), 4)
        for moment in ("before", "after"):
            losses_of = [sum(row["plain_text"][moment].values()) for row in rows if row["method"] == method]
            if losses_of:
                mean = sum(losses_of) / len(losses_of) / len(PLAIN_TEXTS)
                summary[f"{method}_plain_text_loss_{moment}"] = round(mean, 4)
    options = "" if name == "three" else f" --streams {name}"
    head = header(f"python benchmarks/causal_lm.py --data_dir DATA --model MODEL{options}", args.model)
    sizes = {"train_texts": stream.train, "validation_texts": VALIDATION, "test_texts": TEST}
    budget = {
        **BUDGET,
        "epochs": stream.epochs,
        "longest_passage": stream.longest,
        **sizes,
        "plain_texts": PLAIN,
        "plain_tokens": PLAIN_LENGTH,
        "bf16_autocast": True,
        "metric": "exact match of what is generated",
        "seconds": "of a processor, all threads together",
    }
    found = {**head, "stream": name, "budget": budget, "summary": summary}
    return {**found, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True, help="folder with one data set a folder")
    parser.add_argument("--model", required=True, help="folder or Hub id of a causal language model")
    parser.add_argument("--hub_base_model", help="the model's name on the Hub, for one from a folder")
    parser.add_argument("--streams", nargs="+", choices=list(STREAMS), default=["three"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the texts, for a trial")
    parser.add_argument("--keep", help="folder for our adapter")
    parser.add_argument("--out", default=str(RESULTS), help="folder of the records")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    for name in args.streams:
        fill(
            Path(args.out, "causal_lm.json" if name == "three" else f"causal_lm_{name}.json"),
            args.methods,
            args.seeds,
            lambda method, seed, name=name: run(STREAMS[name], method, seed, args),
            lambda rows, name=name: summarise(name, rows, args),
        )


if __name__ == "__main__":
    main()
