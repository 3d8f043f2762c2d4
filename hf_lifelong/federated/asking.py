"""The server's questions to clients of federated lifelong learning, and which replies can be used."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..statistics import TaskStatistic
from .declared import forms_of, what_is_wrong
from .flower import ArrayRecord, ConfigRecord, Grid, Message, RecordDict
from .grid import InProcessGrid
from .records import partition_of

logger = logging.getLogger(__name__)

Tensors = Mapping[str, Tensor]


class Clients:
    """All clients of a grid.

    Args:
        grid (`flwr.serverapp.Grid`): The grid.
        statistics (`Sequence[TaskStatistic]`): Statistics that clients fit.
        timeout (`float`): Seconds to wait for replies.
    """

    def __init__(self, grid: Grid, statistics: Sequence[TaskStatistic], timeout: float) -> None:
        self.grid, self.statistics, self.timeout = grid, statistics, timeout

    def wait(self, least: int) -> None:
        """Waits until enough clients are connected; refuses a grid in this process that has fewer (`ValueError`)."""
        while (connected := len(list(self.grid.get_node_ids()))) < least:
            if isinstance(self.grid, InProcessGrid):
                raise ValueError(f"`grid` has {connected} clients, but `strategy` needs {least}.")
            logger.info(f"Waiting for clients: {connected} of {least} are connected")
            time.sleep(1)

    def ask(
        self,
        step: str,
        config: Mapping[str, Any],
        sizes: Mapping[str, int],
        records: Mapping[str, Tensors],
        nodes: Sequence[int] | None = None,
    ) -> dict[int, dict[str, Tensor]]:
        """Node → reply, in the order of the clients' partitions, without those that cannot be used.

        Args:
            step (`str`): One of the steps in `declared`.
            config (`Mapping`): What the message says; `task` is named in the log.
            sizes (`Mapping[str, int]`): The sizes that replies must have.
            records (`Mapping[str, Mapping[str, Tensor]]`): Tensors that go with the message.
            nodes (`Sequence[int]`, *optional*): Who is asked; all by default.
        """
        nodes = list(self.grid.get_node_ids()) if nodes is None else nodes
        arrays = {
            key: ArrayRecord({name: tensor.contiguous() for name, tensor in tensors.items()})
            for key, tensors in records.items()
        }
        content = RecordDict({**arrays, "config": ConfigRecord(dict(config))})
        messages = [Message(content, node, f"query.{step}") for node in nodes]
        answers = sorted(self.grid.send_and_receive(messages, timeout=self.timeout), key=partition_of)
        usable, wrong = {}, dict.fromkeys(nodes, "it did not answer")
        for answer in answers:
            node = answer.metadata.src_node_id
            tensors, wrong[node] = self._read(answer, step, sizes)
            if not wrong[node]:
                usable[node] = tensors
        for node, why in wrong.items():
            if why:
                logger.warning(f"Step `{step}` of task `{config['task']}` goes on without node {node}: {why}.")
        return usable

    def _read(self, answer: Message, step: str, sizes: Mapping[str, int]) -> tuple[dict[str, Tensor], str]:
        """The tensors of a reply, and why they cannot be used; empty if they can."""
        if answer.has_error():
            return {}, f"it failed ({answer.error.reason})"
        records = [*answer.content.array_records.values()]
        if len(records) != 1:
            return {}, f"it sent {len(records)} array records"
        tensors = records[0].to_torch_state_dict()
        return tensors, what_is_wrong(tensors, forms_of(step, self.statistics), sizes)
