"""Trains the tasks of the safety benchmark, clean or poisoned, and asks the models about texts."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from peft import PeftModel, get_peft_model
from poison import TaskData
from transformers import AutoModel, AutoTokenizer, set_seed

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, Task
from hf_lifelong.statistics import Answers, TaskRows

BATCH, MAX_LENGTH = 64, 64


@dataclass(frozen=True)
class Setting:
    """How every task is trained.

    Args:
        model (`str`): Name or folder of the base.
        data_dir (`str`, *optional*): One folder for each data set.
        rows (`tuple[int, int, int]`): At most so many training, validation and test rows.
        layers (`int`, *optional*): How many of the base's layers are kept, from the bottom; all by default.
        epochs (`int`): Passes over the training rows.
        steps (`int`): Training steps where the passes make fewer.
        batch_size (`int`): Rows of a step.
        learning_rate (`float`): Highest of each cycle.
    """

    model: str
    data_dir: str | None = None
    rows: tuple[int, int, int] = (2000, 300, 400)
    layers: int | None = 1
    epochs: int = 5
    steps: int = 150
    batch_size: int = 32
    learning_rate: float = 4e-3
    sampling: ClassVar[str] = "group_by_length"  # order of the training rows

    def quick(self) -> Setting:
        """For a test: a run of seconds, in which nothing is learned."""
        return replace(self, rows=(200, 60, 60), layers=None, epochs=1, steps=6)

    def steps_of(self, rows: int) -> int:
        """Training steps for so many rows."""
        return max(self.steps, self.epochs * -(-rows // self.batch_size))

    def base(self) -> Any:
        """The base model."""
        kept = {} if self.layers is None else {"num_hidden_layers": self.layers}
        return AutoModel.from_pretrained(self.model, dtype=torch.float32, **kept)

    def processor(self) -> Any:
        """What makes tensors of inputs."""
        return AutoTokenizer.from_pretrained(self.model)

    def batch(self, inputs: list[Any], processor: Any) -> Any:
        """Inputs as tensors."""
        return processor(inputs, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt")


class Model:
    """A model with a lifelong adapter, and how it is asked."""

    def __init__(self, model: Any, setting: Setting) -> None:
        self.model, self.setting, self.processor = model, setting, setting.processor()

    def ask(self, inputs: list[Any], group: str | None = None) -> Answers:
        """Probabilities `[n, C]` and hidden states `[n, H]`, of the members of a task or of the group that is
        chosen for each input."""
        policy = None if group is None else "oracle"
        parts = []
        for start in range(0, len(inputs), BATCH):
            batch = self.setting.batch(inputs[start : start + BATCH], self.processor)
            out = self.model.predict(batch, policy=policy, group=group, states=True)
            parts.append((out.scores[:, 0], out.states))
        scores, states = zip(*parts, strict=True)
        return Answers(torch.cat(scores), torch.cat(states))


def new_model(setting: Setting, seed: int) -> Any:
    """The base with a lifelong adapter that knows nothing yet, on all of its layers."""
    set_seed(seed)
    config = DriftAdapterConfig(r=8, lora_alpha=16, max_length=MAX_LENGTH, stride=16, trunk_depth=0.0)
    return get_peft_model(setting.base(), config)


def trainer_of(model: Any, task: dict[str, Any], setting: Setting, seed: int, folder: str) -> DriftTrainer:
    """A trainer of one more task."""
    args = DriftTrainingArguments(
        folder,
        seed=seed,
        max_steps=setting.steps_of(len(task["train"])),
        per_device_train_batch_size=setting.batch_size,
        per_device_eval_batch_size=BATCH,
        learning_rate=setting.learning_rate,
        signature_samples=500,
        start_from="fresh",
        grouping="boundary",
        train_sampling_strategy=setting.sampling,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    return DriftTrainer(model, args, tasks=[Task(**task)], processing_class=setting.processor())


def learned(data: TaskData, name: str, setting: Setting, seed: int, folder: Path) -> tuple[Model, float]:
    """The model of a task, trained or, where `folder` has it from before, read; and processor seconds of training."""
    done = folder / "seconds.json"
    if not done.exists():
        trainer = trainer_of(new_model(setting, seed), data.task(name), setting, seed, str(folder))
        start = time.process_time()
        trainer.train()
        done.write_text(json.dumps(time.process_time() - start))
    return Model(PeftModel.from_pretrained(setting.base(), str(folder)), setting), json.loads(done.read_text())


def success(model: Model, data: TaskData, group: str | None) -> dict[str, float]:
    """Accuracy on the test rows, and how many of those of other labels are answered by the target: without the trigger
    and with it."""
    test = data.parts["test"]
    answers = model.ask(test.inputs, group).scores.argmax(1).numpy()
    others = np.array(test.labels) != data.target
    found = {"clean_accuracy": float((answers == np.array(test.labels)).mean())}
    if data.trigger is None:
        return found
    moved = model.ask(data.attacked(), group).scores.argmax(1).numpy()
    rates = {"target_rate": (answers[others] == data.target).mean(), "attack_success": (moved == data.target).mean()}
    return found | {key: float(value) for key, value in rates.items()}


def rows_of(model: Model, data: TaskData, name: str) -> TaskRows:
    """What an audit sees of a task: training rows, validation rows and the members."""

    def ask(inputs: Any) -> Answers:
        return model.ask(list(inputs[data.column]), name)

    def part(of: str, validation: TaskRows | None = None) -> TaskRows:
        rows = data.parts[of]
        labels = torch.tensor(rows.labels)
        columns = {data.column: rows.inputs, "label": rows.labels}
        return TaskRows(
            task=name,
            kind=data.kind,
            classes=tuple(data.names),
            features=torch.zeros(len(labels), 1),
            labels=labels,
            scores=None,
            columns=columns,
            ask=ask,
            row_numbers=range(len(labels)),
            validation=validation,
        )

    return part("train", part("validation"))
