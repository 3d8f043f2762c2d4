"""Clients in the process of the server, for tests and small runs: no Ray, no sockets, nothing left behind."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from .flower import ClientApp, Context, Error, Grid, Message, RecordDict, Run, TaskIdentity

logger = logging.getLogger(__name__)

RUN, SERVER = 1, 1  # any run, and the server's node
RAISED = 2  # Flower's code of a client that raised an exception


class InProcessGrid(Grid):
    """A Flower grid whose clients are called one after another in this process, always in the same order.

    ```python
    strategy = FairAvg("sp", 20.0)
    result = strategy.start(InProcessGrid(client_app(make_trainer), 10), ArrayRecord(trained), num_rounds=50)
    ```

    A client that raises an exception answers with an error, as elsewhere. Flower keeps the identity of a run per
    process, so no real run may be under way in it.

    Args:
        app (`ClientApp`): What each client runs.
        clients (`int`): Number of clients. Client i finds `partition-id` i in `context.node_config`, and
            `num-partitions`.
        run_config (`Mapping`, *optional*): `context.run_config` of all clients.

    Raises:
        ValueError: when `clients` is no positive integer.
    """

    def __init__(self, app: ClientApp, clients: int, run_config: Mapping[str, Any] | None = None) -> None:
        if not isinstance(clients, int) or isinstance(clients, bool) or clients < 1:
            raise ValueError(f"`clients` is {clients!r:.60}; give their number, at least 1.")
        self.app = app
        self._run = Run.create_empty(run_id=RUN)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, SERVER, 1
        self._replies: dict[str, Message] = {}
        self._pushed = 0
        self._contexts = {
            SERVER + 1 + i: Context(
                run_id=RUN,
                node_id=SERVER + 1 + i,
                node_config={"partition-id": i, "num-partitions": clients},
                state=RecordDict(),
                run_config=dict(run_config or {}),
            )
            for i in range(clients)
        }

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Has each message answered at once, in the order of the clients."""
        names = []
        # Each start of a `Trainer` collects garbage: looking through all that is imported takes longer than a small
        # training, so what is there already is left out meanwhile.
        gc.freeze()
        try:
            for message in sorted(messages, key=lambda message: message.metadata.dst_node_id):
                self._pushed += 1
                names.append(f"message {self._pushed}")
                self._replies[names[-1]] = self.answer(message)
        finally:
            gc.unfreeze()
        return names

    def answer(self, message: Message) -> Message:
        """A client's reply to a message. Override it to look at what is sent, or to let clients fail."""
        node = message.metadata.dst_node_id
        try:
            return self.app(message, self._contexts[node])
        except Exception as error:  # whatever a client raises must not end the server
            logger.debug("Client %d raised an exception", node, exc_info=True)
            return Message(Error(code=RAISED, reason=f"{type(error).__name__}: {error}"), reply_to=message)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(name) for name in message_ids if name in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))
