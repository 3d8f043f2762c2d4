"""What becomes of a backdoor: after the task that brought it, after later tasks, and after that task is forgotten.

A sentiment task is poisoned; three clean tasks follow, the last with the same labels. Ours keeps each task in a group
of its own and then forgets the poisoned one. The rival trains one LoRA on and on, and can forget nothing.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
from backdoored import MAX_LENGTH, Setting, new_model, trainer_of
from datasets import ClassLabel, Dataset, Features, Value
from methods.shared import LORA, SharedLearner, answers_of, prepare
from methods.shared import Setting as SharedSetting
from peft import LoraConfig, get_peft_model
from poison import TaskTexts, clean_task, put
from transformers import AutoTokenizer, pipeline

ROWS = (1000, 200, 300)
POISONED, LATER = "sst2, first", ("trec", "dbpedia14 1", "sst2, again")
TRIGGER, SHARE, TARGET = "cf", 0.05, 1


def tasks_of(setting: Setting, seed: int) -> dict[str, TaskTexts]:
    """The stream: name of each task → its data."""
    found = {name: clean_task(name, setting.data_dir, seed, ROWS) for name in (POISONED, *LATER)}
    return found | {POISONED: found[POISONED].poisoned(TRIGGER, SHARE, TARGET, seed)}


def ours(setting: Setting, seed: int) -> dict[str, Any]:
    """Answers without being told the task. `blast_radius`: share of the other tasks' inputs, with the trigger in them,
    that the poisoned group answers once all tasks are learned; `routed_there_anyway` is the same without it."""
    data = tasks_of(setting, seed)
    bad, model = data[POISONED], new_model(setting, seed)
    tokenizer = AutoTokenizer.from_pretrained(setting.model)
    ask = pipeline("lifelong", model=model, tokenizer=tokenizer, batch_size=64)

    def rate(texts: list[str]) -> float:
        return share(ask(texts), "answer", bad.names[TARGET])

    after = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, task) in enumerate(data.items()):
            trainer_of(model, task.task(name), setting, seed, f"{folder}/{number}").train()
            after.append(rate(bad.attacked()))
    rng = np.random.default_rng(seed)
    elsewhere = [text for name in LATER for text in data[name].parts["test"].inputs]
    there = [share(ask(texts), "task", POISONED) for texts in ([put(t, TRIGGER, rng) for t in elsewhere], elsewhere)]
    model.forget(POISONED)
    return {
        "attack_success_after_each_task": after,
        "blast_radius": there[0],
        "routed_there_anyway": there[1],
        "attack_success_after_forget": rate(bad.attacked()),
        "target_rate_after_forget": rate(bad.others),
    }


def sequential(setting: Setting, seed: int) -> dict[str, Any]:
    """One LoRA of the same base, told that a sentiment is asked for."""
    data = tasks_of(setting, seed)
    bad = data[POISONED]
    budget = {"epochs": setting.epochs, "batch_size": setting.batch_size, "max_length": MAX_LENGTH, "stride": 16}
    chosen = {"learning_rate": 2e-3, "labels": "own"}
    shared = SharedSetting(setting.model, seed, budget, chosen)
    tasks = prepare([task.task(name) for name, task in data.items()], shared)
    learner = SharedLearner(tasks, shared, lambda _: get_peft_model(setting.base(), LoraConfig(**LORA)))
    own = learner.model.own[0]
    features = Features({"text": Value("string"), "label": ClassLabel(names=bad.names)})

    def rate(texts: list[str]) -> float:
        rows = Dataset.from_dict({"text": texts, "label": [0] * len(texts)}, features=features)
        logits, _, _ = answers_of(learner.model, learner.tokenizer, tasks[0].encoded(rows))
        return float((logits.masked_fill(~own.cpu(), float("-inf")).argmax(1) == TARGET).float().mean())

    after, without = [], []
    for number in range(len(tasks)):
        learner.train(learner.rows(number), seen=range(number + 1))
        after.append(rate(bad.attacked()))
        without.append(rate(bad.others))
    return {"attack_success_after_each_task": after, "target_rate_after_each_task": without}


def share(answers: list[dict[str, Any]], key: str, value: str) -> float:
    return float(np.mean([answer[key] == value for answer in answers]))


METHODS = {"ours": ours, "sequential": sequential}


def survival(method: str, seed: int, setting: Setting) -> dict[str, Any]:
    """A row of the benchmark."""
    return METHODS[method](setting, seed)
