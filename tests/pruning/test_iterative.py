"""The published loop: rewinding, fresh optimizers, what is kept, and that a killed run ends as one that was not."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from pruning_helpers import classifier, holds, make_trainer, same, weights
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from transformers import AutoModel, EarlyStoppingCallback, TrainerCallback

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments
from hf_lifelong.pruning import SAP, Magnitude, OneShot, Step, Tail, iterative, prune_iteratively
from hf_lifelong.pruning.progress import kept_step, stop_reason


@pytest.fixture(autouse=True)
def one_picture(request, monkeypatch):
    """Drawing takes longer than training; one test looks at what is drawn."""
    if request.function is not test_the_loop:
        monkeypatch.setattr(iterative, "draw_steps", lambda *given: None)


FREE = {"tolerance": float("inf"), "rise": float("inf")}
INF = float("inf")


class Watch(TrainerCallback):
    """Notes each training's weights at its start, and what the optimizer had."""

    def __init__(self):
        self.starts, self.states, self.rates = [], [], []

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        self.starts.append(weights(model))
        self.states.append(len(optimizer.optimizer.state))

    def on_step_begin(self, args, state, control, lr_scheduler=None, **kwargs):
        if state.global_step == 0:
            self.rates.append(lr_scheduler.get_last_lr()[0])


def test_the_loop(bert_folder, tokenizer, tmp_path):
    model, watch = classifier(bert_folder), Watch()
    before = weights(model)
    trainer = make_trainer(model, tmp_path, tokenizer, callbacks=[watch], max_steps=4)
    run = prune_iteratively(trainer, 2, Magnitude(0.3), **FREE)
    assert [step.remaining for step in run.steps] == pytest.approx([1, 0.7, 0.49], abs=1e-3)
    assert run.kept == 2 and run.reason is None and holds(run.masks)
    assert len(watch.starts) == 3 and watch.states == [0, 0, 0] and len(set(watch.rates)) == 1
    for start in watch.starts:
        for name, value in start.items():
            zero = value == 0
            assert torch.equal(value[~zero], before[name][~zero])  # every parameter is rewound, heads and norms too
    assert trainer.args.output_dir == str(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"pruning.json", "pruning.png", "_pruning"} <= names
    assert json.loads((tmp_path / "pruning.json").read_text())["finished"]
    assert not list((tmp_path / "_pruning").glob("round-*"))


def test_round_zero_is_the_plain_training(bert_folder, tokenizer, tmp_path):
    plain = make_trainer(classifier(bert_folder), tmp_path / "plain", tokenizer, max_steps=4)
    plain.train()
    trainer = make_trainer(classifier(bert_folder), tmp_path / "run", tokenizer, max_steps=4)
    seen = {}

    class Note(TrainerCallback):
        def on_train_end(self, args, state, control, model=None, **kwargs):
            seen.setdefault("dense", weights(model))

    trainer.add_callback(Note())
    run = prune_iteratively(trainer, 1, Magnitude(0.3), **FREE)
    assert same(seen["dense"], weights(plain.model))
    assert run.steps[0].score == plain.evaluate()["eval_accuracy"]


def test_sap_prunes_what_the_index_says(bert_folder, tokenizer, tmp_path):
    trainer = make_trainer(classifier(bert_folder), tmp_path, tokenizer, max_steps=4)
    run = prune_iteratively(trainer, 2, SAP(scope="global"), **FREE)
    first, second, third = run.steps
    assert second.remaining == pytest.approx(1 - first.pq_index, abs=1e-4)
    assert third.remaining == pytest.approx(second.remaining * (1 - second.pq_index), abs=1e-4)
    pruning = [e for e in trainer.state.log_history if "pruning/score" in e]
    assert pruning and pruning[-1]["step"] == 2


