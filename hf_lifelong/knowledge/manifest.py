"""The manifest of a knowledge base: which tasks were learned, in which groups, with how many members.

The order of `tasks` is the order of learning, and every stacked tensor of an adapter follows it: the members of the
first task come first in each bank, its head rows come first in the flat head, its signature is row 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import accumulate
from typing import Any

from .constants import UNSTATED, Constants, read_constants
from .reading import ManifestError, check_count, check_type, same_keys
from .records import StatisticRecord, read_statistics

# The format that is written, and the oldest that is read: before it, signatures were of other features.
FORMAT, OLDEST = 4, 2
CONSTANTS_SINCE = 4  # the format that states what answers depend on
UNKNOWN = "unknown"  # what answers where no task is known, so that no task can be called so
# What to do about a task that answers no better than one answer given to all.
CHANCE = (
    "Training may have diverged or been too short: forget the task, and learn it again with a lower `learning_rate`, "
    "or with more steps."
)
LONGEST_NOTE = 200  # characters of a text that is noted of a task's data
MOST_CONSTANTS, LARGEST = 100, 1e30  # of a task; that large is still a float32


@dataclass(frozen=True)
class TaskData:
    """What is known of the data that a task was learned from. All may be missing. Texts have at most `LONGEST_NOTE`
    characters.

    Args:
        name (`str`, *optional*): Name of the data, for people.
        hub_id (`str`, *optional*): Id of the data set on the Hub.
        config (`str`, *optional*): Configuration of that data set, such as `"sst2"` of GLUE.
        rows (`int`, *optional*): Rows that were trained on.
        license (`str`, *optional*): Licence of the data.
        scored_on (`str`, *optional*): The part that the task was last scored on: `"test"` or `"validation"`.
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
        width (`int`): Rows of the head of each member: as many as labels, or 0 on a base with a head of its own.
        members (`int`): Snapshots that were kept.
        group (`str`): Name of the earliest task of the same group; a task that opened a group names itself.
        examples (`int`): Texts that the signature was fitted on.
        score (`float`, *optional*): The task's metric on its own validation part when it was committed.
        baseline (`float`, *optional*): What always giving the most frequent training answer scores there.
        started_from (`str`, *optional*): The task whose newest member training started from; `None` for a fresh start.
        template (`str`, *optional*): What made prompts of columns, where the user gave one (text generation).
        data ([`TaskData`]): Where the task was learned from. Does not count when tasks are compared: it tells nothing
            of what was learned.
        classes (`int`): Classes whose means the signature holds, and that the closed-form head tells apart; 1 where
            inputs have no class.
        constants (`dict[str, float]`): Numbers of its training rows that its kind needs to answer, such as the mean of
            the targets.
        statistics (`tuple[StatisticRecord, ...]`): What was measured of it at its commit, and stored with it.
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

    @property
    def at_chance(self) -> bool:
        """Whether it is known to answer no better than one answer given to all; where that is right of all validation
        rows, it is not known of a task that is right too."""
        return self.score is not None and self.baseline is not None and self.score <= self.baseline and self.score < 1


