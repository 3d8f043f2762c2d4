"""A second training inherits nothing of the first, and callbacks stay the user's own."""

import pytest
import torch
from training_helpers import sentiment
from transformers import EarlyStoppingCallback, TrainerCallback

from hf_lifelong.utils.renewal import Renewal

# What differs because it is of the task, and what is the record of a stream.
OF_THE_TASK = {
    *("trainer.train_dataset", "trainer.eval_dataset", "trainer.data_collator", "trainer.compute_metrics"),
    *("trainer.label_names", "trainer.task_dir", "trainer.session"),
    *("SnapshotCallback.task", "SnapshotCallback.learned", "SnapshotCallback.folder"),
}
PLAIN = (bool, int, float, str, type(None))
STOPPING = {
    **{"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 3},
    **{"load_best_model_at_end": True, "metric_for_best_model": "loss"},
}


class Look(TrainerCallback):
    """Describes all attributes of trainer, accelerator, callback handler and callbacks as each training begins."""

    def __init__(self):
        self.found, self.held = [], []

    def on_train_begin(self, args, state, control, **kwargs):
        trainer = self.trainer
        owners = {"trainer": trainer, "state": trainer.state, "control": trainer.control, "args": trainer.args}
        owners |= {"handler": trainer.callback_handler, "accelerator": trainer.accelerator}
        owners |= {type(c).__name__: c for c in trainer.callback_handler.callbacks if c is not self}
        owners["gradients"] = trainer.accelerator.gradient_state
        values = {f"{who}.{name}": value for who, owner in owners.items() for name, value in vars(owner).items()}
        values = {name: value for name, value in values.items() if name not in OF_THE_TASK}
        self.held.append(values)
        self.found.append({name: self.describe(value) for name, value in values.items()})

    def describe(self, value):
        if isinstance(value, PLAIN):
            return value
        if isinstance(value, list | tuple):
            return [self.describe(v) for v in value]
        if isinstance(value, dict):
            return {k: self.describe(v) for k, v in value.items()}
        return float(value) if isinstance(value, torch.Tensor) else type(value).__name__


def test_all_attributes_are_before_the_second_training_what_they_were_before_the_first(prepare):
    look, seen = Look(), []

    def metric(prediction):
        seen.append(prediction.label_ids.tolist())
        return {"own": 0.0}

    def task(name, start, label):
        only = sentiment().train.filter(lambda row: row["label"] == label).select(range(6))
        return sentiment(name, start, start + 60, validation=only, compute_metrics=metric)

    trainer = prepare(
        [task("sentiment", 0, 0), task("later", 60, 1)],
        callbacks=[look, EarlyStoppingCallback(5)],
        dataloader_num_workers=1,
        dataloader_persistent_workers=True,
        include_num_input_tokens_seen="all",
        gradient_accumulation_steps=2,
        neftune_noise_alpha=1.0,
        **STOPPING,
    )
    look.trainer = trainer
    before = {id(v) for o in (trainer, trainer.accelerator, trainer.callback_handler) for v in vars(o).values()}
    trainer.train()
    first, second = look.found
    names = first.keys() | second.keys()
    assert {name for name in names if first.get(name, "absent") != second.get(name, "absent")} == set()
    (old, new), objects = look.held, {n for n, v in look.held[1].items() if not isinstance(v, PLAIN)}
    assert {n for n in objects if new[n] is old[n] and id(new[n]) not in before} == {"trainer.evaluator"} | {
        n for n in objects if n.startswith(("args.", "gradients.plugin"))
    }
    assert seen == [[0] * 6] * 3 + [[1] * 6] * 3  # each on its own validation data, though workers go on living


class Stopping(EarlyStoppingCallback):
    """As a user may write it: with another constructor, and something of its own."""

    def __init__(self, log):
        super().__init__(early_stopping_patience=2)
        self.log = log

    def on_train_begin(self, args, state, control, **kwargs):
        self.log.append(self.early_stopping_patience_counter)


# An evaluation that is never better than the first, so that a patience of 2 stops after 3.
NEVER_BETTER = {
    **STOPPING,
    "max_steps": 6,
    "metric_for_best_model": "own",
    "greater_is_better": True,
    "options": {"compute_metrics": lambda prediction: {"own": 0.5}},
}


def test_a_callback_stays_the_users_object_with_its_first_state(train):
    log = []
    stopping = Stopping(log)
    trainer = train([sentiment(), sentiment("later", 60, 120)], callbacks=[stopping], **NEVER_BETTER)
    assert any(callback is stopping for callback in trainer.callback_handler.callbacks)
    assert stopping.log is log and log == [0, 0] and stopping.early_stopping_patience_counter == 2
    assert trainer.state.global_step == 3


def test_a_callback_of_another_constructor_goes_on_where_a_killed_run_was(prepare):
    """Its counter of two steps goes on, so that the resumed run stops where the whole one does."""

    class Killed(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            if state.global_step == 2:
                raise KeyboardInterrupt

    prepared = prepare([sentiment()], callbacks=[Stopping([])], **NEVER_BETTER)
    prepared.add_callback(Killed)
    with pytest.raises(KeyboardInterrupt):
        prepared.train()
    stopping = Stopping([])
    resumed = prepare([sentiment()], callbacks=[stopping], **NEVER_BETTER)
    resumed.train(resume_from_checkpoint=True)
    assert stopping.log == [1] and any(callback is stopping for callback in resumed.callback_handler.callbacks)
    assert resumed.state.global_step == 3 and stopping.early_stopping_patience_counter == 2


def test_what_only_some_trainings_leave_is_renewed(prepare):
    trainer = prepare([sentiment()], per_device_train_batch_size=8, eval_use_gather_object=True)
    trainer.accelerator.scaler = scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    renewal = Renewal(trainer)
    scaler.scale(torch.ones(1)), scaler.update(2.0)
    # Private state of transformers, which only `auto_find_batch_size` changes: it halves it when memory runs out.
    trainer._train_batch_size = 4
    trainer.gather_function = trainer.accelerator.gather_for_metrics  # as `Trainer` leaves it after an evaluation
    model = torch.nn.Identity()
    trainer.neftune_hook_handle = model.register_forward_hook(lambda module, inputs, output: output + 1)
    batches = iter(trainer.accelerator.prepare(torch.utils.data.DataLoader([1, 2])))
    next(batches)  # a training that ends within an epoch leaves a loader half read
    assert trainer.accelerator.gradient_state.in_dataloader
    renewal.begin()
    assert scaler.get_scale() == 1024.0 and trainer._train_batch_size == 8
    assert model(torch.zeros(1)) == 0  # the hook is gone
    assert trainer.gather_function.keywords == {"use_gather_object": True}
    assert not trainer.accelerator.gradient_state.in_dataloader


def test_two_callbacks_of_a_class_keep_their_own_states(prepare):
    callbacks = [EarlyStoppingCallback(2), EarlyStoppingCallback(7)]
    callbacks[1].early_stopping_patience_counter = 3
    trainer = prepare([sentiment()], callbacks=callbacks)
    renewal = Renewal(trainer)
    renewal.begin()
    for callback in callbacks:
        callback.early_stopping_patience_counter = 9
    callbacks[0].early_stopping_patience = 1
    renewal.begin()
    assert [callback.early_stopping_patience_counter for callback in callbacks] == [0, 3]
    assert [callback.early_stopping_patience for callback in callbacks] == [2, 7]
