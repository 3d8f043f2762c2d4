"""A small classifier on real sentences, its trainer, and the masks that must hold in it."""

import functools
from pathlib import Path

import torch
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments

DATA = Path(__file__).parents[2] / "recipes" / "data"


@functools.cache
def sentences(tokenizer, split: str, rows: int):
    data = load_dataset(str(DATA / "sentiment_sentences"), split=split).select(range(rows))
    text, label = data.column_names[:2]
    return data.map(
        lambda batch: {**tokenizer(batch[text], truncation=True, max_length=24), "labels": batch[label]},
        batched=True,
        remove_columns=data.column_names,
    )


def classifier(folder, **options):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, num_labels=2, **options)


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def make_trainer(model, output_dir, tokenizer, *, callbacks=None, trainer_class=Trainer, rows=48, **arguments):
    settings = {
        "max_steps": 12,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 16,
        "learning_rate": 1e-3,
        "save_strategy": "no",
        "logging_steps": 4,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "metric_for_best_model": "accuracy",
    }
    return trainer_class(
        model,
        TrainingArguments(str(output_dir), **{**settings, **arguments}),
        train_dataset=sentences(tokenizer, "train", rows),
        eval_dataset=sentences(tokenizer, "train", 80).select(range(rows, 80)),
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=accuracy,
        callbacks=callbacks,
    )


def weights(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def holds(masks) -> bool:
    """Whether exactly the masked weights are zero."""
    return all(
        bool((t.parameter[masks.pruned[n]] == 0).all()) for n, t in masks.targets.items()
    ) and masks.gone == sum(int((t.parameter == 0).sum()) for t in masks.targets.values())
