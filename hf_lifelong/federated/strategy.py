"""Strategies of the server: averages that go on without clients that fail, and the fairness of all clients' rows."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..fairness import GroupFairness, check_trainable
from .flower import ArrayRecord, ConfigRecord, FedAvg, Grid, Message, MetricRecord, Result
from .grid import InProcessGrid
from .records import CLIENT, FAIRNESS, partition_of, read_fairness, write_fairness

logger = logging.getLogger(__name__)


class CheckedAvg(FedAvg):
    """Flower's `FedAvg`, which goes on without a reply that it cannot use, and says so in the log.

    Left out are clients that fail or do not answer, arrays of other names, shapes or dtypes than those that were sent,
    values that are not finite, metrics of other names than most clients send, and a number of rows that is not
    positive. Replies are summed in the order of the clients' partitions, so an average does not depend on who answers
    first.

    Args:
        options: As in Flower's `FedAvg`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._sent: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._asked: set[int] = set()
        self._why = "it was not asked"

    def start(self, grid: Grid, initial_arrays: ArrayRecord, num_rounds: int = 3, **options: Any) -> Result:
        """As in Flower.

        Raises:
            ValueError: when a grid in this process has fewer clients than a round needs, which would wait for ever.
            RuntimeError: when no client gave a usable reply in any round.
        """
        needed = max(self.min_available_nodes, self.min_train_nodes, self.min_evaluate_nodes)
        if isinstance(grid, InProcessGrid) and len(grid.get_node_ids()) < needed:
            raise ValueError(
                f"`grid` has {len(grid.get_node_ids())} clients, but a round needs {needed}; lower "
                "`min_available_nodes`, `min_train_nodes` and `min_evaluate_nodes`, or make more clients."
            )
        result = super().start(grid, initial_arrays, num_rounds, **options)
        if num_rounds and self.fraction_train and not result.arrays:
            raise RuntimeError(
                f"No client gave a usable reply in {num_rounds} rounds, so nothing was learned; of the last: "
                f"{self._why}"
            )
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._sent = {name: (array.dtype, tuple(array.shape)) for name, array in arrays.items()}
        return self._noted(super().configure_train(server_round, arrays, config, grid))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self._noted(super().configure_evaluate(server_round, arrays, config, grid))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        return super().aggregate_train(server_round, self.usable(server_round, replies, trained=True))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        return super().aggregate_evaluate(server_round, self.usable(server_round, replies, trained=False))

    def usable(self, server_round: int, replies: Iterable[Message], trained: bool) -> list[Message]:
        """The replies that can be averaged, in the order of the clients.

        Args:
            trained (`bool`): Whether they must hold trained arrays.
        """
        ordered = sorted(replies, key=lambda reply: (partition_of(reply), reply.metadata.src_node_id))
        wrong = {reply.metadata.src_node_id: self._wrong(reply, trained) for reply in ordered}
        forms = {
            reply.metadata.src_node_id: metric_form(reply)
            for reply in ordered
            if not wrong[reply.metadata.src_node_id]
        }
        if forms:
            most = Counter(forms.values()).most_common(1)[0][0]
            for node, form in forms.items():
                if form != most:
                    wrong[node] = f"it sent the metrics {list(form)}, most clients {list(most)}"
        wrong |= dict.fromkeys(sorted(self._asked - wrong.keys()), "it did not answer")
        step = "training" if trained else "evaluation"
        for node, why in wrong.items():
            if why:
                logger.warning(f"Round {server_round} goes on without node {node} in {step}: {why}.")
                self._why = why
        good = [reply for reply in ordered if not wrong[reply.metadata.src_node_id]]
        if self._asked and not good:
            logger.warning(f"Round {server_round}: no client's {step} could be used, so nothing changes.")
        return good

    def _noted(self, messages: Iterable[Message]) -> list[Message]:
        noted = list(messages)
        self._asked = {message.metadata.dst_node_id for message in noted}
        return noted

    def _wrong(self, reply: Message, trained: bool) -> str:
        """Why a reply cannot be used; empty if it can."""
        if reply.has_error():
            return f"it failed ({reply.error.reason})"
        arrays, metrics = [*reply.content.array_records.values()], [*reply.content.metric_records.values()]
        if len(metrics) != 1 or len(arrays) != int(trained):
            return f"it sent {len(arrays)} array records and {len(metrics)} metric records"
        weight = metrics[0].get(self.weighted_by_key)
        if not isinstance(weight, int | float) or not 0 < weight < math.inf:
            return f"its `{self.weighted_by_key}` is {weight!r:.60}, which is no number of rows"
        broken = [name for name, value in metrics[0].items() if not np.isfinite(value).all()]
        if broken:
            return f"its metric `{broken[0]}` is not finite"
        return self._wrong_arrays(arrays[0]) if trained else ""

    def _wrong_arrays(self, arrays: ArrayRecord) -> str:
        found = {name: (array.dtype, tuple(array.shape)) for name, array in arrays.items()}
        odd = sorted(name for name in found.keys() | self._sent.keys() if found.get(name) != self._sent.get(name))
        if odd:
            return f"its array `{odd[0]}` is {found.get(odd[0])}, what was sent is {self._sent.get(odd[0])}"
        # Read only here, because the header says what the bytes claim to be.
        values = {name: array.numpy() for name, array in arrays.items()}
        odd = [name for name, value in values.items() if (str(value.dtype), value.shape) != self._sent[name]]
        if odd:
            return f"its array `{odd[0]}` is not what its header says"
        odd = [name for name, value in values.items() if not np.isfinite(value).all()]
        return f"its array `{odd[0]}` is not finite" if odd else ""


