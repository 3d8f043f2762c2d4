"""What can be asked of a served adapter. Requests for equal jobs share a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..adapter import knowledge_of
from ..hub import SavedAdapter
from ..knowledge import KnowledgeBase
from ..objectives import get_kind
from ..pipeline import LifelongPipeline
from .limits import INVALID, RequestError

# Largest number of texts or images in a pass on a CPU. Larger passes answer no faster, and texts are padded to the
# longest one of their pass.
CPU_ROWS = 8


@dataclass(frozen=True, eq=False)
class Served:
    """An adapter that is loaded, as a whole: a reload makes another one.

    Args:
        saved ([`SavedAdapter`]): Its files.
        pipe ([`LifelongPipeline`]): Answers.
        stamp: What tells its files from later ones.
    """

    saved: SavedAdapter
    pipe: LifelongPipeline
    stamp: Any

    @property
    def name(self) -> str:
        """Its name for clients: the repository, or the last part of the folder."""
        return self.saved.repo_id or self.saved.folder.resolve().name

    @property
    def knowledge(self) -> KnowledgeBase:
        """What it has learned."""
        return knowledge_of(self.pipe.model)

    @property
    def tasks(self) -> list[str]:
        """The names under which its tasks answer."""
        return list(dict.fromkeys(self.knowledge.answers_as(task) for task in self.knowledge.tasks))

    def pass_size(self, batch_size: int) -> int:
        """How many rows of a batch run in one pass; the pipeline sorts a batch by length before it splits it."""
        on_cpu = next(self.pipe.model.parameters()).device.type == "cpu"
        return min(batch_size, CPU_ROWS) if on_cpu and not self.pipe.generates else batch_size

    def check_task(self, name: str | None) -> None:
        """Refuses the name of a task that it does not know."""
        if name is not None and name not in self.knowledge.names:
            raise RequestError(INVALID, f"`task` is {name!r:.100}; it knows {', '.join(self.knowledge.names)}.")

    def check_writes(self) -> None:
        """Refuses a completion unless the base is a language model."""
        if not self.pipe.generates:
            raise RequestError(INVALID, "The adapter is no language model; use `/answer` or `/classify`.")


class Job(Protocol):
    """Something that is done with rows, in the worker's thread."""

    def run(self, served: Served, rows: list[Any], batch_size: int) -> Sequence[Any]:
        """One result for each row."""


@dataclass(frozen=True)
class Answer:
    """Answers of the pipeline.

    Args:
        abstain (`bool`): As in the pipeline.
        task (`str`, *optional*): The task, if the client names it.
        labels (`bool`): Whether answers are labels: only tasks with one label for each input answer, and a language
            model gives the likeliest label of its task.
    """

    abstain: bool = False
    task: str | None = None
    labels: bool = False

    def run(self, served: Served, rows: list[Any], batch_size: int) -> Sequence[Any]:
        served.check_task(self.task)
        options: dict[str, Any] = {"per_batch": False}  # a batch holds the rows of several clients
        if self.task is not None:
            options |= {"policy": "oracle", "group": self.task}
        if self.labels and served.pipe.generates:
            options["labels"] = True
        elif self.labels:
            options["kinds"] = one_label_kinds(served.knowledge)
        size = served.pass_size(batch_size)
        return list(served.pipe(rows, batch_size=size, abstain=self.abstain, **options))


@dataclass(frozen=True)
class Route:
    """The group of each input, without an answer."""

    abstain: bool = False

    def run(self, served: Served, rows: list[Any], batch_size: int) -> Sequence[Any]:
        return served.pipe.route(rows, batch_size=served.pass_size(batch_size), abstain=self.abstain)


def one_label_kinds(knowledge: KnowledgeBase) -> list[str]:
    """The kinds of learned tasks whose answer is one label.

    Raises:
        RequestError: when there is none.
    """
    kinds = sorted({task.kind for task in knowledge.tasks if get_kind(task.kind).one_label})
    if not kinds:
        raise RequestError(INVALID, "No learned task answers with a label; use `/answer`.")
    return kinds