@dataclass
class KnowledgeBase:
    """All that an adapter knows, without its tensors.

    Args:
        base (`dict`): What the adapter was trained on: `model_type`, `hidden_size`, `layers`, `fingerprint`, `dtype`.
        trunk (`int`): Layers of the trunk.
        depths (`list[int]`): Hidden states (0 = embeddings) that the signature is of, all inside the trunk.
        tasks (`list[LearnedTask]`): What was learned, oldest first.
        scores (`dict`, *optional*): The accuracy matrix (`AccuracyMatrix.to_dict`), as last measured.
        constants ([`Constants`]): The numbers that its answers depend on beside its settings.
    """

    base: dict[str, Any] = field(default_factory=dict)
    trunk: int = 0
    depths: list[int] = field(default_factory=list)
    tasks: list[LearnedTask] = field(default_factory=list)
    scores: dict[str, Any] | None = None
    constants: Constants = field(default_factory=Constants)

    def pooled_width(self, hidden_size: int) -> int:
        """Numbers that the trunk gives for one input: the mean at each depth, and the largest values at the first."""
        return (len(self.depths) + 1) * hidden_size

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
        """First member of each task, then the number of all members."""
        return list(accumulate((task.members for task in self.tasks), initial=0))

    @property
    def head_offsets(self) -> list[int]:
        """First head row of each member (all tasks in order), then the number of all head rows."""
        widths = [task.width for task in self.tasks for _ in range(task.members)]
        return list(accumulate(widths, initial=0))

    @property
    def class_offsets(self) -> list[int]:
        """First class mean of each task's signature, then the number of all."""
        return list(accumulate((task.classes for task in self.tasks), initial=0))

    @property
    def head_rows(self) -> int:
        """Head rows of all members, counted without listing them: a manifest may state more than memory holds."""
        return sum(task.members * task.width for task in self.tasks)

    @property
    def group_of_task(self) -> list[int]:
        """Index into `groups` for each task."""
        index = {name: i for i, name in enumerate(self.groups)}
        return [index[task.group] for task in self.tasks]

    def index(self, name: str) -> int:
        """Position of a task. Raises `KeyError` with the known names."""
        if name not in self.names:
            raise KeyError(f"no task `{name}` in this knowledge base; it knows {self.names}")
        return self.names.index(name)

    @property
    def newest(self) -> list[int]:
        """For each group the position of the task that joined it last: its members answer for the group."""
        return list({group: task for task, group in enumerate(self.group_of_task)}.values())

    def group_index(self, group: int | str) -> int:
        """Index of a group given by index, by group name, or by the name of any of its tasks."""
        if isinstance(group, str):
            return self.group_of_task[self.index(group)]
        if not isinstance(group, int) or not 0 <= group < len(self.groups):
            raise KeyError(f"no group {group!r} in this knowledge base; it has {len(self.groups)} groups")
        return group

    def with_task(self, task: LearnedTask) -> KnowledgeBase:
        """A knowledge base that has learned one more task; its scores lack the task until it is measured."""
        if task.name in self.names:
            raise ManifestError(f"task `{task.name}` is in the knowledge base already; give the new task another name")
        return replace(self, tasks=[*self.tasks, task])

    def with_scored_on(self, parts: Mapping[str, str]) -> KnowledgeBase:
        """A knowledge base that notes on which part of their data (`"test"`, `"validation"`) tasks were scored."""
        tasks = [
            replace(task, data=replace(task.data, scored_on=parts.get(task.name, task.data.scored_on)))
            for task in self.tasks
        ]
        return replace(self, tasks=tasks)

    def without(self, name: str) -> KnowledgeBase:
        """A knowledge base as it would be without one task.

        A group that the task opened is named after its next task. Scores are dropped, because they were measured with
        the forgotten task present.
        """
        gone = self.tasks[self.index(name)]
        rest = [task for task in self.tasks if task.name != name]
        heirs = [task.name for task in rest if task.group == gone.name]
        renamed = [replace(task, group=heirs[0]) if heirs and task.group == gone.name else task for task in rest]
        return replace(self, tasks=renamed, scores=None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form: no tuples, no NaN, no times."""
        data = asdict(self)
        data["format"] = FORMAT
        for task, entry in zip(self.tasks, data["tasks"], strict=True):
            entry["labels"] = list(task.labels)
            entry["statistics"] = [record.to_dict() for record in task.statistics]
            if not task.statistics:
                del entry["statistics"]
        return data

    @classmethod
    def from_dict(cls, data: Any, oldest: int = OLDEST) -> KnowledgeBase:
        """Reads `to_dict`'s form.

        Args:
            oldest (`int`): Oldest format that is read. That of a record without tensors may be older than that of an
                adapter, because formats also differ in what the tensors of signatures are of.

        Raises:
            ManifestError: when a field is missing, surplus, of the wrong type or out of range, or when the format is
                newer than this package reads, or too old.
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
                f"`knowledge.format` is {version}, from before signatures were of what each layer adds; this package "
                f"reads {oldest} to {FORMAT}: learn the tasks again"
            )
        stated = version >= CONSTANTS_SINCE
        same_keys("knowledge", data, {f.name for f in fields(cls) if stated or f.name != "constants"} | {"format"})
        check_type("knowledge.base", data["base"], dict)
        check_count("knowledge.trunk", data["trunk"])
        check_type("knowledge.depths", data["depths"], list)
        for depth in data["depths"]:
            check_count("knowledge.depths", depth, most=data["trunk"])
        if data["depths"] != sorted(set(data["depths"])):
            raise ManifestError(f"`knowledge.depths` must rise, not {data['depths']}")
        check_type("knowledge.tasks", data["tasks"], list)
        if data["scores"] is not None:
            check_type("knowledge.scores", data["scores"], dict)
        tasks = [_read_task(i, task) for i, task in enumerate(data["tasks"])]
        if tasks and not data["depths"]:
            raise ManifestError("`knowledge.depths` must name at least one hidden state")
        _check_groups(tasks)
        constants = read_constants("knowledge.constants", data["constants"]) if stated else UNSTATED
        return cls(data["base"], data["trunk"], list(data["depths"]), tasks, data["scores"], constants)


