"""Several threads, children of a fork, and passes that end by an error: each call has a state of its own."""

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from adapter_helpers import TASKS
from learned import TEXTS

from hf_lifelong import generate, predict
from hf_lifelong.adapter import lifelong_of
from hf_lifelong.adapter.bank import close_task, open_task
from hf_lifelong.adapter.forward.context import in_eval_mode
from hf_lifelong.pipeline import LifelongPipeline

THREADS = 8


def together(calls, rounds):
    """What each call gives in eight threads that mix them, `rounds` times each, beside what it gives alone."""
    alone = [call() for call in calls]
    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(lambda i: (i, calls[i]()), [i for _ in range(rounds) for i in range(len(calls))]))
    return [(alone[i], answer) for i, answer in found]


def plain(model, batch, key):
    with torch.no_grad():
        return model(**batch)[key]


@pytest.mark.parametrize("config", [{}, {"resident_groups": 1}])
def test_threads_that_mix_all_ways_of_asking_give_what_each_gives_alone(make_model, batch, tokenizer, config):
    model = make_model(**config)
    ask = LifelongPipeline(model=model, tokenizer=tokenizer)
    rows = [{k: v[i : i + 1] for k, v in batch.items()} for i in range(4)]
    calls = [lambda g=g: predict(model, batch, policy="oracle", group=g).scores for g in range(4)]
    calls += [lambda one=one: plain(model, one, "scores") for one in rows]
    calls += [lambda p=p: predict(model, batch, policy=p).scores for p in ("cascade", "uncertainty")]
    calls += [lambda: ask(TEXTS)[1], lambda: ask({"question": TEXTS[2], "context": TEXTS[3] * 30})]
    for alone, answer in together(calls, 20):
        if isinstance(alone, dict):
            assert answer == alone
        else:
            assert torch.equal(answer, alone)


def test_threads_of_a_language_model_give_what_each_gives_alone(make_language_model, language_tokenizer):
    model = make_language_model()
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    batches = [{"input_ids": torch.tensor([language_tokenizer(text)["input_ids"]])} for text in TEXTS]
    ask = LifelongPipeline(model=model, tokenizer=language_tokenizer)
    calls = [lambda b=b: generate(model, b, **options).tokens for b in batches]
    calls += [lambda g=g: predict(model, batches[1], "oracle", g).logits for g in range(3)]
    calls += [lambda b=b: plain(model, b, "logits") for b in batches]
    calls += [lambda: predict(model, batches[1], "uncertainty").group, lambda: ask(TEXTS[1], max_new_tokens=3)]
    for alone, answer in together(calls, 6):
        assert answer == alone if isinstance(alone, dict) else torch.equal(answer, alone)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_children_of_a_fork_answer_while_the_parent_does(make_model, batch):
    model, stop = make_model(tasks=("films", "news")), threading.Event()
    expected = predict(model, batch).scores

    def busy():
        while not stop.is_set():
            predict(model, batch)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for _ in range(3):
            time.sleep(0.01)
            child = os.fork()
            if not child:
                signal.alarm(30)
                os._exit(0 if torch.equal(predict(model, batch).scores, expected) else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        thread.join()


def test_a_pass_that_ends_by_an_error_leaves_nothing_behind(make_model, batch):
    model = make_model()
    expected = predict(model, batch)
    layer = model.base_model.model.encoder.layer[3]

    def fail(*_):
        raise RuntimeError("no memory")

    handle = layer.register_forward_hook(fail)
    for ask in (lambda: model(**batch), lambda: predict(model, batch, policy="oracle", group=1)):
        with pytest.raises(RuntimeError, match="no memory"), torch.no_grad():
            ask()
        context = lifelong_of(model).context
        assert context.current is None and context.call is None
    handle.remove()
    assert torch.equal(predict(model, batch).scores, expected.scores)


def test_each_module_gets_its_mode_back_when_the_last_thread_has_its_answer(make_model):
    model = make_model(tasks=("films",)).train()
    before, context = [m.training for m in model.modules()], lifelong_of(model).context
    first, second = in_eval_mode(model, context), in_eval_mode(model, context)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not any(m.training for m in model.modules())
    second.__exit__(None, None, None)
    assert [m.training for m in model.modules()] == before and any(before)


def test_learning_while_another_thread_asks_is_refused(make_model, batch):
    model = make_model(tasks=("films",))
    open_task(model, *TASKS["news"], 3)
    with in_eval_mode(model, lifelong_of(model).context), pytest.raises(RuntimeError, match="another thread asks"):
        model(**batch)
    assert model(**batch).logits.shape == (4, 3)
    close_task(model)
