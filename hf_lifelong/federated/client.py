"""`client_app`: any `Trainer` as a Flower client."""

from __future__ import annotations

import functools
import logging
import zlib
from collections.abc import Callable
from typing import Any, cast

from torch import nn
from transformers import Trainer, set_seed

from ..fairness import FairTrainerMixin, GroupFairness
from .errors import ClientError
from .flower import ArrayRecord, ClientApp, ConfigRecord, Context, Message, MetricRecord, RecordDict
from .records import CLIENT, read_fairness, write_fairness
from .tensors import load_trained, trained_tensors

logger = logging.getLogger(__name__)

Step = Callable[[Message, Context], Message]
# What Trainer measures of time, which says nothing about the model.
TIMES = ("_runtime", "_per_second", "_preparation_time")
SEEDS = 2**31


def client_app(make_trainer: Callable[[Context], Trainer]) -> ClientApp:
    """A Flower client that trains and evaluates with a `Trainer`.

    Only trainable parameters travel: of a PEFT model its adapter, of a plain model whatever is not frozen. A reply
    says how many rows they were trained on (`num-examples`), and nothing about any single row; the text of an error
    stays in the client's log.

    Each round makes a trainer, loads the server's tensors into its model and trains it as its arguments say: epochs,
    steps, learning rate and schedule are those of one round. Its seed is that of the arguments, the round and the
    client together. With [`FairAvg`] as the strategy the trainer must have
    [`~hf_lifelong.fairness.FairTrainerMixin`]; metric and weight are the server's.

    Args:
        make_trainer (`Callable`): Gets Flower's context, whose `node_config["partition-id"]` says which part of the
            data this client has. Returns a `Trainer` with its model, data and arguments, ready to train;
            `eval_dataset` is optional. The model is the same on all clients.

    Returns:
        `flwr.clientapp.ClientApp`
    """
    if not callable(make_trainer):
        raise ValueError(f"`make_trainer` is {make_trainer!r:.60}; give a function that makes a `Trainer`.")
    app = ClientApp()

    @app.train()
    @discreet
    def train(message: Message, context: Context) -> Message:
        config = message.content["config"]
        trainer = ready_trainer(make_trainer, message, context)
        if "fairness-metric" in config:
            hold_fairness(trainer, config)
        output = trainer.train()
        metrics = {"num-examples": row_count(trainer.train_dataset), "train_loss": float(output.training_loss)}
        return reply(message, context, metrics, arrays=trained_tensors(model_of(trainer)))

    @app.evaluate()
    @discreet
    def evaluate(message: Message, context: Context) -> Message:
        trainer = ready_trainer(make_trainer, message, context)
        metrics: dict[str, Any] = {"num-examples": row_count(trainer.train_dataset)}
        if trainer.eval_dataset is not None:
            measured = trainer.evaluate()
            metrics = {"num-examples": row_count(trainer.eval_dataset)}
            metrics |= {
                name: float(value)
                for name, value in measured.items()
                if name.startswith("eval_") and isinstance(value, int | float) and not name.endswith(TIMES)
            }
        metric = message.content["config"].get("fairness-metric")
        sums = {} if metric is None else write_fairness(fair_trainer(trainer, metric).measure_fairness())
        return reply(message, context, metrics, **sums)

    return app


def discreet(step: Step) -> Step:
    """A client's step whose errors reach the server without their text, which may quote a row."""

    @functools.wraps(step)
    def wrapped(message: Message, context: Context) -> Message:
        try:
            return step(message, context)
        except ClientError:
            raise
        except Exception as error:
            logger.exception("This client failed; the server gets to know only the kind of error")
            raise ClientError(f"{type(error).__name__}; the client's own log has the rest") from None

    return wrapped


def ready_trainer(make_trainer: Callable[[Context], Trainer], message: Message, context: Context) -> Trainer:
    """A client's trainer with the server's tensors and the seed of the round.

    Raises:
        ClientError: when there is no trainer, or its model is not the server's.
    """
    trainer = make_trainer(context)
    if not isinstance(trainer, Trainer):
        raise ClientError(f"`make_trainer` returned a `{type(trainer).__name__}`, not a `Trainer`.")
    try:
        load_trained(model_of(trainer), message.content["arrays"].to_torch_state_dict())
    except ValueError as error:
        raise ClientError(str(error)) from None
    trainer.args.seed = round_seed(trainer.args.seed, message, context)
    set_seed(trainer.args.seed)
    return trainer


def model_of(trainer: Trainer) -> nn.Module:
    """The model that a trainer trains, without what wraps it."""
    return cast(nn.Module, trainer.model)


def round_seed(seed: int, message: Message, context: Context) -> int:
    """A seed of one client's round, so that neither rounds nor clients repeat each other's random numbers."""
    config = message.content["config"]
    return zlib.crc32(f"{seed}/{config.get('server-round', 0)}/{partition(context)}".encode()) % SEEDS


def row_count(data: Any) -> int:
    """Number of rows of a trainer's data.

    Raises:
        ClientError: when it has no length.
    """
    try:
        return len(data)
    except TypeError:
        raise ClientError(
            f"The trainer's data is a `{type(data).__name__}` without a length; the weight of a client is its number "
            "of rows, so give a data set that can be counted."
        ) from None


def fair_trainer(trainer: Trainer, metric: str) -> FairTrainerMixin:
    """The trainer, if it can measure and follow a metric of fairness; a `ClientError` if not."""
    if not isinstance(trainer, FairTrainerMixin):
        raise ClientError(
            f"`FairAvg` needs trainers with `FairTrainerMixin`, but `make_trainer` returned a "
            f"`{type(trainer).__name__}`."
        )
    own = cast(GroupFairness, trainer.fairness).metric
    if own != metric:
        raise ClientError(
            f"`FairAvg` has the metric {metric!r}, but the trainer's `fairness` {own!r}; give both the same."
        )
    return trainer


def hold_fairness(trainer: Trainer, config: ConfigRecord) -> None:
    """Has a trainer follow the fairness of all clients, as the server sent it: none in the first round."""
    metric = str(config["fairness-metric"])
    fair = fair_trainer(trainer, metric)
    nothing_yet = cast(GroupFairness, fair.fairness).scaled(0.0)
    try:
        sums = read_fairness(config, metric) if "fairness-sums" in config else nothing_yet
        fair.hold_fairness(sums, float(config["fairness-weight"]))
    except ValueError as error:
        raise ClientError(str(error)) from None


def partition(context: Context) -> int:
    """The part of the data that a client has; -1 if the node was started without one."""
    return int(context.node_config.get("partition-id", -1))


def reply(
    message: Message, context: Context, metrics: dict[str, Any], arrays: dict[str, Any] | None = None, **noted: Any
) -> Message:
    """A reply with metrics, arrays where there are any, and the client's own record."""
    content = RecordDict(
        {"metrics": MetricRecord(metrics), CLIENT: ConfigRecord({"partition-id": partition(context), **noted})}
    )
    if arrays is not None:
        content["arrays"] = ArrayRecord(arrays)
    return Message(content, reply_to=message)
