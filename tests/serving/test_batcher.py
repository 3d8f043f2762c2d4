"""The queue and its worker, without a model."""

import threading
import time
from concurrent.futures import CancelledError

import pytest

from hf_lifelong.serving.batcher import Batcher
from hf_lifelong.serving.limits import RequestError


class Desk:
    """Work that waits until it may begin, and notes its batches."""

    def __init__(self):
        self.open, self.batches = threading.Event(), []

    def __call__(self, job, rows):
        self.batches.append((job, list(rows)))
        assert self.open.wait(30)
        if "bad" in rows:
            raise ValueError("a bad row")
        return [(job, row) for row in rows]


@pytest.fixture
def desk():
    return Desk()


@pytest.fixture
def held(desk):
    """A batcher whose worker holds a first batch, so that all others wait."""
    batcher = Batcher(desk, batch_size=4, wait=0.0, waiting=20)
    first = batcher.submit("first", [0])
    while not desk.batches:
        time.sleep(0.001)
    yield batcher
    desk.open.set()
    batcher.close()
    assert first.result() == [("first", 0)]


def test_equal_jobs_share_batches_in_the_order_in_which_they_came(held, desk):
    jobs = ["a", "b", "a", "a", "b", "a"]
    futures = [held.submit(job, [i]) for i, job in enumerate(jobs)]
    assert held.waiting == 6
    desk.open.set()
    assert [future.result(10) for future in futures] == [[(job, i)] for i, job in enumerate(jobs)]
    assert desk.batches[1:] == [("a", [0, 2, 3, 5]), ("b", [1, 4])]
    assert held.waiting == 0


def test_a_request_is_never_split(held, desk):
    futures = [held.submit("a", rows) for rows in ([1, 2, 3], [4, 5], [6], list(range(7)))]
    desk.open.set()
    assert [len(future.result(10)) for future in futures] == [3, 2, 1, 7]
    assert [rows for _, rows in desk.batches[1:]] == [[1, 2, 3, 6], [4, 5], list(range(7))]


def test_a_full_queue_refuses_and_a_large_request_may_come_alone(held, desk):
    futures = [held.submit("a", list(range(21)))]
    with pytest.raises(RequestError, match="21 inputs wait already, and the queue takes 20") as refused:
        held.submit("a", [0])
    assert refused.value.status == 429
    desk.open.set()
    assert len(futures[0].result(10)) == 21


def test_an_error_is_that_of_its_request_alone(held, desk):
    futures = [held.submit("a", rows) for rows in (["fine"], ["bad"], ["good"])]
    desk.open.set()
    assert futures[0].result(10) == [("a", "fine")] and futures[2].result(10) == [("a", "good")]
    with pytest.raises(ValueError, match="a bad row"):
        futures[1].result(10)


def test_what_is_cancelled_while_it_waits_is_not_worked_on(held, desk):
    futures = [held.submit("a", [i]) for i in range(3)]
    assert futures[1].cancel()
    desk.open.set()
    assert futures[2].result(10) == [("a", 2)]
    assert desk.batches[1] == ("a", [0, 2])
    with pytest.raises(CancelledError):
        futures[1].result(10)


def test_a_request_waits_for_others_but_not_for_long(desk):
    desk.open.set()
    batcher = Batcher(desk, batch_size=2, wait=0.05)
    start = time.monotonic()
    futures = [batcher.submit("a", [i]) for i in range(3)]
    assert [future.result(10) for future in futures] == [[("a", i)] for i in range(3)]
    assert desk.batches == [("a", [0, 1]), ("a", [2])] and time.monotonic() - start >= 0.05
    batcher.close()


def test_closing_answers_what_waits_and_takes_no_more(desk):
    batcher = Batcher(desk, batch_size=1, wait=10.0)
    futures = [batcher.submit("a", [i]) for i in range(5)]
    closing = threading.Thread(target=batcher.close, daemon=True)
    closing.start()

    def submitted():
        try:
            return futures.append(batcher.submit("a", [len(futures)]))
        except RequestError as error:
            return error.status

    while (status := submitted()) is None:  # until the other thread is there
        time.sleep(0.001)
    assert status == 503
    desk.open.set()
    closing.join(10)
    assert [future.result(0) for future in futures] == [[("a", i)] for i in range(len(futures))]
    batcher.close()


def test_sizes_of_batches_are_told(desk):
    desk.open.set()
    batcher, sizes = Batcher(desk, batch_size=2, wait=0.0), []
    batcher.on_batch = sizes.append
    batcher.submit("a", [1, 2, 3]).result(10)
    batcher.close()
    assert sizes == [3]
