"""Batches requests that wait: many threads ask, one thread works."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from .limits import STOPPING, TOO_MANY, RequestError

Work = Callable[[Any, list[Any]], Sequence[Any]]


@dataclass(eq=False)
class Request:
    """Rows that wait for their results.

    Args:
        job (`Hashable`): What is done with the rows. Only requests with equal jobs share a batch.
        rows (`list`): The rows.
        result (`Future`): Gets the list of results, one for each row.
        since (`float`): When it came.
    """

    job: Hashable
    rows: list[Any]
    result: Future[list[Any]] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """A queue in front of one worker thread.

    The oldest request decides which job is next. Others with this job join it, in the order in which they came, until
    the batch is full; the oldest waits for them no longer than `wait`. A request is never split: its results
    come from one call of `work`.

    Args:
        work (`Callable`): `work(job, rows)` returns one result for each row; called by the worker thread only.
        batch_size (`int`): Rows after which a batch is full.
        wait (`float`): Seconds that a request waits for others.
        waiting (`int`): Rows that may wait; further requests are refused.

    Attributes:
        on_batch (`Callable`): Called with the number of rows of each batch.
    """

    def __init__(self, work: Work, batch_size: int = 32, wait: float = 0.005, waiting: int = 1024) -> None:
        self.work = work
        self.on_batch: Callable[[int], Any] = lambda rows: None
        self.batch_size, self.wait, self.most_waiting = batch_size, wait, waiting
        self._queue: deque[Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._run, name="hf_lifelong-worker", daemon=True)
        self._worker.start()

    @property
    def waiting(self) -> int:
        """Rows that wait, without those being worked on."""
        with self._changed:
            return sum(len(request.rows) for request in self._queue)

    def submit(self, job: Hashable, rows: list[Any]) -> Future[list[Any]]:
        """Puts rows into the queue.

        Returns:
            `Future`: their results. If it is cancelled while the rows wait, they are dropped.

        Raises:
            RequestError: when the queue is full, or the batcher is closed.
        """
        request = Request(job, rows)
        with self._changed:
            if self._closed:
                raise RequestError(STOPPING, "The server is stopping; ask again when it is back.")
            waiting = sum(len(other.rows) for other in self._queue)
            if waiting and waiting + len(rows) > self.most_waiting:
                message = (
                    f"{waiting:,} inputs wait already, and the queue takes {self.most_waiting:,}; try again later."
                )
                raise RequestError(TOO_MANY, message)
            self._queue.append(request)
            self._changed.notify()
        return request.result

    def close(self) -> None:
        """Takes no more requests, and returns when all that wait have their results."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._worker.join()

    def _run(self) -> None:
        while batch := self._next():
            self.on_batch(sum(len(request.rows) for request in batch))
            self._answer(batch)

    def _next(self) -> list[Request]:
        """The requests of the next batch; empty when the batcher is closed and nothing waits."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._queue or self._closed)
                if not self._queue:
                    return []
                batch = self._batch()
                left = batch[0].since + self.wait - time.monotonic()
                if left > 0 and not self._closed and sum(len(request.rows) for request in batch) < self.batch_size:
                    self._changed.wait(left)
                    continue
                for request in batch:
                    self._queue.remove(request)
                # From here on a request cannot be cancelled.
                if batch := [request for request in batch if request.result.set_running_or_notify_cancel()]:
                    return batch

    def _batch(self) -> list[Request]:
        """The oldest request, and those that fit into its batch."""
        oldest, *others = self._queue
        batch, rows = [oldest], len(oldest.rows)
        for request in others:
            if request.job == oldest.job and rows + len(request.rows) <= self.batch_size:
                batch.append(request)
                rows += len(request.rows)
        return batch

    def _answer(self, batch: list[Request]) -> None:
        try:
            results = self.work(batch[0].job, [row for request in batch for row in request.rows])
        except Exception as error:
            if len(batch) == 1:
                batch[0].result.set_exception(error)
                return
            for request in batch:  # so that the error of one is its own
                self._answer([request])
            return
        start = 0
        for request in batch:
            request.result.set_result(list(results[start : start + len(request.rows)]))
            start += len(request.rows)
