"""What is shown of a stream: what will happen, then one bar for each task."""

import pytest
from training_helpers import sentiment, topics
from transformers import ProgressCallback

from hf_lifelong.training import progress
from hf_lifelong.training.progress import StreamBars, show_bars, steps_of


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"num_train_epochs": 2}, 14),  # 54 rows: seven batches of eight
        ({"num_train_epochs": 2, "dataloader_drop_last": True}, 12),
        ({"num_train_epochs": 1.5, "gradient_accumulation_steps": 2}, 6),
        ({"max_steps": 3}, 3),
    ],
)
def test_steps_are_told_as_trainer_takes_them(prepare, options, steps):
    trainer = prepare([sentiment()], **{"max_steps": -1, **options})
    trainer.train_dataset = trainer.prepared(trainer.tasks[0]).train
    told = steps_of(trainer.args, len(trainer.train_dataset))
    assert told == steps
    assert told == trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())[-1]


def test_a_line_then_one_bar_for_each_task(prepare, monkeypatch, capsys):
    monkeypatch.setattr(progress, "TIMED", 2)
    trainer = prepare([sentiment(), topics()], max_steps=3, disable_tqdm=False)
    show_bars(trainer)
    assert not any(isinstance(callback, ProgressCallback) for callback in trainer.callback_handler.callbacks)
    trainer.train()
    trainer.evaluate()
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].startswith("Learning sentiment (54 rows, 3 steps), then topics (54 rows, 3 steps).")
    assert len(lines) == 2 and lines[1].startswith("Training on all tasks takes about ")
    bars = [line.split("\r")[-1] for line in err.split("\n") if "steps" in line]
    assert [bar.partition(":")[0] for bar in bars] == ["sentiment (1 of 2)", "topics (2 of 2)"]
    for bar, score in zip(bars, [trainer.matrix.scores[0][0], trainer.matrix.average_accuracy()], strict=True):
        assert "3/3" in bar and f"average accuracy so far {score:.3f}" in bar
    bars, shown = StreamBars(trainer), []
    bars.close = shown.append
    bars.bar, trainer.tasks = object(), trainer.tasks[1:]  # as in a later launch
    bars.on_log(trainer.args, trainer.state, trainer.control, {"eval_average_accuracy": 0.75})
    assert shown == ["average accuracy over 1 of 2 tasks 0.750"]
