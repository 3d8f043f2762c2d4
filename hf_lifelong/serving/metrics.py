"""What a server counts, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Counts of one server.

    Args:
        waiting (`Callable`): Gives the number of rows that wait.
    """

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "hf_lifelong_requests",
            "Requests by path and status; from 400 on an error.",
            ["path", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "hf_lifelong_request_seconds", "Time until a response is complete.", ["path"], registry=registry
        )
        self.batch_rows = Histogram(
            "hf_lifelong_batch_rows",
            "Rows of the batches that the model answered.",
            buckets=BATCHES,
            registry=registry,
        )
        self.waiting = Gauge("hf_lifelong_waiting_rows", "Rows that wait for a batch.", registry=registry)
        self.waiting.set_function(waiting)

    def text(self) -> bytes:
        """All of them as text."""
        return generate_latest(self.registry)
