"""The task loop: one Trainer run per task, then commit. And going on after a kill."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import set_seed
from transformers.trainer_utils import HubStrategy, TrainOutput

from ..adapter import lifelong_of
from ..adapter.bank import add_task, close_task, forget, open_task, set_closed_form, set_knowledge
from ..adapter.checks import check_tensors
from ..evaluation import AccuracyMatrix
from ..files import read_json, read_tensors
from ..hub.transfer import PushError, keep_active, write_matrix
from ..knowledge import (
    CHANCE,
    KnowledgeBase,
    LearnedTask,
    best_weight,
    candidate_groups,
    fit_closed_form,
    fit_signature,
    joins,
    told_apart,
)
from ..objectives import get_objective
from .cards import write_card
from .checkpoints import newest_checkpoint, newest_commit, publish, stream_folder, task_folder, write_commit
from .checks import check_stream
from .scoring import spread_over
from .statistics import fit_statistics
from .tasks import PreparedTask, Split, check_names

if TYPE_CHECKING:
    from .trainer import DriftTrainer

logger = logging.getLogger(__name__)

# Training texts by which the known task that lies nearest is found.
COMPARED_TEXTS = 256


def learn(trainer: DriftTrainer, resume: bool, **options: Any) -> TrainOutput:
    """Learns the tasks of a trainer that are not learned yet, one after another.

    Args:
        resume (`bool`): Go on from the newest complete checkpoint, or else the last commit, in `output_dir`.
        options: For `Trainer.train`.

    Returns:
        What `Trainer.train` returned for the last task.

    Raises:
        ValueError: when a task cannot be used; nothing is trained or written then.
    """
    committed = newest_commit(trainer.output_dir) if resume else None
    if committed is None:
        check_names(trainer.tasks, trainer.knowledge.names)
    for task in trainer.tasks:
        trainer.prepared(task)
    if committed is not None:
        restore(trainer.model, committed)
        check_learned(trainer)
    trainer.session = [task.name for task in trainer.tasks if committed and task.name in trainer.knowledge.names]
    todo = [task for task in trainer.tasks if task.name not in trainer.knowledge.names]
    if len(todo) > 1 and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
        raise ValueError(
            f"`tasks` holds {len(todo)} tasks to learn, but under FSDP and DeepSpeed a launch learns one, because a "
            "sharded model cannot grow. Give one task a launch, each time with the adapter of the last one."
        )
    check_stream(trainer, [trainer.prepared(task) for task in todo])
    trainer.scorer.clear()
    if trainer.args.should_save:
        tidy(trainer, resume, committed)
    output = TrainOutput(0, 0.0, {})
    for task in todo:
        logger.info(f"Learning task `{task.name}` ({trainer.tasks.index(task) + 1} of {len(trainer.tasks)})")
        output = learn_task(trainer, trainer.prepared(task), resume, **options)
        trainer.session.append(task.name)
        commit(trainer, task.name, last=task is todo[-1])
    return output


def check_learned(trainer: DriftTrainer) -> None:
    """Refuses tasks that were learned under the same name with another kind or other label names.

    Raises:
        ValueError: names the task.
    """
    known = {task.name: task for task in trainer.knowledge.tasks}
    for task in trainer.tasks:
        learned, now = known.get(task.name), trainer.prepared(task)
        if learned is not None and (learned.kind, learned.labels) != (now.kind, now.labels):
            raise ValueError(
                f"Task `{task.name}` was learned as {learned.kind} with the labels {list(learned.labels)}, but is now "
                f"{now.kind} with {list(now.labels)}. Give it another name, or start again without "
                "`resume_from_checkpoint`."
            )


def tidy(trainer: DriftTrainer, resume: bool, committed: Path | None) -> None:
    """Ends what the run before was killed in the middle of; drops what it left where it is not resumed."""
    if not resume:
        shutil.rmtree(stream_folder(trainer.output_dir), ignore_errors=True)
    if committed is not None:
        for name in trainer.knowledge.names:
            shutil.rmtree(task_folder(trainer.output_dir, name), ignore_errors=True)
        if committed.parent == stream_folder(trainer.output_dir):  # else it is the copy there
            publish(committed, trainer.output_dir)


def learn_task(trainer: DriftTrainer, prepared: PreparedTask, resume: bool, **options: Any) -> TrainOutput:
    """Trains a task and keeps what it gave, in memory; the model is as before when that fails."""
    before, forward = trainer.knowledge, score_before(trainer, prepared)
    try:
        started_from = begin(trainer, prepared)
        checkpoint = newest_checkpoint(Path(trainer.task_dir), prepared.name, before.names) if resume else None
        trainer.snapshots.begin(prepared.name, before.names, trainer.task_dir, checkpoint)
        output = trainer.train_task(str(checkpoint.folder) if checkpoint else None, **options)
        learned = keep(trainer, prepared, started_from)
        close_task(trainer.model)
        scores = measure(trainer, prepared, forward)
    except BaseException:
        if trainer.knowledge.names != before.names:
            forget(trainer.model, prepared.name)
        close_task(trainer.model)
        set_knowledge(trainer.model, before)
        raise
    trainer.log({f"eval_{key}": value for key, value in scores.items()})
    logger.info(f"Task `{learned.name}` is kept in group `{learned.group}` with {learned.members} members")
    return output


def commit(trainer: DriftTrainer, name: str, last: bool) -> None:
    """Writes what was learned, whole or not at all, and drops the checkpoints of the task that it ends. A push that
    fails ends the stream only after its `last` task: the next push takes along what this one did not."""
    if trainer.args.should_save:
        write_commit(trainer.output_dir, lambda folder: save(trainer, folder))
        shutil.rmtree(task_folder(trainer.output_dir, name), ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    if not trainer.args.push_to_hub or trainer.args.hub_strategy == HubStrategy.END:
        return
    try:
        trainer.push_to_hub(f"Learned `{name}`")
    except PushError as error:
        if last:
            raise
        logger.warning(f"Training goes on with the next task. {error}")


def restore(model: torch.nn.Module, folder: Path) -> None:
    """Gives a model the adapter of a commit: manifest and tensors.

    Raises:
        DamagedFileError: when a file of the commit cannot be read.
        ValueError: when manifest and tensors do not fit each other or the model.
    """
    root = lifelong_of(model)
    adapter = root.active_adapters[0]
    config = read_json(folder / "adapter_config.json")
    tensors = read_tensors(folder / "adapter_model.safetensors")
    set_knowledge(model, KnowledgeBase.from_dict(config["knowledge"]))
    check_tensors(model, adapter, tensors, config.get("digest"))
    model.load_adapter(str(folder), adapter, is_trainable=True)  # type: ignore[operator]
    # The run that was killed may have pushed since it was loaded.
    root.config[adapter].loaded_from = None


def score_before(trainer: DriftTrainer, prepared: PreparedTask) -> float | None:
    """The score on a task that is not learned yet, for FWT: of the model as it stands, which is not told the task.
    `None` where no learned task is of the same kind with the same label names, so that no answer could be right, and
    of a sharded model, which is whole only after training."""
    alike = [(task.kind, task.labels) == (prepared.kind, prepared.labels) for task in trainer.knowledge.tasks]
    if not any(alike) or not prepared.labels or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return None
    return trainer.scorer.score(prepared, prepared.test).metrics[prepared.objective.metric]


def begin(trainer: DriftTrainer, prepared: PreparedTask) -> str | None:
    """Makes trainer and model ready for a task; returns the task that training starts from, if any."""
    set_seed(trainer.args.seed + prepared.seed)
    start = starting_point(trainer, prepared)
    same_head = start is not None and (start.kind, start.labels) == (prepared.kind, prepared.labels)
    set_seed(trainer.args.seed + prepared.seed)
    name = start.name if start is not None else None
    open_task(trainer.model, prepared.kind, prepared.labels, prepared.width, name, same_head)
    trainer.start_task(prepared)
    return name


def starting_point(trainer: DriftTrainer, prepared: PreparedTask) -> LearnedTask | None:
    """The learned task that a new one starts from, as `start_from` says."""
    knowledge, how = trainer.knowledge, trainer.args.start_from
    if how == "fresh" or not knowledge.tasks:
        return None
    if how == "previous":
        return knowledge.tasks[-1]
    form = (prepared.kind, prepared.labels)
    alike = [task for task in knowledge.newest if (knowledge.tasks[task].kind, knowledge.tasks[task].labels) == form]
    if not alike or not prepared.labels:  # answers that are texts of their own have no form in common
        return None
    if len(alike) == 1 or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return knowledge.tasks[alike[-1]]  # a sharded model is whole, and can be asked, only after training
    some = trainer.scorer.features(prepared, prepared.asked, min(COMPARED_TEXTS, trainer.args.signature_samples))
    nearest = candidate_groups(knowledge, lifelong_of(trainer.model).router, some, *form)[0]
    return knowledge.tasks[knowledge.newest[nearest]]


def train_features(trainer: DriftTrainer, prepared: PreparedTask) -> torch.Tensor:
    """Trunk features of the training texts that a signature is fitted on, `[n, D]`."""
    return trainer.scorer.features(prepared, prepared.asked, trainer.args.signature_samples)


def train_classes(trainer: DriftTrainer, prepared: PreparedTask) -> torch.Tensor | None:
    """The class of each of these texts, `[n]`; `None` where texts have no class."""
    if not prepared.objective.one_label:
        return None
    labels = prepared.asked["labels"]
    return torch.tensor([labels[i] for i in spread_over(len(labels), trainer.args.signature_samples)])


def keep(trainer: DriftTrainer, prepared: PreparedTask, started_from: str | None) -> LearnedTask:
    """Adds the members of a task to the model and decides their group."""
    model, scorer = trainer.model, trainer.scorer
    config = lifelong_of(model).config[lifelong_of(model).active_adapters[0]]
    before, router = trainer.knowledge, lifelong_of(model).router
    features, of_class = train_features(trainer, prepared), train_classes(trainer, prepared)
    examples = min(len(prepared.asked), trainer.args.signature_samples)
    learned = prepared.learned(len(trainer.snapshots.snapshots), examples, started_from)
    signature = fit_signature(features, config.signature_rank, of_class, learned.classes)
    near, held_out = [], features
    if trainer.args.grouping == "performance":
        held_out = scorer.features(prepared, prepared.validation.features, trainer.args.signature_samples)
        near = candidate_groups(before, router, held_out, prepared.kind, prepared.labels)
    add_task(model, learned, trainer.snapshots.snapshots, signature)
    if of_class is not None:
        add_closed_form(trainer, prepared, features, of_class)
    objective = prepared.objective
    own = scorer.oracle(prepared, prepared.validation, prepared.name)
    group = prepared.name
    likelihood = lifelong_of(model).likelihood(held_out.to(lifelong_of(model).where())) if near else None
    for candidate in near:
        members = [task for task, group in enumerate(before.group_of_task) if group == candidate]
        if likelihood is None or told_apart(likelihood, len(before.tasks), members):
            continue
        newest = before.tasks[before.newest[candidate]].name
        old = scorer.oracle(prepared, prepared.validation, newest)
        if joins(old[objective.likeness], own[objective.likeness], trainer.args.grouping_tolerance):
            group = before.groups[candidate]
            break
    baseline = majority(prepared, prepared.validation)
    learned = replace(learned, score=own[objective.metric], baseline=baseline, group=group)
    set_knowledge(model, replace(trainer.knowledge, tasks=[*before.tasks, learned]))
    fit_statistics(trainer, prepared, features)
    if learned.at_chance:
        logger.warning(
            f"Task `{learned.name}` is kept, but its {objective.metric} on its validation part is "
            f"{learned.score:.3f}, and that of always giving its most frequent answer {baseline:.3f}. {CHANCE}"
        )
    return learned


def add_closed_form(
    trainer: DriftTrainer, prepared: PreparedTask, features: torch.Tensor, labels: torch.Tensor
) -> None:
    """Gives a task that was just added its closed-form head, weighed on its validation part.

    Args:
        features (`Tensor`): `[n, D]`, trunk features of training texts.
        labels (`Tensor`): `[n]`, their classes.
    """
    found = fit_closed_form(features, labels, len(prepared.labels))
    if found is None:
        return
    scorer, split = trainer.scorer, prepared.validation
    members = scorer.probabilities(prepared, split, prepared.name)
    closed = scorer.features(prepared, split.features) @ found[0].T + found[1]
    tiny = torch.finfo(members.dtype).tiny
    weight = best_weight(members.clamp_min(tiny).log(), closed, torch.tensor(split.features["labels"]))
    set_closed_form(trainer.model, prepared.name, *(weight * part for part in found))
    scorer.forget(prepared.name)


def measure(
    trainer: DriftTrainer, newest: PreparedTask | None = None, forward: float | None = None
) -> dict[str, float]:
    """Scores every learned task of the trainer, writes the accuracy matrix into the manifest, and logs it.

    Args:
        newest (`PreparedTask`, *optional*): The task that was just learned, which adds a row and a column; without it
            the last row is measured again.
        forward (`float`, *optional*): Score on it just before it was learned.
    """
    knowledge, scorer = trainer.knowledge, trainer.scorer
    matrix = trainer.matrix or AccuracyMatrix()
    free: dict[str, float] = {}
    oracle: dict[str, float] = {}
    retrieval: dict[str, float] = {}
    details: dict[str, float] = {}
    confusion: dict[str, dict[str, float]] = {}
    parts: dict[str, str] = {}
    for task in trainer.tasks:
        if task.name not in knowledge.names:
            continue
        prepared = trainer.prepared(task)
        metric = prepared.objective.metric
        own = knowledge.tasks[knowledge.newest[knowledge.group_index(task.name)]].name
        scored = scorer.score(prepared, prepared.test)
        given = scorer.oracle(prepared, prepared.test, own)
        free[task.name], oracle[task.name] = scored.metrics[metric], given[metric]
        retrieval[task.name] = scored.retrieval
        groups = Counter(scored.groups)
        confusion[task.name] = {name: count / len(scored.groups) for name, count in groups.items()}
        parts[task.name] = str(prepared.source.scored_on)
        details |= {f"{task.name}_{key}": value for key, value in scored.metrics.items()}
        details |= {f"{task.name}_oracle_{metric}": given[metric], f"{task.name}_retrieval": scored.retrieval}
    # `forget` drops all scores, and this trainer need not have all tasks that are left: their rows are empty.
    for learned in knowledge.tasks:
        if learned.name not in matrix.tasks and (newest is None or learned.name != newest.name):
            matrix.add(learned.name, get_objective(learned.kind).metric, None, {})
    if newest is not None:
        matrix.add(
            newest.name,
            newest.objective.metric,
            majority(newest, newest.test),
            free,
            oracle,
            retrieval,
            forward,
            confusion,
        )
    else:
        matrix.replace_last(free, oracle, retrieval, confusion)
    known = knowledge.with_scored_on(parts)
    set_knowledge(trainer.model, replace(known, scores=matrix.to_dict()))
    return details | matrix.summary()


def majority(prepared: PreparedTask, split: Split) -> float:
    """The score of always giving the most frequent training answer; on the test part R[0] of the accuracy matrix."""
    references = prepared.objective.references
    train = references(prepared.train_examples, prepared.columns, prepared.labels)
    scored = references(split.examples, prepared.columns, prepared.labels)
    return prepared.objective.majority(train, scored)


def save(trainer: DriftTrainer, folder: Path) -> None:
    """Writes the adapter folder: adapter, tokenizer, accuracy matrix as JSON and picture, model card."""
    trainer.model.save_pretrained(str(folder))
    keep_active(trainer.model, folder)
    if trainer.processing_class is not None:
        trainer.processing_class.save_pretrained(str(folder))
    if trainer.matrix is not None:
        write_matrix(trainer.matrix, folder)
    write_card(trainer, folder)  # last: PEFT has written a card of its own, and the picture is there