def _check_groups(tasks: list[LearnedTask]) -> None:
    known: dict[str, LearnedTask] = {}
    for i, task in enumerate(tasks):
        where = f"knowledge.tasks[{i}]"
        if task.name in known:
            raise ManifestError(f"`{where}.name`: `{task.name}` stands twice")
        known[task.name] = task
        opener = known.get(task.group)
        if opener is None:
            raise ManifestError(f"`{where}.group`: `{task.group}` is no earlier task")
        if opener.group != opener.name:
            raise ManifestError(f"`{where}.group`: `{task.group}` opened no group, it belongs to `{opener.group}`")
        for key in ("kind", "labels"):
            if getattr(opener, key) != getattr(task, key):
                raise ManifestError(f"`{where}.{key}` differs from that of its group `{task.group}`")


def _read_task(i: int, data: Any) -> LearnedTask:
    where = f"knowledge.tasks[{i}]"
    check_type(where, data, dict)
    # Manifests from before these were noted lack them.
    absent = {"data": asdict(TaskData()), "classes": 1, "baseline": None, "statistics": []}
    data = {**absent, **data}
    data = {"constants": _constants_of_old(where, data), **data}
    same_keys(where, data, {f.name for f in fields(LearnedTask)})
    for key in ("name", "kind", "group"):
        check_type(f"{where}.{key}", data[key], str)
    check_type(f"{where}.labels", data["labels"], list)
    for label in data["labels"]:
        check_type(f"{where}.labels", label, str)
    for key in ("width", "members", "examples", "classes"):
        check_count(f"{where}.{key}", data[key], least=0 if key == "width" else 1)
    if data["width"] not in (0, len(data["labels"])):
        raise ManifestError(f"`{where}.width` is {data['width']}, but there are {len(data['labels'])} labels")
    _check_constants(f"{where}.constants", data["constants"])
    for key in ("score", "baseline"):
        share = data[key]
        if share is not None and (
            not isinstance(share, int | float) or isinstance(share, bool) or not 0 <= share <= 1
        ):
            raise ManifestError(f"`{where}.{key}` must be a share in [0, 1], not {share!r}")
    for key in ("started_from", "template"):
        if data[key] is not None:
            check_type(f"{where}.{key}", data[key], str)
    noted = _read_data(f"{where}.data", data["data"])
    statistics = read_statistics(f"{where}.statistics", data["statistics"])
    constants = {name: float(number) for name, number in data["constants"].items()}
    labels = tuple(data["labels"])
    return LearnedTask(**{**data, "labels": labels, "data": noted, "constants": constants, "statistics": statistics})


def _constants_of_old(where: str, data: dict[str, Any]) -> dict[str, float]:
    """The one constant that older manifests had, as a field of its own, which is taken out."""
    unanswered = data.pop("unanswered", False)
    check_type(f"{where}.unanswered", unanswered, bool)
    return {"unanswered": 1.0} if unanswered else {}


def _check_constants(where: str, data: Any) -> None:
    check_type(where, data, dict)
    if len(data) > MOST_CONSTANTS:
        raise ManifestError(f"`{where}` has {len(data)} entries, more than {MOST_CONSTANTS}")
    for name, number in data.items():
        # Compared before it is converted: an integer of a file may be too large for a float.
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
