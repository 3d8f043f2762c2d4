"""`lifelong_client`: a `DriftTrainer` as a Flower client that learns each task together with others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..training import DriftTrainer
from .client import discreet, reply, round_seed
from .declared import forms_of, what_is_wrong
from .errors import ClientError
from .flower import ClientApp, Context, Message
from .participant import Participant


def lifelong_client(make_trainer: Callable[[Context], DriftTrainer]) -> ClientApp:
    """A Flower client for [`learn_together`].

    Sums and the trained working adapter leave the client, and what [`declared`] names, nothing else. What is learned
    is written into the `output_dir` of the trainer's arguments, which must be another one for each client, and read
    from there when the client starts again.

    The trainer's arguments are those of one round: epochs, steps, learning rate (which falls to 0 along a cosine in
    each round) and drift.

    Args:
        make_trainer (`Callable`): Gets Flower's context, whose `node_config["partition-id"]` says which part of the
            data this client has. Returns a [`DriftTrainer`] with its tasks; the base and the settings of the adapter
            are the same on all clients and on the server. It is called once per process and client.

    Returns:
        `flwr.clientapp.ClientApp`
    """
    if not callable(make_trainer):
        raise ValueError(f"`make_trainer` is {make_trainer!r:.60}; give a function that makes a `DriftTrainer`.")
    app, participants = ClientApp(), {}

    def participant(context: Context) -> Participant:
        if context.node_id not in participants:
            trainer = make_trainer(context)
            if not isinstance(trainer, DriftTrainer):
                raise ClientError(f"`make_trainer` returned a `{type(trainer).__name__}`, not a `DriftTrainer`.")
            participants[context.node_id] = Participant(trainer)
        return participants[context.node_id]

    @app.train()
    @discreet
    def train(message: Message, context: Context) -> Message:
        client, config = participant(context), message.content["config"]
        client.check_state(config["digest"])
        task = client.task(config["task"], config["labels"])
        seed = round_seed(client.trainer.args.seed, message, context)
        tensors = client.train(task, message.content["arrays"].to_torch_state_dict(), seed)
        return reply(message, context, {"num-examples": len(task.train)}, arrays=tensors)

    def register(step: str) -> None:
        @app.query(step)
        @discreet
        def answer(message: Message, context: Context) -> Message:
            client = participant(context)
            tensors = take_step(client, step, message)
            wrong = what_is_wrong(tensors, forms_of(step, client.trainer.statistics), {})
            if wrong:
                raise ClientError(f"Its reply is not as declared: {wrong}.")
            return reply(message, context, {}, arrays=tensors)

    for step in ("hello", "survey", "weigh", "group", "statistics", "measure", "commit"):
        register(step)
    return app


def take_step(client: Participant, step: str, message: Message) -> dict[str, Any]:
    """A client's answer to a message of the server."""
    if step == "hello":
        return client.hello()
    config = message.content["config"]
    records = {name: record.to_torch_state_dict() for name, record in message.content.array_records.items()}
    if step == "commit":
        if config["start"]:
            client.check_state(config["digest"])
        return client.commit(config["start"], config["knowledge"], records["adapter"])
    client.check_state(config["digest"])
    task = client.task(config["task"], config["labels"])
    if step == "survey":
        return client.survey(task)
    with client.trying(config["start"], config["knowledge"], records["adapter"]):
        if step == "weigh":
            return client.weigh(task, records["given"])
        if step == "group":
            return client.group(task, config["start"], config["candidates"])
        return client.statistics(task) if step == "statistics" else client.measure()
