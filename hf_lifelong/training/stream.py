"""The loop over a list of tasks: skips learned tasks, resumes after a kill, and pushes commits."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers.trainer_utils import HubStrategy, TrainOutput

from ..adapter import (
    SHARED_SETTINGS,
    active_adapter,
    active_config,
    check_tensors,
    knowledge_of,
    lifelong_of,
    set_knowledge,
)
from ..hub import PushError
from ..knowledge import KnowledgeBase
from ..utils.files import DamagedFileError, read_json, read_tensors
from .checkpoints import newest_commit, publish, stream_folder, task_folder
from .data import PreparedTask
from .learner import TaskLearner, is_alike
from .protocol import StreamTrainer
from .tasks import check_names

logger = logging.getLogger(__name__)


def learn_stream(
    trainer: StreamTrainer, resume: bool = False, ignore_keys_for_eval: list[str] | None = None
) -> TrainOutput:
    """Learns the tasks of a trainer that are not learned yet, one after another.

    Args:
        trainer ([`StreamTrainer`]): Holds the tasks and trains.
        resume (`bool`): Whether to resume from the newest complete checkpoint in `output_dir`, or else from the last
            commit.
        ignore_keys_for_eval (`list[str]`, *optional*): As in `Trainer.train`.

    Returns:
        `TrainOutput` of the last task.

    Raises:
        ValueError: when a task cannot be used; nothing is trained or written then.
    """
    learner, output_dir = TaskLearner(trainer), str(trainer.args.output_dir)
    committed = newest_commit(output_dir) if resume else None
    if committed is None:
        check_names(trainer.tasks, learner.knowledge.names)
        if trainer.args.should_save:
            check_kept(output_dir, [*learner.knowledge.names, *(task.name for task in trainer.tasks)])
    tasks = [trainer.prepared(task) for task in trainer.tasks]
    if committed is not None:
        restore(trainer.model, committed)
        check_learned(learner.knowledge, tasks)
    learned = learner.knowledge.names
    trainer.session = [task.name for task in tasks if committed and task.name in learned]
    for name in trainer.session:
        logger.info(f"Task `{name}` is learned already, and is left as it is")
    todo = [task for task in tasks if task.name not in learned]
    learner.prepare(todo)
    trainer.evaluator.clear()  # the model may have changed since the answers were stored
    if trainer.args.should_save:
        tidy(output_dir, learned, committed, resume)
    output = TrainOutput(0, 0.0, {})
    for task in todo:
        logger.info(f"Learning task `{task.name}` ({tasks.index(task) + 1} of {len(tasks)})")
        visit = learner.learn(task, tasks, resume, ignore_keys_for_eval)
        trainer.session.append(task.name)
        learner.commit(visit)
        output = visit.output
        del visit  # frees the task's memory before the next one is trained
        push(trainer, task.name, last=task is todo[-1])
    return output


def check_kept(output_dir: str, names: list[str]) -> None:
    """Refuses a folder whose adapter knows tasks that would be lost.

    Args:
        output_dir (`str`): Where a new stream is about to be written.
        names (`list[str]`): The tasks that the model knows, and those that it is to learn.

    Raises:
        ValueError: names the tasks.
    """
    try:
        held = read_json(Path(output_dir, "adapter_config.json")).get("knowledge") or {}
    except DamagedFileError:  # or there is none
        return
    lost = [task.get("name") for task in held.get("tasks", []) if task.get("name") not in names]
    if lost:
        raise ValueError(
            f"`output_dir` is {output_dir!r}, whose adapter knows {lost}, which would be lost. Give another "
            "`output_dir`, load that adapter to teach it more, or resume that run with `resume_from_checkpoint=True`."
        )


def check_learned(knowledge: KnowledgeBase, tasks: list[PreparedTask]) -> None:
    """Refuses tasks whose name was learned with another kind or other label names.

    Raises:
        ValueError: names the task.
    """
    learned_tasks = {learned.name: learned for learned in knowledge.tasks}
    for task in tasks:
        learned = learned_tasks.get(task.name)
        if learned is not None and not is_alike(learned, task):
            raise ValueError(
                f"Task `{task.name}` was learned as {learned.kind} with the labels {list(learned.labels)}, but is "
                f"given as {task.kind} with {list(task.labels)}. Give it another name, or start again without "
                "`resume_from_checkpoint`."
            )


def tidy(output_dir: str, learned: list[str], committed: Path | None, resume: bool) -> None:
    """Finishes the commit during which the previous run was killed; without `resume`, deletes what that run left.

    Args:
        output_dir (`str`): Where the stream is written.
        learned (`list[str]`): Names of the tasks that the model knows.
        committed (`Path`, *optional*): The commit to resume from.
        resume (`bool`): Whether the previous run is resumed.
    """
    if not resume:
        shutil.rmtree(stream_folder(output_dir), ignore_errors=True)
    if committed is not None:
        for name in learned:
            shutil.rmtree(task_folder(output_dir, name), ignore_errors=True)
        if committed.parent == stream_folder(output_dir):  # otherwise it is the copy in `output_dir`
            publish(committed, output_dir)


def push(trainer: StreamTrainer, name: str, last: bool) -> None:
    """Pushes a commit if the arguments say so. A failed push ends the stream only after the `last` task; otherwise the
    next push includes its changes."""
    if not trainer.args.push_to_hub or trainer.args.hub_strategy == HubStrategy.END:
        return
    try:
        trainer.push_to_hub(f"Learned `{name}`")
    except PushError as error:
        if last:
            raise
        logger.warning(f"Training goes on with the next task. {error}")


def restore(model: torch.nn.Module, folder: Path) -> None:
    """Loads the adapter of a commit, manifest and tensors, into a model.

    Raises:
        DamagedFileError: when a file of the commit cannot be read.
        ValueError: when manifest, tensors and model do not fit each other, or the commit was made with other settings
            or on another base. The model is then as before.
    """
    adapter, before = active_adapter(model), knowledge_of(model)
    config = read_json(folder / "adapter_config.json")
    tensors = read_tensors(folder / "adapter_model.safetensors")
    knowledge = KnowledgeBase.from_dict(config["knowledge"])
    _check_same_run(model, config, knowledge)
    set_knowledge(model, knowledge)
    try:
        check_tensors(model, adapter, tensors, config.get("digest"))
    except ValueError:
        set_knowledge(model, before)
        raise
    model.load_adapter(str(folder), adapter, is_trainable=True)  # type: ignore[operator]
    # The killed run may have pushed after it loaded the adapter, so the commit it was loaded from says nothing.
    lifelong_of(model).config[adapter].loaded_from = None


def _check_same_run(model: torch.nn.Module, config: Mapping[str, Any], knowledge: KnowledgeBase) -> None:
    """Refuses a commit that was made with other settings, or on another base: what it holds would answer otherwise."""
    lost = [name for name in knowledge_of(model).names if name not in knowledge.names]
    if lost:
        raise ValueError(
            f"The model knows {lost}, which the run in `output_dir` does not, so they would be lost. Give another "
            "`output_dir`, or the model that the run began with."
        )
    now = active_config(model).to_dict()
    pairs = {f"`{name}`": (config.get(name, now[name]), now[name]) for name in SHARED_SETTINGS}
    first, second = knowledge.base.get("fingerprint"), knowledge_of(model).base.get("fingerprint")
    if None not in (first, second):  # a base without values has none
        pairs["a base of the fingerprint"] = first, second
    for what, (of_commit, of_model) in pairs.items():
        if of_commit != of_model:
            raise ValueError(
                f"The run in `output_dir` began with {what} {of_commit!r:.100}, and the model now has "
                f"{of_model!r:.100}. Go on with what it began with, or give another `output_dir`."
            )
