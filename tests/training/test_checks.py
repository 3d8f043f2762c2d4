"""What can be known of a stream before its first step is refused then, for all tasks."""

import copy
import os
import random

import pytest
import torch
from datasets import Dataset
from learned import learn_task
from peft import get_peft_model
from training_helpers import make_model, make_trainer, sentiment
from transformers import AutoModel, PreTrainedTokenizer

from hf_lifelong import DriftAdapterConfig, Task, knowledge_of
from hf_lifelong.loading import load
from hf_lifelong.training.checks import check_stream

WORDS = ["good film", "bad film", "fine play", "poor play", "warm song", "dull song", "new book", "old book"]


def task(name="bad", labels=("yes", "no"), texts=WORDS, kind="text-classification", **options):
    rows = {"text": list(texts), "label": [labels[i % len(labels)] for i in range(len(texts))]}
    return Task(name, kind, Dataset.from_dict(rows), **options)


def tokenised(ids, **columns):
    rows = {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids], "labels": [0, 1] * (len(ids) // 2)}
    return Task("bad", "text-classification", Dataset.from_dict({**rows, **columns}))


EVERY_EPOCH = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "load_best_model_at_end": True,
    "metric_for_best_model": "acuracy",
}
REFUSED = {
    # 7 rows are left to train on, in batches of 8.
    "fewer steps than members": (
        task(),
        {"members": 3, "max_steps": -1, "num_train_epochs": 2},
        r"2 optimiser steps, fewer than `members` \(3\)",
    ),
    "fewer accumulated steps than members": (
        task(),
        {"members": 3, "max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 2}
        | {"gradient_accumulation_steps": 4},
        r"2 optimiser steps, fewer than `members` \(3\)",
    ),
    "no whole batch": (task(), {"dataloader_drop_last": True}, "its 7 training rows fill no batch of 8"),
    "an empty label": (task(labels=("", "no")), {}, r"`labels` are \['', 'no'\], empty or twice"),
    "a length above the positions, of every task": (
        task(),
        {"config": {"max_length": 161}},
        "positions for 160 tokens only",
    ),
    "a row above the positions": (tokenised([[5] * 161] * 8), {}, "`train` has a row of 161 tokens"),
    "an id above the embeddings": (
        tokenised([[5, 30522]] * 8),
        {},
        "has 30522 among its `input_ids`.* knows 0 to 30521",
    ),
    "a negative id": (tokenised([[5, -1]] * 8), {}, "has -1 among its `input_ids`"),
    "a token type above the embeddings": (
        tokenised([[5, 6]] * 8, token_type_ids=[[0, 2]] * 8),
        {},
        "has 2 among its `token_type_ids`, but the base knows 0 to 1",
    ),
    "a metric that nothing gives, of every task": (
        task(),
        EVERY_EPOCH,
        r"`metric_for_best_model` is 'acuracy'; a text-classification task gives \['accuracy', 'f1', 'loss'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_learned_is_refused_before_the_first_task_and_named(prepare, tmp_path, case):
    bad, arguments, message = REFUSED[case]
    trainer = prepare([sentiment(), bad], **arguments)
    named = "sentiment" if "every" in case else "bad"
    with pytest.raises(ValueError, match=f"^Task `{named}`: .*{message}"):
        trainer.train()
    assert trainer.knowledge.names == [] and trainer.state.global_step == 0
    assert not list((tmp_path / "out").rglob("*"))


def test_what_is_given_is_learned_to_the_last_step(train):
    """One more epoch, row or position than what is refused above."""
    arguments = {"members": 2, "max_steps": -1, "num_train_epochs": 2, "config": {"max_length": 160}}
    assert train([task()], **arguments).knowledge.tasks[0].members == 2


def test_the_metric_of_a_task_or_of_the_user_is_taken(prepare):
    right = EVERY_EPOCH | {"metric_for_best_model": "eval_f1"}
    own = {"options": {"compute_metrics": lambda _: {"acuracy": 1.0}}}
    for arguments in (right, EVERY_EPOCH | own):
        trainer = prepare([task()], **arguments)
        check_stream(trainer, [trainer.prepared(trainer.tasks[0])])


def test_positions_of_roberta_begin_after_padding(tiny_folder, tokenizer, tmp_path):
    """160 positions, of which 0 to the padding's are never used."""
    folder = tiny_folder("roberta", pad_token_id=1)
    for length, message in ((158, None), (159, "positions for 158 tokens only")):
        trainer = make_trainer(make_model(folder, max_length=length), tmp_path, [task()], tokenizer)
        if message is None:
            check_stream(trainer, [trainer.prepared(trainer.tasks[0])])
        else:
            with pytest.raises(ValueError, match=message):
                check_stream(trainer, [trainer.prepared(trainer.tasks[0])])


def test_relative_positions_have_no_limit(tiny_folder, tokenizer, tmp_path):
    for model_type in ("deberta-v2", "modernbert"):
        trainer = make_trainer(make_model(tiny_folder(model_type), max_length=1000), tmp_path, [task()], tokenizer)
        check_stream(trainer, [trainer.prepared(trainer.tasks[0])])


def test_a_base_that_was_enlarged_in_memory_is_refused_and_a_saved_one_is_learned_on(bert_folder, tokenizer, tmp_path):
    larger = copy.deepcopy(tokenizer)
    larger.add_tokens(["<drug>"])
    base = AutoModel.from_pretrained(bert_folder, dtype=torch.float32)
    config = DriftAdapterConfig(r=4, members=2, max_length=48, stride=16, signature_rank=4)
    trainer = make_trainer(get_peft_model(copy.deepcopy(base), config), tmp_path / "out", [sentiment()], larger)
    with pytest.raises(ValueError, match=r"token ids up to 30522, but the base has embeddings for 30522 only"):
        trainer.train()
    base.resize_token_embeddings(len(larger))
    trainer = make_trainer(get_peft_model(copy.deepcopy(base), config), tmp_path / "out", [sentiment()], larger)
    with pytest.raises(ValueError, match=r"word_embeddings.weight` differs from the saved base.*Save the"):
        trainer.train()
    assert not list((tmp_path / "out").rglob("*"))
    base.save_pretrained(tmp_path / "larger")
    base = AutoModel.from_pretrained(tmp_path / "larger", dtype=torch.float32)
    trainer = make_trainer(get_peft_model(base, config), tmp_path / "out", [sentiment()], larger)
    trainer.train()
    loaded, read = load(tmp_path / "out")
    assert knowledge_of(loaded) == trainer.knowledge
    assert read("a <drug>")["input_ids"] == larger("a <drug>")["input_ids"]


def test_a_base_without_a_name_is_refused(bert_folder, tokenizer, tmp_path):
    base = AutoModel.from_config(AutoModel.from_pretrained(bert_folder).config)
    base.name_or_path = ""
    trainer = make_trainer(get_peft_model(base, DriftAdapterConfig(members=2)), tmp_path, [sentiment()], tokenizer)
    with pytest.raises(ValueError, match=r"`base_model_name_or_path` must name the base .* save the base in"):
        trainer.train()


class Letters(PreTrainedTokenizer):
    """A tokenizer in Python, which nobody else can make of files."""

    def get_vocab(self):
        return {chr(i): i for i in range(128)}

    @property
    def vocab_size(self):
        return 128

    def _tokenize(self, text, **_):
        return list(text)

    def _convert_token_to_id(self, token):
        return ord(token) % 128

    def save_vocabulary(self, *_, **__):
        return ()


def test_a_tokenizer_that_no_file_gives_back_is_refused(bert_folder, tmp_path):
    trainer = make_trainer(make_model(bert_folder), tmp_path, [task()], Letters(pad_token="a"))
    with pytest.raises(ValueError, match="`processing_class` could not be read again after saving it"):
        trainer.train()


NAMES = (
    "plain",
    "two words",
    "ü漢🎬",
    "a/b",
    "..",
    "-x",
    "x" * 300,
    "a|b`c",
    "<b>",
    "new\nline",
    "unknown",
    "a\u200db",
)
LABELS = (
    "",
    " ",
    "pos",
    "neg",
    "a\nb",
    "ü🎬",
    "x" * 500,
    "<b>",
    "|",
    "`",
    "null",
    "1",
    "a\u200db",
    '"',
    "\\",
    "[UNK]",
)
PLACES = (
    "plain",
    "two words",
    "ünï-漢🎬",
    "new\nline",
    "tab\t",
    "a\u200db",
    "quo'te\"",
    "per%20cent",
    "#[x]",
    "-dash",
)


@pytest.mark.parametrize("seed", range(6))
def test_what_is_prepared_can_be_loaded(bert_folder, tokenizer, tmp_path, seed):
    """Draws names, labels, places of the base and tokenizers: what is not refused is written, and read again."""
    draw = random.Random(seed)
    loaded_ones = 0
    while not loaded_ones:
        place = tmp_path / draw.choice(PLACES)
        if not place.exists():
            os.symlink(bert_folder, place)
        own = tokenizer
        if draw.random() < 0.2:
            own = copy.deepcopy(tokenizer)
            own.add_tokens([draw.choice(LABELS) or "<empty>"])
        try:
            tasks = [task(draw.choice(NAMES), draw.sample(LABELS, draw.choice((2, 3))))]
            trainer = make_trainer(make_model(str(place)), tmp_path / "out", tasks, own)
            prepared = trainer.prepared(tasks[0])
            check_stream(trainer, [prepared])
        except ValueError:
            continue
        learn_task(trainer.model, prepared.name, prepared.kind, prepared.labels, 0)
        (tmp_path / "saved").mkdir()
        trainer.save_adapter(tmp_path / "saved")
        loaded, read = load(tmp_path / "saved")
        assert knowledge_of(loaded) == trainer.knowledge
        assert read(WORDS)["input_ids"] == own(WORDS)["input_ids"]
        loaded_ones += 1
