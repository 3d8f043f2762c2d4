"""The manifest of a knowledge base: which tasks were learned, in which groups, with how many members.

`tasks` is in the order of learning, and every stacked tensor of an adapter follows this order: the members of the
first task come first in each bank, its head rows come first in the flat head, and its signature is row 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import accumulate
from typing import Any

from .constants import UNSTATED, Constants, read_constants
from .likelihood_ratio import Tail
from .reading import ManifestError, check_count, check_list, check_number, check_type, same_keys
from .records import StatisticRecord, read_statistics

# The format that is written, and the oldest one that is read. Older formats have signatures of other features.
FORMAT, OLDEST = 6, 2
CONSTANTS_SINCE = 4  # the first format that stores the constants
# How the hidden states of a text's tokens become features: by their mean at each depth and the largest values at the
# first, or by the last token alone. A manifest that does not state it has the first.
POOLINGS = ("mean-and-peak", "last")
UNKNOWN = "unknown"  # the task reported for unknown inputs; no task can have this name
# Advice for a task that does no better than always giving the same answer.
CHANCE = (
    "Training may have diverged or been too short: forget the task, and learn it again with a lower `learning_rate`, "
    "or with more steps."
)
LONGEST_NOTE = 200  # characters of a text about a task's data
MOST_CONSTANTS, LARGEST = 100, 1e30  # constants of a task, and their largest value, which float32 can hold


@dataclass(frozen=True)
class TaskData:
    """What is known about the data that a task was learned from. Every field is optional. Texts have at most
    `LONGEST_NOTE` characters.

    Args:
        name (`str`, *optional*): Name of the data, for people.
        hub_id (`str`, *optional*): Id of the data set on the Hub.
        config (`str`, *optional*): Configuration of that data set, such as `"sst2"` of GLUE.
        rows (`int`, *optional*): Number of training rows.
        license (`str`, *optional*): Licence of the data.
        scored_on (`str`, *optional*): The part on which the task was last scored: `"test"` or `"validation"`.
    """

    name: str | None = None
    hub_id: str | None = None
    config: str | None = None
    rows: int | None = None
    license: str | None = None
    scored_on: str | None = None


@dataclass(frozen=True)
class LearnedTask:
    """One visit to a task.

    Args:
        name (`str`): Name of the task, unique in a knowledge base.
        kind (`str`): Objective of the task, such as `"text-classification"`.
        labels (`tuple[str, ...]`): Label names in the order of the head's rows.
        width (`int`): Rows of each member's head: one per label, or 0 on a base with a head of its own.
        members (`int`): Number of members, the snapshots kept from training.
        group (`str`): Name of the earliest task of the same group; a task that opened a group names itself.
        examples (`int`): Number of texts that the signature was fitted on.
        score (`float`, *optional*): The task's metric on its own validation part when it was committed.
        baseline (`float`, *optional*): The metric of always giving the most frequent training answer, on that part.
        started_from (`str`, *optional*): Training started from the newest member of this task; `None` for a fresh
            start.
        template (`str`, *optional*): The user's template that makes prompts from columns (text generation).
        data ([`TaskData`]): The data that the task was learned from. Ignored when tasks are compared, because it says
            nothing about what was learned.
        classes (`int`): Number of classes whose means the signature holds and that the closed-form head tells apart; 1
            if inputs have no class.
        constants (`dict[str, float]`): Numbers computed from the training rows that the task's kind needs to answer,
            such as the mean of the targets.
        statistics (`tuple[StatisticRecord, ...]`): Statistics measured when the task was committed, stored with it.
        extends (`str`, *optional*): The earlier task to which this one adds labels. Answers of both have the name of
            that task's group.
        tail ([`Tail`], *optional*): Where its held-out inputs lay when it was committed.
        class_examples (`tuple[int, ...]`): How many of the `examples` each class has; empty where that is not known.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    width: int
    members: int
    group: str
    examples: int
    score: float | None = None
    started_from: str | None = None
    template: str | None = None
    data: TaskData = field(default=TaskData(), compare=False)
    classes: int = 1
    constants: Mapping[str, float] = field(default_factory=dict)
    baseline: float | None = None
    statistics: tuple[StatisticRecord, ...] = ()
    extends: str | None = None
    tail: Tail | None = None
    class_examples: tuple[int, ...] = ()

    @property
    def at_chance(self) -> bool:
        """Whether the task is known to score no better than always giving the same answer. A perfect score never
        counts as chance, even if one answer is right for all validation rows."""
        return self.score is not None and self.baseline is not None and self.score <= self.baseline and self.score < 1


