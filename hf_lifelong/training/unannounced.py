"""The loop over a stream that does not say where a task ends: finds the boundaries, learns what lies between them, and
answers inputs without a label."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

from torch import Tensor
from tqdm.auto import tqdm
from transformers import ProgressCallback
from transformers.trainer_utils import TrainOutput

from ..adapter import active_config
from ..knowledge import UNKNOWN
from ..pipeline import NOTHING
from ..streams import BoundaryDetector, group_references, input_features, pipeline_of
from .checkpoints import newest_commit
from .drift import cycle_ends, steps_of
from .events import tell
from .learner import TaskLearner
from .protocol import UnannouncedTrainer
from .reading import END, FULL, Boundary, Reading, read_reading, write_reading
from .rows import Arrival, fingerprint, strays
from .stream import push, restore, tidy
from .tasks import Task

logger = logging.getLogger(__name__)

# Inputs after which a stream without any label is suspected to have its labels elsewhere.
SUSPICIOUS = 1000


def learn_unannounced(
    trainer: UnannouncedTrainer, resume: bool = False, ignore_keys_for_eval: list[str] | None = None
) -> TrainOutput:
    """Learns the stream of a trainer to its end, one segment between two boundaries after another.

    Args:
        trainer ([`UnannouncedTrainer`]): Holds the stream and trains.
        resume (`bool`): Whether to go on where an earlier run with the same `output_dir` was. The stream must be given
            from its start again; inputs that the earlier run has dealt with are skipped.
        ignore_keys_for_eval (`list[str]`, *optional*): As in `Trainer.train`.

    Returns:
        `TrainOutput` of the segment that was learned last.

    Raises:
        ValueError: when a row, or the stream, cannot be used.
        Exception: whatever the stream raises, after what was read of it is written.
    """
    learner = SegmentLearner(trainer, ignore_keys_for_eval)
    learner.begin(resume)
    with tqdm(
        desc="Reading", unit=" inputs", initial=learner.reading.position, disable=trainer.args.disable_tqdm
    ) as bar:
        for arrival, features in learner.arrivals():
            learner.take(arrival, features)
            bar.set_postfix(learner.progress, refresh=False)
            bar.update()
        learner.end()
    return learner.output


class SegmentLearner:
    """Learns a stream segment by segment.

    Args:
        trainer ([`UnannouncedTrainer`]): Holds the stream and trains.
        ignore_keys_for_eval (`list[str]`, *optional*): As in `Trainer.train`.

    Attributes:
        reading ([`Reading`]): How far the stream was read.
        output (`TrainOutput`): Of the segment that was learned last.
    """

    def __init__(self, trainer: UnannouncedTrainer, ignore_keys_for_eval: list[str] | None = None) -> None:
        self.trainer, self.args, self.stream = trainer, trainer.args, trainer.stream
        self.learner, self.ignore_keys_for_eval = TaskLearner(trainer), ignore_keys_for_eval
        self.pipe = pipeline_of(trainer.model, trainer.processing_class)
        self.reading, self.output = Reading(), TrainOutput(0, 0.0, {})
        self.resumed = False
        self.evidence = 0.0
        self._segment: list[Arrival] = []  # with a label, not learned yet
        self._unanswered: list[Arrival] = []
        if not self.args.disable_tqdm:  # one bar shows everything
            trainer.callback_handler.remove_callback(ProgressCallback)
            trainer.evaluator.quiet = True

    @property
    def progress(self) -> dict[str, Any]:
        """What a progress bar shows beside the number of inputs."""
        group = self.reading.group or "new"
        return {"group": group, "evidence": f"{self.evidence:.2f}", "boundaries": self.reading.boundaries}

    def begin(self, resume: bool) -> None:
        """Prepares model and detector; with `resume`, as an earlier run left them.

        Raises:
            ValueError: when the trainer cannot learn a stream, or the earlier run was another one.
        """
        trainer, output_dir = self.trainer, str(self.args.output_dir)
        check_alone(trainer)
        check_least(trainer)
        committed = newest_commit(output_dir) if resume else None
        if committed is not None:
            restore(trainer.model, committed)
        written = read_reading(output_dir) if resume else None
        names = self.learner.knowledge.names
        self.resumed, self.reading = resume, Reading(before=names, learned=names)
        known = group_references(trainer.model)
        if written is not None:
            self.reading, state = written
            self._check_resumed()
            self.stream.forms = dict(self.reading.forms)
            known = {name: known[name] for name in state["known"]}  # a commit since then is not known yet
        self.detector = BoundaryDetector(known, expected_run=self.args.expected_run)
        if written is not None:
            self.detector.load_state_dict(state)
        trainer.session = [name for name in names if name not in self.reading.before]
        self.learner.prepare([])
        trainer.evaluator.clear()  # the model may have changed since the answers were stored
        if self.args.should_save:
            tidy(output_dir, names, committed, resume)

    def arrivals(self) -> Iterator[tuple[Arrival, Tensor]]:
        """The inputs that are not dealt with yet, with their trunk features, `[D]`.

        Rows pass the trunk in batches that begin at multiples of the batch size, also after a kill, because features
        depend on their batch in the last digit.
        """
        size = self.args.eval_batch_size
        source, position = self._from_last_position(size), self.reading.position // size * size
        if self.reading.boundary is not None:
            self.learn_segment()
        while True:
            forms = dict(self.stream.forms)
            try:
                read = [self.stream.read(row, at) for at, row in enumerate(itertools.islice(source, size), position)]
                given = [arrival.given for arrival in read]
                features: Any = input_features(self.pipe, given, position) if read else []
            except Exception as error:
                self.stream.forms = forms  # a row that was refused may be corrected
                self.save()
                self._say_how_to_resume(error)
                raise
            if not read:
                return
            for arrival, of_input in zip(read, features, strict=True):
                if arrival.position >= self.reading.position:
                    yield arrival, of_input
            self._answer()
            position += size

    def take(self, arrival: Arrival, features: Tensor) -> None:
        """Takes in the next input: it belongs to the segment at hand, or shows that this has ended."""
        verdict = self.detector.update(features)
        self.evidence = verdict.evidence
        if arrival.row is None:
            self._unanswered.append(arrival)
        else:
            self._keep(arrival)
            self.reading = replace(self.reading, labelled=self.reading.labelled + 1)
        self.reading = replace(self.reading, position=arrival.position + 1)
        if verdict.since is not None:
            self._close(verdict.since, verdict.outcome, verdict.group, verdict.evidence)
        elif len(self._segment) >= self.args.stream_buffer:
            self._close(self.reading.position, FULL)
        elif self.reading.position % self.args.stream_save_steps == 0:
            self._answer()
            self.save()
        if self.reading.position == SUSPICIOUS and not self.reading.labelled:
            logger.warning(
                f"None of the first {SUSPICIOUS} inputs of `stream` has a label, so nothing is learned; all are "
                "answered. If the labels are in another column, name it with `columns`."
            )

    def end(self) -> None:
        """Learns the last segment.

        Raises:
            ValueError: when the stream had labels, and all its segments were too small to learn.
        """
        self._answer()
        rows, reading = [arrival.row for arrival in self._segment], self.reading
        if reading.position == 0:
            raise ValueError("`stream` is empty; give at least one row.")
        reason = self._too_small() if rows else None
        if rows and reason is None:
            self._close(reading.position, END)
            return
        self.save()
        if reason is not None:
            what = f"The last segment of the stream, from input {reading.start} on, is not learned: {reason}"
            how = "Resume with a longer stream, or with a lower `stream_least`."
            if self.learner.knowledge.names == reading.before:
                raise ValueError(f"{what} So nothing was learned. {how}")
            logger.warning(f"{what} {how}")
        elif not reading.labelled:
            logger.warning(f"None of the {reading.position} inputs of `stream` had a label, so nothing was learned.")

    def save(self) -> None:
        """Writes how far the stream was read."""
        reading = self.reading = replace(self.reading, learned=self.learner.knowledge.names, forms=self.stream.forms)
        if self.args.should_save:
            write_reading(str(self.args.output_dir), reading, self.detector.state_dict())
        counts = {"inputs": reading.position, "labelled": reading.labelled, "boundaries": reading.boundaries}
        self.trainer.log({**{f"stream_{k}": v for k, v in counts.items()}, "stream_evidence": self.evidence})

    def learn_segment(self) -> None:
        """Learns what lies before the boundary, unless that was done before a kill, and begins what comes after it."""
        reading, boundary = self.reading, cast(Boundary, self.reading.boundary)
        rest = [arrival for arrival in self._segment if arrival.position >= boundary.since]
        self._segment = self._without_strays(self._segment[: len(self._segment) - len(rest)], rest)
        group, ends = reading.group, boundary.outcome not in (FULL, END)
        own = sorted(set(self.stream.labels(self._segment))) if self._segment else reading.labels
        labels = own if ends else []
        if boundary.task not in self.learner.knowledge.names and self._segment:
            reason = self._too_small()
            if reason is None:
                try:
                    self._learn(boundary)
                except Exception as error:
                    self._say_how_to_resume(error)
                    raise
            else:
                logger.warning(
                    f"Inputs {reading.start} to {boundary.since - 1} of the stream are not learned: {reason}"
                )
        if boundary.task in self.learner.knowledge.names:
            group = self.learner.knowledge.groups[self.learner.knowledge.group_index(boundary.task)]
            if group == boundary.task:
                self.detector.learn(group, group_references(self.trainer.model)[group])
        self._segment = []
        group = boundary.group if ends else group
        self.detector.begin(group)
        start = max(boundary.since, reading.start)
        self.reading = replace(reading, start=start, group=group, labels=labels, boundary=None, rows="")
        for arrival in rest:
            self._keep(arrival)
        self.save()

    def _without_strays(self, segment: list[Arrival], rest: list[Arrival]) -> list[Arrival]:
        """A segment without the rows that its labels show to be of the segments before and after it."""
        labels = self.stream.labels(segment)
        gone = strays(labels, self.reading.labels, self.stream.labels(rest))
        if not gone:
            return segment
        kept = [arrival for arrival, label in zip(segment, labels, strict=True) if label not in gone]
        logger.info(f"{len(segment) - len(kept)} rows near a boundary, labelled {sorted(gone)}, are left out")
        return kept

    def _learn(self, boundary: Boundary) -> None:
        """Learns and commits the segment."""
        trainer, rows = self.trainer, [arrival.row for arrival in self._segment if arrival.row is not None]
        knowledge, group = self.learner.knowledge, self.reading.group
        labels = knowledge.tasks[knowledge.newest[knowledge.group_index(group)]].labels if group is not None else ()
        data = self.stream.dataset(rows, labels)
        task = trainer.prepared(Task(boundary.task, self.stream.kind, data, columns=self.stream.columns))
        logger.info(
            f"Learning `{boundary.task}`: {len(rows)} of the inputs {self.reading.start} to {boundary.since - 1}"
        )
        self.learner.prepare([task])
        visit = self.learner.learn(task, (), self.resumed, self.ignore_keys_for_eval)
        trainer.session.append(task.name)
        self.learner.commit(visit)
        self.output = visit.output
        trainer.release(task.name)
        push(trainer, task.name, last=boundary.outcome == END)

    def _close(self, since: int, outcome: str, group: str | None = None, evidence: float = 0.0) -> None:
        """Ends the segment at hand."""
        self._answer()
        names = (f"segment-{number}" for number in itertools.count(1))
        name = next(name for name in names if name not in self.learner.knowledge.names)
        boundary = Boundary(name, since, outcome, group, evidence)
        # A first window may show that the segment at hand is of a known task, which is no boundary.
        found = self.reading.boundaries + (outcome not in (FULL, END) and since > self.reading.start)
        self.reading = replace(self.reading, boundary=boundary, boundaries=found)
        if outcome not in (FULL, END):
            what = "a new task" if group is None else f"group `{group}` again"
            logger.info(f"From input {since} on the stream shows {what} (evidence {evidence:.2f})")
        tell(self.trainer.callback_handler, "on_boundary", boundary)
        self.save()
        self.learn_segment()

    def _keep(self, arrival: Arrival) -> None:
        self._segment.append(arrival)
        self.reading = replace(self.reading, rows=fingerprint(self.reading.rows, arrival.given))

    def _answer(self) -> None:
        """Answers the inputs without a label that were read since the last call, by what is learned so far."""
        if not self._unanswered:
            return
        inputs, size = [arrival.given for arrival in self._unanswered], self.args.eval_batch_size
        if self.learner.knowledge.tasks:
            answers = self.pipe(inputs, batch_size=size, abstain=True)
        else:
            answers = [{"task": UNKNOWN, "kind": self.stream.kind, **NOTHING} for _ in inputs]
        positions = [arrival.position for arrival in self._unanswered]
        self._unanswered = []
        tell(
            self.trainer.callback_handler,
            "on_answers",
            [{"input": at, **one} for at, one in zip(positions, answers, strict=True)],
        )

    def _too_small(self) -> str | None:
        """Why the segment cannot be learned; `None` if it can."""
        rows, least = len(self._segment), self.args.stream_least
        if rows < least:
            return f"it has {rows} rows with a label, and `stream_least` is {least}."
        if len(set(self.stream.labels(self._segment))) == 1:
            return "all its rows have the same label."
        return None

    def _from_last_position(self, size: int) -> Iterator[Any]:
        """The rows from the last multiple of `size` on. Rows of the segment at hand are read again on the way."""
        position, start = self.reading.position, self.reading.start
        batch = position // size * size
        begin, rows = min(start, batch), self.reading.rows
        source, head, read = self.stream.start(begin), [], begin
        self.reading = replace(self.reading, rows="")
        for read, row in enumerate(itertools.islice(source, position - begin), begin + 1):
            arrival = self.stream.read(row, read - 1)
            if arrival.row is not None and arrival.position >= start:
                self._keep(arrival)
            if arrival.position >= batch:
                head.append(row)
        if read < position or self.reading.rows != rows:
            raise ValueError(
                f"`stream` is not that of the run to resume, which had read {position} inputs of it: "
                + (f"it has only {read}" if read < position else f"those from number {start} on are others")
                + ". Give the same stream, from its start; or start again without `resume_from_checkpoint`."
            )
        return itertools.chain(head, source)

    def _check_resumed(self) -> None:
        reading, names = self.reading, self.learner.knowledge.names
        committed = [*reading.learned, reading.boundary.task] if reading.boundary is not None else None
        if names not in (reading.learned, committed):
            raise ValueError(
                f"The stream in `{self.args.output_dir}` was learned by an adapter that knew {reading.learned}, and "
                f"this one knows {names}. Give the model of that run, or start again without `resume_from_checkpoint`."
            )

    def _say_how_to_resume(self, error: Exception) -> None:
        reading = self.reading
        if not reading.position:
            return
        of_task = f" The rows of the task are those with a label, from input {reading.start} on."
        error.add_note(
            f"What was learned of the stream is in `{self.args.output_dir}`; {reading.position} inputs of it were "
            "dealt with. To go on there, give the stream from its start again, with `resume_from_checkpoint=True`."
            + (of_task if reading.boundary is not None else "")
        )


def check_alone(trainer: UnannouncedTrainer) -> None:
    """Refuses several processes, each of which would find other boundaries (`ValueError`)."""
    if trainer.accelerator.num_processes > 1 or trainer.is_sharded:
        raise ValueError(
            "`stream` is learned by one process, because each would find its own boundaries. Launch one, or give "
            "`tasks`."
        )


def check_least(trainer: UnannouncedTrainer) -> None:
    """Refuses a `stream_least` of which no task could be trained to the end (`ValueError`)."""
    args, members = trainer.args, active_config(trainer.model).members
    rows = args.stream_least - max(round(args.stream_least * args.validation_share), 1)
    try:
        cycle_ends(steps_of(args, rows), members, args.first_cycle)
    except ValueError as error:
        raise ValueError(
            f"`stream_least` is {args.stream_least}, but a task of so few rows could not be trained: {error} Or raise "
            "`stream_least`."
        ) from error