class FairAvg(CheckedAvg):
    """FedGFT: federated averaging of a model that is fair over the rows of all clients.

    After each round every client sums the fairness of the new model over its own training rows. The sums add up to the
    fairness of the whole, exactly, however unlike the clients are, and go out with the next round: each client's
    trainer adds its share of `weight · F² / 2` to its loss. The first round knows no sums and is plain `FedAvg`. From
    Wang et al., "Mitigating Group Bias in Federated Learning: Beyond Local Fairness" (TMLR 2024).

    Each round's metrics of evaluation hold the value, as `fairness_sp` (`_eop`, `_cal`).

    Args:
        metric (`str`): `"sp"`, `"eop"` or `"cal"`, as in [`~hf_lifelong.fairness.GroupFairness`].
        weight (`float`): λ. 0 trains as `FedAvg` does, and measures all the same.
        options: As in Flower's `FedAvg`. All clients must be evaluated for the sums to be those of all.

    Attributes:
        fairness ([`~hf_lifelong.fairness.GroupFairness`], *optional*): The sums of the last round.

    Raises:
        ValueError: for an unknown metric, a weight out of range, or `fraction_evaluate=0`.
    """

    def __init__(self, metric: str, weight: float = 20.0, **options: Any) -> None:
        check_trainable(GroupFairness(metric), weight)
        if options.get("fraction_evaluate") == 0:
            raise ValueError("`fraction_evaluate` is 0, but the sums of fairness come from evaluation; leave it out.")
        super().__init__(**options)
        self.metric, self.weight = metric, float(weight)
        self.fairness: GroupFairness | None = None

    def summary(self) -> None:
        super().summary()
        logger.info(f"Fairness: {self.metric}, weight {self.weight:g}")

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        whole = self.fairness
        told: dict[str, Any] = {"fairness-metric": self.metric} if whole is None else write_fairness(whole)
        if whole is not None and whole.is_known:
            told["fairness"] = whole.value()
        for name, value in {**told, "fairness-weight": self.weight}.items():
            config[name] = value
        return super().configure_train(server_round, arrays, config, grid)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        config["fairness-metric"] = self.metric
        return super().configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        good = self.usable(server_round, replies, trained=False)
        whole = self._whole(server_round, good)
        metrics = FedAvg.aggregate_evaluate(self, server_round, good)
        if whole is None or metrics is None:
            return metrics
        self.fairness = whole
        if whole.is_known:
            metrics[f"fairness_{self.metric}"] = whole.value()
        else:
            logger.warning(
                f"Round {server_round}: the clients have rows of one group only ({whole}), so nothing is made fair."
            )
        return metrics

    def _whole(self, server_round: int, replies: Sequence[Message]) -> GroupFairness | None:
        """The sums of all clients; `None` if no reply has any. Clients that count other groups or classes than most
        are left out."""
        parts: dict[int, GroupFairness] = {}
        for reply in replies:
            node = reply.metadata.src_node_id
            try:
                parts[node] = read_fairness(reply.content.config_records.get(CLIENT), self.metric)
            except ValueError as error:
                logger.warning(f"Round {server_round} goes on without node {node} in {FAIRNESS}: {error}.")
        if not parts:
            return None
        most = Counter((part.groups, part.classes) for part in parts.values()).most_common(1)[0][0]
        for node, part in parts.items():
            if (part.groups, part.classes) != most:
                logger.warning(
                    f"Round {server_round} goes on without node {node} in {FAIRNESS}: it counts {part.groups} groups "
                    f"and {part.classes} classes, most clients {most[0]} and {most[1]}."
                )
        alike = [part for part in parts.values() if (part.groups, part.classes) == most]
        return sum(alike[1:], start=alike[0])


def metric_form(reply: Message) -> tuple[str, ...]:
    """Names of a reply's metrics, with the length of those that are lists."""
    (metrics,) = reply.content.metric_records.values()
    return tuple(
        sorted(f"{name}[{len(value)}]" if isinstance(value, list) else name for name, value in metrics.items())
    )
