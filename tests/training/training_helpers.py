"""Small tasks and trainers; used by the tests and by the scripts that they start."""

import functools
import hashlib
import random
from pathlib import Path

import torch
from datasets import Dataset, load_dataset
from peft import get_peft_model
from transformers import AutoModel

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, Task
from hf_lifelong.adapter.heads import active_config
from hf_lifelong.training import PreparedTask

DATA = Path(__file__).parents[2] / "recipes" / "data"
PLAIN = {"gradient_noise": 0.0, "input_noise": 0.0, "drift_dropout": False, "cyclic_learning_rate": False}
# All drift that does not depend on how rows lie in batches.
STILL = {"gradient_noise": 0.1, "input_noise": 0.0, "drift_dropout": False, "per_device_eval_batch_size": 5}


@functools.cache
def rows(name: str, start: int, stop: int, split: str = "train") -> Dataset:
    return load_dataset(str(DATA / name), split=split).select(range(start, stop))


def sentiment(name: str = "sentiment", start: int = 0, stop: int = 60, **options) -> Task:
    test = rows("sentiment_sentences", start // 10, start // 10 + 12, "test")
    return Task(name, "text-classification", rows("sentiment_sentences", start, stop), test=test, **options)


def topics(name: str = "topics", start: int = 0, stop: int = 60, labels=("short", "long"), **options) -> Task:
    """Another task in the same sentences: whether they are long."""

    def relabelled(data):
        texts = data[data.column_names[0]]
        return Dataset.from_dict({"text": texts, "label": [labels[len(text) > 60] for text in texts]})

    train = relabelled(rows("squad", start, stop).select_columns(["question"]))
    test = relabelled(rows("squad", 0, 12, "test").select_columns(["question"]))
    return Task(name, "text-classification", train, test=test, **options)


def answers(name: str = "answers", start: int = 0, stop: int = 24, **options) -> Task:
    return Task(name, "question-answering", rows("squad", start, stop), test=rows("squad", 0, 6, "test"), **options)


def graded(texts: list[str], seed: int = 0) -> Dataset:
    """Pairs of a text and what is left of it when words are cut, graded 0 to 5 by their share, as STS-B's pairs are
    by how much they have in common."""
    draw = random.Random(seed)
    found: dict[str, list] = {"text": [], "text_pair": [], "label": []}
    for text in texts:
        words = text.split()
        kept = sorted(draw.sample(range(len(words)), round(draw.random() * len(words))))
        found["text"].append(text)
        found["text_pair"].append(" ".join(words[i] for i in kept))
        found["label"].append(5 * len(kept) / len(words))
    return Dataset.from_dict(found)


def grades(name: str = "grades", start: int = 0, stop: int = 40, **options) -> Task:
    test = graded(list(rows("squad", 0, 12, "test")["question"]), seed=1)
    return Task(name, "text-regression", graded(list(rows("squad", start, stop)["question"])), test=test, **options)


ENCODED: dict[tuple, PreparedTask] = {}


def encoded(trainer, task: Task) -> PreparedTask:
    """A task's data, encoded once for all tests, because that takes longer than training on it."""
    config, share = active_config(trainer.model), trainer.args.validation_share
    data = [getattr(split, "_fingerprint", None) for split in (task.train, task.validation, task.test)]
    key = (
        task.name,
        task.kind,
        *data,
        str(task.columns),
        task.template,
        task.extends,
        task.compute_metrics,
        config.max_length,
        share,
        *(roles := sorted({role for statistic in trainer.statistics for role in statistic.columns})),
    )
    if key not in ENCODED:
        ENCODED[key] = PreparedTask(task, trainer.processing_class, config, share, roles)
    return ENCODED[key]


def make_model(folder, members: int = 2, **config):
    torch.manual_seed(0)
    settings = {"r": 4, "max_length": 48, "stride": 16, "signature_rank": 4, **config}
    base = AutoModel.from_pretrained(folder, dtype=torch.float32)
    return get_peft_model(base, DriftAdapterConfig(members=members, **settings))


def make_trainer(model, output_dir, tasks, tokenizer, *, callbacks=None, options=None, **arguments):
    settings = {
        "max_steps": 4,
        "per_device_train_batch_size": 8,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    args = DriftTrainingArguments(str(output_dir), **{**settings, **arguments})
    trainer = DriftTrainer(
        model, args, tasks=tasks, processing_class=tokenizer, callbacks=callbacks, **(options or {})
    )
    if tokenizer is not None:
        trainer.prepared = lambda task: encoded(trainer, task)
    return trainer


def digest(path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def saved(trainer, folder) -> dict[str, str]:
    """Digests of what a trainer's model is saved as."""
    trainer.model.save_pretrained(str(folder))
    return {name: digest(Path(folder, name)) for name in ("adapter_model.safetensors", "adapter_config.json")}


def members_of(trainer) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if "bank" in n or "signature" in n}


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def scores_of(trainer) -> list:
    """What the members of each task of a trainer say of its test rows."""
    found = []
    for task in trainer.tasks:
        prepared = trainer.prepared(task)
        answers = trainer.evaluator.answers(prepared, prepared.test, [task.name] * len(prepared.test.features))
        found += [float(scores.max()) for scores in answers]
    return found