def test_one_shot_keeps_the_ranking_of_round_zero(bert_folder, tokenizer, tmp_path):
    dense = {}

    class Note(TrainerCallback):
        def on_train_end(self, args, state, control, model=None, **kwargs):
            dense.setdefault("weights", weights(model))

    trainer = make_trainer(classifier(bert_folder), tmp_path, tokenizer, max_steps=4, callbacks=[Note()])
    run = prune_iteratively(trainer, 2, OneShot(0.3), **FREE)
    joined = torch.cat([dense["weights"][name].flatten() for name in run.masks.targets])
    gone = torch.cat([run.masks.pruned[name].flatten() for name in run.masks.targets])
    assert joined[gone].abs().max() < joined[~gone].abs().min()


def test_rewind_to_an_early_step(bert_folder, tokenizer, tmp_path):
    watch, early = Watch(), {}

    class Note(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 2:
                early.setdefault("weights", weights(model))

    trainer = make_trainer(classifier(bert_folder), tmp_path, tokenizer, max_steps=4, callbacks=[watch, Note()])
    prune_iteratively(trainer, 1, Magnitude(0.3), rewind_to=2, **FREE)
    for name, value in watch.starts[1].items():
        left = value != 0
        assert torch.equal(value[left], early["weights"][name][left])
    trainer = make_trainer(classifier(bert_folder), tmp_path, tokenizer, max_steps=4)
    with pytest.raises(ValueError, match=r"`rewind_to` is step 9, but a round has 4 steps"):
        prune_iteratively(trainer, 1, Magnitude(0.3), rewind_to=9, **FREE)


def scripted(scores):
    """Metrics that come as told, whatever the model says."""
    left = iter(scores)
    return lambda prediction: {"accuracy": next(left)}


@pytest.mark.parametrize(
    ("scores", "kept", "rounds", "reason"),
    [
        ([0.90, 0.91, 0.90, 0.80, 0.99], 2, 4, "validation"),  # ends after the fall, keeps the sparsest good one
        ([0.90, 0.89, 0.89, 0.895, 0.885], 4, 5, None),
        ([0.90, 0.50], 0, 2, "validation"),
    ],
)
def test_kept_round(bert_folder, tokenizer, tmp_path, scores, kept, rounds, reason):
    ends = []

    class Note(TrainerCallback):
        def on_train_end(self, args, state, control, model=None, **kwargs):
            ends.append(weights(model))

    trainer = make_trainer(classifier(bert_folder), tmp_path, tokenizer, max_steps=2, callbacks=[Note()])
    trainer.compute_metrics = scripted(scores)
    run = prune_iteratively(trainer, 4, Magnitude(0.2), tolerance=0.02, rise=INF)
    assert (run.kept, len(run.steps)) == (kept, rounds)
    assert (reason is None) == (run.reason is None) and (reason or "") in (run.reason or "")
    assert same(weights(trainer.model), ends[kept])
    assert run.masks.remaining == pytest.approx(0.8**kept, abs=1e-3)
    again = prune_iteratively(
        make_trainer(classifier(bert_folder), tmp_path, tokenizer, max_steps=2),
        4,
        Magnitude(0.2),
        tolerance=0.02,
        rise=INF,
        resume=True,
    )
    assert again.steps == run.steps and again.kept == kept


def test_stateful_callbacks_begin_anew(bert_folder, tokenizer, tmp_path):
    trainer = make_trainer(
        classifier(bert_folder),
        tmp_path,
        tokenizer,
        max_steps=6,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        callbacks=[EarlyStoppingCallback(2)],
    )
    trainer.compute_metrics = scripted([0.9, 0.8, 0.7, 0.9] * 3)
    run = prune_iteratively(trainer, 2, Magnitude(0.3), **FREE)
    assert [step.score for step in run.steps] == [0.9] * 3


# In the first round, the second and the third; while weights, masks, checkpoint marks and the state are written.
KILLS = [("step", 3), ("step", 6), ("write", 3), ("write", 5), ("json", 7), ("json", 12)]
# Each run is a process of its own, forked after the imports, which take longer than a run.
SCRIPT = """
import gc, os, signal, sys, traceback
import torch
torch.set_num_threads(1)
sys.path.insert(0, {here!r})
from pruning_helpers import classifier, make_trainer
from transformers import AutoTokenizer, TrainerCallback
from hf_lifelong.pruning import SAP, prune_iteratively, iterative

def run(base, tokenizer, out, event, at):
    count = 0

    def tick(kind):
        nonlocal count
        count += kind == event
        if count == at:
            os.kill(os.getpid(), signal.SIGKILL)

    class Kill(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            tick("step")

    def ticking(kind, function):
        return lambda *args: (tick(kind), function(*args))[1]

    iterative.write_tensors = ticking("write", iterative.write_tensors)
    iterative.write_json = ticking("json", iterative.write_json)
    iterative.draw_steps = lambda *args: None
    trainer = make_trainer(classifier(base), out, tokenizer, max_steps=4,
                           save_strategy="steps", save_steps=1, callbacks=[Kill()])
    run = prune_iteratively(trainer, 2, SAP(), tolerance=float("inf"), rise=float("inf"), resume=True)
    result = {{"weights": trainer.model.state_dict(), "steps": run.steps, "masks": run.masks.pruned}}
    torch.save(result, out + "/result.pt")

def forked(*given):
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        try:
            run(*given)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

base, work = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(base)
make_trainer(classifier(base), work + "/data", tokenizer)  # encodes the data for all runs
gc.freeze()  # the children's collections then pass over what the parent made
print(forked(base, tokenizer, work + "/whole", "never", 1))
for event, at in {kills!r}:
    out = work + "/" + event + str(at)
    killed = forked(base, tokenizer, out, event, at), os.path.exists(out + "/result.pt")
    print(*killed, forked(base, tokenizer, out, "never", 1))
"""


@pytest.mark.slow
def test_killed_run_ends_as_one_that_was_not(bert_folder, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.format(here=str(Path(__file__).parent), kills=KILLS))
    command = [sys.executable, script, str(bert_folder), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    codes = [line for line in done.stdout.splitlines() if not line.startswith("{")]  # and what Trainer logs
    assert codes == ["0", *[f"{-signal.SIGKILL} False 0"] * len(KILLS)], done.stderr[-3000:]
    whole = torch.load(tmp_path / "whole" / "result.pt", weights_only=False)
    for event, at in KILLS:
        resumed = torch.load(tmp_path / f"{event}{at}" / "result.pt", weights_only=False)
        assert resumed["steps"] == whole["steps"], (event, at)
        assert same(resumed["weights"], whole["weights"]), (event, at)
        assert same(resumed["masks"], whole["masks"]), (event, at)


def test_stop_rule():
    assert stop_reason([0.3, 0.2, 0.25], [], True, 0.1, 0.1) is None
    assert "rose from 0.200 to 0.350" in stop_reason([0.3, 0.2, 0.35], [], True, 0.1, 0.1)
    assert "rose" not in (stop_reason([0.3, 0.2, 0.35, 0.1], [], True, 0.1, 0.1) or "")
    assert stop_reason([], [0.9, 0.88], True, 0.02 + 1e-9, 1) is None
    assert "0.9000 to 0.8500" in stop_reason([], [0.8, 0.9, 0.85], True, 0.02, 1)
    assert "0.5000 to 0.6000" in stop_reason([], [0.5, 0.6], False, 0.02, 1)
    steps = [Step(0, 1.0, 0.2, 0.50), Step(1, 0.8, 0.2, 0.51), Step(2, 0.5, 0.2, 0.60)]
    assert [kept_step(steps, False, t) for t in (0.0, 0.02, 0.2)] == [0, 1, 2]


def test_refused(bert_folder, tokenizer, tmp_path):
    trainer = make_trainer(classifier(bert_folder), tmp_path, tokenizer)
    for arguments, message in (
        ({"rounds": 0}, "`rounds`"),
        ({"rounds": 1.5}, "`rounds`"),
        ({"rounds": 1, "rule": "sap"}, "`rule`"),
        ({"rounds": 1, "rewind_to": -1}, "`rewind_to`"),
        ({"rounds": 1, "tolerance": None}, "`tolerance`"),
        ({"rounds": 1, "rule": Tail(by_inputs=True)}, "`calibration`"),
        ({"rounds": 1, "targets": "nothing like it"}, "`targets="),
    ):
        with pytest.raises(ValueError, match=message):
            prune_iteratively(trainer, **arguments)
    with pytest.raises(ValueError, match="`trainer` must be a `Trainer`"):
        prune_iteratively(trainer.model, 1)
    trainer.eval_dataset = None
    with pytest.raises(ValueError, match="`eval_dataset`"):
        prune_iteratively(trainer, 1)
    trainer = make_trainer(classifier(bert_folder), tmp_path, tokenizer, metric_for_best_model="nonsense", max_steps=1)
    with pytest.raises(ValueError, match="no `eval_nonsense`"):
        prune_iteratively(trainer, 1)
    trainer = make_trainer(classifier(bert_folder), tmp_path, tokenizer, max_steps=1)
    trainer.create_optimizer()
    with pytest.raises(ValueError, match="already has an optimizer"):
        prune_iteratively(trainer, 1)
    trainer = make_trainer(classifier(bert_folder), tmp_path, tokenizer, max_steps=1)
    trainer.model_init = lambda: classifier(bert_folder)
    with pytest.raises(ValueError, match="`model_init`"):
        prune_iteratively(trainer, 1)
    trainer = make_trainer(classifier(bert_folder), tmp_path, tokenizer, max_steps=1)
    trainer.compute_metrics = scripted([float("nan")])
    with pytest.raises(ValueError, match="is nan after round 0"):
        prune_iteratively(trainer, 1)
    with pytest.raises(ValueError, match="generator"):
        prune_iteratively(trainer, 1, Tail(by_inputs=True), calibration=(x for x in []))


def test_tensorboard(bert_folder, tokenizer, tmp_path):
    trainer = make_trainer(classifier(bert_folder), tmp_path, tokenizer, max_steps=2, report_to="tensorboard")
    prune_iteratively(trainer, 2, Magnitude(0.3), **FREE)
    reader = EventAccumulator(str(tmp_path / "runs")).Reload()
    assert sorted(e.step for e in reader.Scalars("train/pruning/remaining")) == [0, 1, 2]


def test_buffers_are_those_of_the_kept_round(tokenizer, tmp_path):
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.table, self.norm, self.head = nn.Embedding(31000, 16), nn.BatchNorm1d(16), nn.Linear(16, 2)

        def forward(self, input_ids, attention_mask=None, token_type_ids=None, labels=None):
            logits = self.head(self.norm(self.table(input_ids).mean(1)))
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    trainer = make_trainer(Normed(), tmp_path, tokenizer, max_steps=6, metric_for_best_model="loss")
    run = prune_iteratively(trainer, 2, Magnitude(0.9), tolerance=0.0, rise=INF)
    assert trainer.evaluate()["eval_loss"] == run.steps[run.kept].score


def test_other_settings_do_not_resume(bert_folder, tokenizer, tmp_path):
    trainer = make_trainer(classifier(bert_folder), tmp_path, tokenizer, max_steps=1)
    prune_iteratively(trainer, 1, SAP(), **FREE)
    trainer = make_trainer(classifier(bert_folder), tmp_path, tokenizer, max_steps=1)
    with pytest.raises(ValueError, match="other settings"):
        prune_iteratively(trainer, 1, SAP(gamma=2), resume=True, **FREE)
    prune_iteratively(trainer, 1, SAP(gamma=2), **FREE)  # starts over
    (tmp_path / "pruning.json").write_text("{")
    with pytest.raises(ValueError, match=r"pruning\.json"):
        prune_iteratively(make_trainer(classifier(bert_folder), tmp_path, tokenizer), 1, SAP(), resume=True, **FREE)


def test_drift_trainer_is_refused(bert_folder, tokenizer, tmp_path):
    model = get_peft_model(AutoModel.from_pretrained(bert_folder, dtype=torch.float32), DriftAdapterConfig(r=2))
    data = make_trainer(classifier(bert_folder), tmp_path, tokenizer).train_dataset
    trainer = DriftTrainer(
        model,
        DriftTrainingArguments(str(tmp_path), report_to="none", use_cpu=True),
        train_dataset=data.rename_column("labels", "label"),
        processing_class=tokenizer,
    )
    with pytest.raises(ValueError, match="DriftTrainer"):
        prune_iteratively(trainer, 1)