@dataclass
class KnowledgeBase:
    """Everything that an adapter knows, except its tensors.

    Args:
        base (`dict`): The base model of training: `model_type`, `hidden_size`, `layers`, `fingerprint`, `dtype`, and
            `modality` unless it takes text.
        trunk (`int`): Number of trunk layers.
        depths (`list[int]`): Hidden states (0 = embeddings) that make up the signature, all inside the trunk.
        tasks (`list[LearnedTask]`): The learned tasks, oldest first.
        scores (`dict`, *optional*): The accuracy matrix (`AccuracyMatrix.to_dict`) of the last evaluation.
        constants ([`Constants`]): Numbers that answers depend on, in addition to the settings.
        pooling (`str`): How a text's hidden states become features, one of `POOLINGS`.
    """

    base: dict[str, Any] = field(default_factory=dict)
    trunk: int = 0
    depths: list[int] = field(default_factory=list)
    tasks: list[LearnedTask] = field(default_factory=list)
    scores: dict[str, Any] | None = None
    constants: Constants = field(default_factory=Constants)
    pooling: str = POOLINGS[0]

    @property
    def class_counts(self) -> list[int] | None:
        """Number of inputs of each class, task after task, a class without any counting as the most frequent of its
        task, which it shares; `None` if it is not known of every task."""
        counts = [task.class_examples for task in self.tasks]
        return [n or max(of_task) for of_task in counts for n in of_task] if all(counts) else None

    def pooled_width(self, hidden_size: int) -> int:
        """Number of features of one input before projection: one vector for each depth and, of a text by its mean, the
        maximum at the first."""
        return (len(self.depths) + (self.modality == "text" and self.pooling == POOLINGS[0])) * hidden_size

    @property
    def modality(self) -> str:
        """What the base takes."""
        return self.base.get("modality", "text")

    @property
    def names(self) -> list[str]:
        """Task names, oldest first."""
        return [task.name for task in self.tasks]

    @property
    def groups(self) -> list[str]:
        """Group names in the order in which the groups were opened."""
        return list(dict.fromkeys(task.group for task in self.tasks))

    @property
    def member_offsets(self) -> list[int]:
        """First member of each task, then the total number of members."""
        return list(accumulate((task.members for task in self.tasks), initial=0))

    @property
    def head_offsets(self) -> list[int]:
        """First head row of each member (all tasks in order), then the total number of head rows."""
        widths = [task.width for task in self.tasks for _ in range(task.members)]
        return list(accumulate(widths, initial=0))

    @property
    def class_offsets(self) -> list[int]:
        """First class mean of each task's signature, then the total number of class means."""
        return list(accumulate((task.classes for task in self.tasks), initial=0))

    @property
    def group_of_task(self) -> list[int]:
        """For each task the index of its group in `groups`."""
        index = {name: i for i, name in enumerate(self.groups)}
        return [index[task.group] for task in self.tasks]

    def index(self, name: str) -> int:
        """Position of a task. Raises `KeyError` with the known names."""
        if name not in self.names:
            raise KeyError(f"no task `{name}` in this knowledge base; it knows {self.names}")
        return self.names.index(name)

    @property
    def newest(self) -> list[int]:
        """For each group the position of its newest task, whose members answer for the group."""
        return list({group: task for task, group in enumerate(self.group_of_task)}.values())

    def answers_as(self, task: LearnedTask) -> str:
        """The name under which a task answers: that of its group, or of the group to which it adds labels."""
        opener = self.tasks[self.index(task.group)]
        return task.group if opener.extends is None else self.tasks[self.index(opener.extends)].group

    def groups_of(self, name: str) -> list[int]:
        """Indices of the groups that answer for a task: its own, and those that add labels to it. `KeyError` if there
        is no such task."""
        own = self.groups[self.group_of_task[self.index(name)]]
        openers = [self.tasks[self.index(group)] for group in self.groups]
        return [i for i, opener in enumerate(openers) if own in (opener.group, self.answers_as(opener))]

    def group_index(self, group: int | str) -> int:
        """Index of a group given by index, by group name, or by the name of any of its tasks."""
        if isinstance(group, str):
            return self.group_of_task[self.index(group)]
        if not isinstance(group, int) or not 0 <= group < len(self.groups):
            raise KeyError(f"no group {group!r} in this knowledge base; it has {len(self.groups)} groups")
        return group

    def with_task(self, task: LearnedTask) -> KnowledgeBase:
        """The knowledge base with one more learned task. Its scores lack the task until the next evaluation."""
        if task.name in self.names:
            raise ManifestError(f"task `{task.name}` is in the knowledge base already; give the new task another name")
        return replace(self, tasks=[*self.tasks, task])

    def with_scored_on(self, parts: Mapping[str, str]) -> KnowledgeBase:
        """The knowledge base with a note of the part of the data (`"test"`, `"validation"`) that each task was scored
        on.

        Args:
            parts (`Mapping[str, str]`): Task → part; other tasks keep their note.
        """
        tasks = [
            replace(task, data=replace(task.data, scored_on=parts.get(task.name, task.data.scored_on)))
            for task in self.tasks
        ]
        return replace(self, tasks=tasks)

    def without(self, name: str) -> KnowledgeBase:
        """The knowledge base as if a task had never been learned.

        If the task opened a group, the group takes the name of its next task. A task that added labels to it stands
        alone then. Scores are dropped, because they were measured while the task was present.
        """
        gone = self.tasks[self.index(name)]
        rest = [task for task in self.tasks if task.name != name]
        heirs = [task.name for task in rest if task.group == gone.name]
        left = [
            replace(
                task,
                group=heirs[0] if heirs and task.group == gone.name else task.group,
                extends=None if task.extends == gone.name else task.extends,
            )
            for task in rest
        ]
        return replace(self, tasks=left, scores=None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form: no tuples, no NaN, no times."""
        data = asdict(self)
        data["format"] = FORMAT
        if self.pooling == POOLINGS[0]:
            del data["pooling"]
        for task, entry in zip(self.tasks, data["tasks"], strict=True):
            entry["labels"], entry["class_examples"] = list(task.labels), list(task.class_examples)
            entry["statistics"] = [record.to_dict() for record in task.statistics]
            for key in ("extends", "tail", "class_examples", "statistics"):
                if entry[key] is None or entry[key] == []:
                    del entry[key]
        return data

    @classmethod
    def from_dict(cls, data: Any, oldest: int = OLDEST) -> KnowledgeBase:
        """Reads `to_dict`'s form.

        Args:
            oldest (`int`): Oldest format that is read. A record without tensors may be older than an adapter, because
                some formats differ only in the features of the signature tensors.

        Raises:
            ManifestError: when a field is missing, unexpected, of the wrong type or out of range, or when the format
                is too old or newer than this package reads.
        """
        if not isinstance(data, dict):
            raise ManifestError(f"`knowledge` must be an object, not {type(data).__name__}")
        version = data.get("format")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ManifestError(f"`knowledge.format` must be a positive integer, not {version!r}")
        if version > FORMAT:
            raise ManifestError(
                f"`knowledge.format` is {version}, this package reads up to {FORMAT}; "
                "upgrade with `pip install -U hf_lifelong`"
            )
        if version < oldest:
            raise ManifestError(
                f"`knowledge.format` is {version}, whose signatures have other features; this package reads {oldest} "
                f"to {FORMAT}: learn the tasks again"
            )
        stated = version >= CONSTANTS_SINCE
        data = {"pooling": POOLINGS[0], **data}
        same_keys("knowledge", data, {f.name for f in fields(cls) if stated or f.name != "constants"} | {"format"})
        check_type("knowledge.base", data["base"], dict)
        check_count("knowledge.trunk", data["trunk"])
        check_type("knowledge.depths", data["depths"], list)
        for depth in data["depths"]:
            check_count("knowledge.depths", depth, most=data["trunk"])
        if data["depths"] != sorted(set(data["depths"])):
            raise ManifestError(f"`knowledge.depths` must rise, not {data['depths']}")
        if data["pooling"] not in POOLINGS:
            raise ManifestError(f"`knowledge.pooling` must be one of {list(POOLINGS)}, not {data['pooling']!r:.60}")
        check_type("knowledge.tasks", data["tasks"], list)
        if data["scores"] is not None:
            check_type("knowledge.scores", data["scores"], dict)
        tasks = [_read_task(i, task) for i, task in enumerate(data["tasks"])]
        if tasks and not data["depths"]:
            raise ManifestError("`knowledge.depths` must name at least one hidden state")
        _check_groups(tasks)
        constants = read_constants("knowledge.constants", data["constants"], version) if stated else UNSTATED
        depths, pooling = list(data["depths"]), data["pooling"]
        return cls(data["base"], data["trunk"], depths, tasks, data["scores"], constants, pooling)


def _check_groups(tasks: list[LearnedTask]) -> None:
    earlier: dict[str, LearnedTask] = {}
    for i, task in enumerate(tasks):
        where = f"knowledge.tasks[{i}]"
        if task.name in earlier:
            raise ManifestError(f"`{where}.name`: `{task.name}` stands twice")
        earlier[task.name] = task
        opener = earlier.get(task.group)
        if opener is None:
            raise ManifestError(f"`{where}.group`: `{task.group}` is no earlier task")
        if opener.group != opener.name:
            raise ManifestError(f"`{where}.group`: `{task.group}` opened no group, it belongs to `{opener.group}`")
        for key in ("kind", "labels"):
            if getattr(opener, key) != getattr(task, key):
                raise ManifestError(f"`{where}.{key}` differs from that of its group `{task.group}`")
        if task.extends is not None:
            extended = earlier.get(task.extends)
            if extended is None or extended is task or extended.extends is not None or extended.kind != task.kind:
                raise ManifestError(f"`{where}.extends`: `{task.extends}` is no earlier task that can take new labels")


def _read_task(i: int, data: Any) -> LearnedTask:
    where = f"knowledge.tasks[{i}]"
    check_type(where, data, dict)
    # Older formats lack these fields.
    absent = {"data": asdict(TaskData()), "classes": 1, "baseline": None, "statistics": []}
    data = {**absent, "extends": None, "tail": None, "class_examples": [], **data}
    data = {"constants": _constants_of_old(where, data), **data}
    same_keys(where, data, {f.name for f in fields(LearnedTask)})
    for key in ("name", "kind", "group"):
        check_type(f"{where}.{key}", data[key], str)
    check_type(f"{where}.labels", data["labels"], list)
    for label in data["labels"]:
        check_type(f"{where}.labels", label, str)
    for key in ("width", "members", "examples", "classes"):
        check_count(f"{where}.{key}", data[key], least=0 if key == "width" else 1)
    check_list(f"{where}.class_examples", data["class_examples"], data["classes"])
    for count in data["class_examples"]:
        check_count(f"{where}.class_examples", count)
    if data["class_examples"] and len(data["class_examples"]) != data["classes"]:
        raise ManifestError(f"`{where}.class_examples` must have an entry for each of {data['classes']} classes")
    if data["width"] not in (0, len(data["labels"])):
        raise ManifestError(f"`{where}.width` is {data['width']}, but there are {len(data['labels'])} labels")
    _check_constants(f"{where}.constants", data["constants"])
    for key in ("score", "baseline"):
        share = data[key]
        if share is not None and (
            not isinstance(share, int | float) or isinstance(share, bool) or not 0 <= share <= 1
        ):
            raise ManifestError(f"`{where}.{key}` must be a share in [0, 1], not {share!r}")
    for key in ("started_from", "template", "extends"):
        if data[key] is not None:
            check_type(f"{where}.{key}", data[key], str)
    task_data = _read_data(f"{where}.data", data["data"])
    statistics = read_statistics(f"{where}.statistics", data["statistics"])
    constants = {name: float(number) for name, number in data["constants"].items()}
    parsed = {
        "labels": tuple(data["labels"]),
        "class_examples": tuple(data["class_examples"]),
        "data": task_data,
        "constants": constants,
        "statistics": statistics,
        "tail": None if data["tail"] is None else _read_tail(f"{where}.tail", data["tail"]),
    }
    return LearnedTask(**{**data, **parsed})


def _read_tail(where: str, data: Any) -> Tail:
    check_type(where, data, dict)
    same_keys(where, data, {f.name for f in fields(Tail)})
    check_number(f"{where}.excess", data["excess"], 1.0, LARGEST)
    check_count(f"{where}.directions", data["directions"], 1, 1024)
    return Tail(float(data["excess"]), data["directions"])


def _constants_of_old(where: str, data: dict[str, Any]) -> dict[str, float]:
    """The constant of older formats, which have it as a field of the task. The field is removed from `data`."""
    unanswered = data.pop("unanswered", False)
    check_type(f"{where}.unanswered", unanswered, bool)
    return {"unanswered": 1.0} if unanswered else {}


def _check_constants(where: str, data: Any) -> None:
    check_type(where, data, dict)
    if len(data) > MOST_CONSTANTS:
        raise ManifestError(f"`{where}` has {len(data)} entries, more than {MOST_CONSTANTS}")
    for name, number in data.items():
        # Compared before conversion, because an integer in a file may be too large for a float.
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if len(name) > LONGEST_NOTE or not is_number or not -LARGEST <= number <= LARGEST:
            raise ManifestError(
                f"`{where}` must be numbers of at most {LARGEST:g} by name, not {name!r:.60}: {number!r:.60}"
            )


def _read_data(where: str, data: Any) -> TaskData:
    check_type(where, data, dict)
    same_keys(where, data, {f.name for f in fields(TaskData)})
    for key in ("name", "hub_id", "config", "license"):
        if data[key] is not None:
            check_type(f"{where}.{key}", data[key], str)
            if len(data[key]) > LONGEST_NOTE:
                raise ManifestError(f"`{where}.{key}` has {len(data[key])} characters, more than {LONGEST_NOTE}")
    if data["rows"] is not None:
        check_count(f"{where}.rows", data["rows"])
    if data["scored_on"] not in (None, "test", "validation"):
        raise ManifestError(f'`{where}.scored_on` must be "test" or "validation", not {data["scored_on"]!r:.60}')
    return TaskData(**data)
