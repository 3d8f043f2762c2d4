"""Language models behind OpenAI's forms: forms alone, then a server, then OpenAI's own client."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from learned import TEXTS
from serving_helpers import running

from hf_lifelong.loading import load
from hf_lifelong.pipeline import LifelongPipeline
from hf_lifelong.serving.writing import Text, Write

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed, which asks the server")

from fastapi.testclient import TestClient  # noqa: E402

from hf_lifelong.serving import Engine, Limits, create_app  # noqa: E402

PROMPTS = [*TEXTS, "the weather in the north was bad and the film was good"]


@pytest.fixture(scope="module")
def pipe(language_folder):
    model, tokenizer = load(language_folder)
    return LifelongPipeline(model=model, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def url(language_folder):
    with running(create_app(Engine(language_folder, Limits(new_tokens=64)))) as url:
        yield url


def complete(url, **body):
    response = httpx.post(f"{url}/v1/completions", json={"model": "writer", **body}, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def streamed(url, path="completions", **body):
    """The events of a stream, without the mark at its end."""
    body = {"model": "writer", "stream": True, **body}
    with httpx.stream("POST", f"{url}/v1/{path}", json=body, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream"), response.read()
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def refused(url, path="completions", **body):
    response = httpx.post(f"{url}/v1/{path}", json={"model": "writer", **body}, timeout=60)
    error = response.json()["error"]
    assert error["code"] == response.status_code and "\n" not in error["message"]
    return response.status_code, error["message"]


# pieces of a text


class Letters:
    """A tokenizer whose tokens are the bytes of a text."""

    eos_token_id = 0

    def decode(self, tokens, skip_special_tokens):
        return bytes(tokens).decode(errors="replace")


@pytest.mark.parametrize(
    ("written", "stop", "text", "ended"),
    [
        (" good\0", (), "good", True),
        (" a b ", (), "a b", False),
        ("café naïve", (), "café naïve", False),
        ("one\ntwo", ("\n",), "one", True),
        ("one END two", ("END",), "one", True),
        ("one EN", ("END",), "one EN", False),
        ("\n then", ("\n",), "", True),
        ("aab", ("ab",), "a", True),
        ("", (), "", False),
    ],
)
def test_what_is_heard_adds_up_to_the_text(written, stop, text, ended):
    heard = []
    growing = Text(Letters(), [0], stop, heard.append)
    for token in written.encode():
        growing.add(token)
    assert growing.finish() == text == "".join(heard) and growing.ended is ended
    silent = Text(Letters(), [0], stop, None)
    for token in written.encode():
        silent.add(token)
    assert silent.finish() == text and silent.ended is ended


# the server


def test_completions_are_what_the_pipeline_writes(url, pipe):
    found = complete(url, prompt=PROMPTS)
    for i, (choice, expected) in enumerate(zip(found["choices"], pipe(PROMPTS), strict=True)):
        assert (choice["index"], choice["text"], choice["task"]) == (i, expected["answer"], expected["task"])
        assert choice["margin"] == pytest.approx(expected["margin"], abs=1e-4)
        assert choice["finish_reason"] in ("stop", "length")
    usage = found["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0
    assert found["model"] == "writer" and found["object"] == "text_completion"
    one = complete(url, prompt=PROMPTS[0], max_tokens=3)
    assert one["choices"][0]["text"] == pipe(PROMPTS[0], max_new_tokens=3)["answer"]
    assert one["usage"]["completion_tokens"] <= 3


def test_the_task_can_be_named_in_the_model(url, pipe):
    for task in ("films", "talk"):
        found = complete(url, model=f"writer:{task}", prompt=PROMPTS)
        expected = pipe(PROMPTS, policy="oracle", group=task)
        assert [choice["text"] for choice in found["choices"]] == [answer["answer"] for answer in expected]
        assert {choice["task"] for choice in found["choices"]} == {task} and found["model"] == f"writer:{task}"


def test_a_chat_is_one_turn_of_the_user(url, pipe):
    parts = [{"type": "text", "text": PROMPTS[1][:5]}, {"type": "text", "text": PROMPTS[1][5:]}]
    messages = [{"role": "system", "content": PROMPTS[0]}, {"role": "user", "content": parts}]
    response = httpx.post(f"{url}/v1/chat/completions", json={"model": "writer", "messages": messages}, timeout=60)
    choice, expected = response.json()["choices"][0], pipe(f"{PROMPTS[0]}\n\n{PROMPTS[1]}")
    assert choice["message"] == {"role": "assistant", "content": expected["answer"]}
    assert choice["task"] == expected["task"]


@pytest.mark.parametrize("stop", [[], ["e"], [" t", "on"]])
def test_a_stream_adds_up_to_the_whole_answer(url, stop):
    settings = {"prompt": PROMPTS, "max_tokens": 24, "stop": stop}
    whole = complete(url, **settings)
    events = streamed(url, **settings, stream_options={"include_usage": True})
    assert events[-1]["usage"] == whole["usage"] and events[-1]["choices"] == []
    texts, ends = [""] * len(PROMPTS), {}
    for event in events[:-1]:
        choice = event["choices"][0]
        texts[choice["index"]] += choice["text"]
        if choice["finish_reason"]:
            ends[choice["index"]] = choice
    for choice in whole["choices"]:
        i = choice["index"]
        assert texts[i] == choice["text"] and not any(text in texts[i] for text in stop)
        assert {**ends[i], "text": ""} == {**choice, "text": "", "margin": pytest.approx(choice["margin"], abs=1e-5)}
    assert len(events) > len(PROMPTS) + 1


def test_sampling_follows_the_seed(url):
    def draw(seed):
        return complete(url, prompt=PROMPTS[1], temperature=1.5, seed=seed, max_tokens=12)["choices"][0]["text"]

    assert draw(1) == draw(1) and len({draw(seed) for seed in range(4)}) > 1
    assert (
        complete(url, prompt=PROMPTS[1], temperature=1.5, top_p=0.0, max_tokens=12)["choices"][0]["text"]
        == (complete(url, prompt=PROMPTS[1], temperature=0, max_tokens=12)["choices"][0]["text"])
    )


def test_prompts_share_batches_and_each_gets_its_own_answer(url, pipe):
    prompts = [f"{PROMPTS[i % 5]} {i}" for i in range(40)]
    expected = [answer["answer"] for answer in pipe(prompts)]

    def ask(i):
        if i % 2:
            return complete(url, prompt=prompts[i])["choices"][0]["text"]
        return "".join(event["choices"][0]["text"] for event in streamed(url, prompt=prompts[i]))

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(len(prompts)))) == expected


def test_unknown_prompts_have_no_text_if_the_client_allows_it(language_folder, pipe, monkeypatch):
    engine = Engine(language_folder)
    index = type(engine.served.pipe.model.base_model.model.lifelong.index)
    monkeypatch.setattr(index, "novelty", lambda self, features, group: features.new_tensor([2.0, 0.5])[: len(group)])
    with running(create_app(engine)) as url:
        expected = [choice["text"] for choice in complete(url, prompt=PROMPTS[:2])["choices"]]
        found = complete(url, prompt=PROMPTS[:2], abstain=True)["choices"]
        assert [choice["task"] == "unknown" for choice in found] == [True, False]
        assert [choice["text"] for choice in found] == ["", expected[1]] and found[0]["novelty"] == 2
        events = streamed(url, prompt=PROMPTS[:2], abstain=True)
        assert [event["choices"][0]["text"] for event in events] == [expected[1], "", ""]


def test_a_client_that_goes_away_ends_its_answer(language_folder, monkeypatch):
    engine, written, run = Engine(language_folder), [], Write.run
    monkeypatch.setattr(Write, "run", lambda *given: [written.append(one) or one for one in run(*given)])
    with running(create_app(engine)) as url:
        body = {"model": "writer", "prompt": PROMPTS[0], "max_tokens": 200, "stream": True, "stop": "never"}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as response:
            next(response.iter_lines())
        assert complete(url, prompt=PROMPTS[0], max_tokens=2)["choices"]
    assert 0 < written[0].tokens < 200 and not written[0].ended


def test_an_answer_ends_where_the_model_has_no_room(language_folder, url):
    engine, long = Engine(language_folder), "so " * 10
    read = complete(url, prompt=long)["usage"]["prompt_tokens"]
    engine.served.pipe.model.config.max_position_embeddings = read + 3
    with running(create_app(engine)) as small:
        found = complete(small, prompt=[long, "who?"], max_tokens=12)["choices"]
        short = complete(url, prompt="who?", max_tokens=12)["choices"][0]
        assert (found[0]["finish_reason"], found[1]["text"]) == ("length", short["text"])
        assert complete(small, prompt=long, max_tokens=12)["usage"]["completion_tokens"] == 3
        status, message = refused(small, prompt=long * 2, max_tokens=12)
        assert status == 422 and message.startswith("The prompt has ")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": "gpt-4", "prompt": "a"}, 404, "There is no model 'gpt-4'"),
        ({"model": "writer:mail", "prompt": "a"}, 404, "There is no model 'writer:mail'"),
        ({"model": 3, "prompt": "a"}, 422, "`model` is 3; give a text."),
        ({"prompt": [1, 2]}, 422, "tokens are not taken"),
        ({"prompt": []}, 422, "`inputs` is empty"),
        ({"prompt": "  "}, 422, "A prompt is empty"),
        ({"prompt": "a" * 50_001}, 413, "50,001 characters"),
        ({"prompt": "a", "max_tokens": 65}, 422, "`max_tokens` is 65; give an integer from 1 to 64."),
        ({"prompt": "a", "temperature": "hot"}, 422, "`temperature` is 'hot'; give a number from 0 to 2."),
        ({"prompt": "a", "temperature": True}, 422, "`temperature` is True"),
        ({"prompt": "a", "n": 2}, 422, "`n` is not supported"),
        ({"prompt": "a", "logprobs": 3}, 422, "`logprobs` is not supported"),
        ({"prompt": "a", "stop": [""]}, 422, "`stop` must be a text"),
        ({"prompt": "a", "stream": "yes"}, 422, "`stream` is 'yes'; give true or false."),
        ({"prompt": "\ud800"}, 422, "lone surrogate"),
    ],
)
def test_bad_completions_get_one_line(url, body, status, words):
    body = {"model": "writer", **body}
    response = httpx.post(
        f"{url}/v1/completions", content=json.dumps(body), headers={"Content-Type": "application/json"}, timeout=60
    )
    found, message = response.status_code, response.json()["error"]["message"]
    assert found == status and words in message and "\n" not in message
    if isinstance(body["prompt"], str) and status == 422:
        body["stream"] = body.get("stream", True)
        again = httpx.post(
            f"{url}/v1/completions", content=json.dumps(body), headers={"Content-Type": "application/json"}
        )
        assert again.status_code == 422


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (None, "`messages` must be a list"),
        ([], "at least one message"),
        ([{"role": "assistant", "content": "a"}], "messages[0] has the role 'assistant'"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "The content of messages[0] must be a text"),
        ([{"role": "user", "content": None}], "The content of messages[0]"),
    ],
)
def test_bad_chats_get_one_line(url, messages, words):
    status, message = refused(url, "chat/completions", messages=messages)
    assert status == 422 and words in message


def test_language_models_answer_the_other_paths_too(language_folder, pipe):
    with TestClient(create_app(Engine(language_folder))) as client:
        for path, options in (("/answer", {}), ("/classify", {"labels": True})):
            found = client.post(path, json={"inputs": PROMPTS}).json()["answers"]
            expected = pipe(PROMPTS, **options)
            assert [answer["answer"] for answer in found] == [answer["answer"] for answer in expected]
        found = client.post("/route", json={"inputs": PROMPTS}).json()["answers"]
        assert [route["task"] for route in found] == [answer["task"] for answer in pipe(PROMPTS)]


# OpenAI's client


@pytest.fixture
def openai(url):
    module = pytest.importorskip("openai", reason="the client of OpenAI is not installed")
    with module.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_the_client_of_openai_needs_no_change(openai, pipe):
    assert [model.id for model in openai.models.list()] == ["writer", "writer:films", "writer:talk"]
    found = openai.completions.create(model="writer", prompt=PROMPTS)
    assert [choice.text for choice in found.choices] == [answer["answer"] for answer in pipe(PROMPTS)]
    messages = [{"role": "user", "content": PROMPTS[2]}]
    chat = openai.chat.completions.create(model="writer", messages=messages, max_tokens=12, temperature=0)
    expected = pipe(PROMPTS[2], max_new_tokens=12)
    assert chat.choices[0].message.content == expected["answer"] and chat.choices[0].task == expected["task"]
    pieces = openai.chat.completions.create(model="writer", messages=messages, max_tokens=12, stream=True)
    chunks = list(pieces)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected["answer"]
    assert chunks[-1].choices[0].task == expected["task"] and chunks[-1].choices[0].finish_reason
    told = openai.chat.completions.create(model="writer:talk", messages=messages)
    assert told.choices[0].task == "talk"


def test_the_client_of_openai_understands_errors(openai):
    import openai as module

    with pytest.raises(module.NotFoundError, match="There is no model"):
        openai.completions.create(model="other", prompt="a")
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    messages = [{"role": "user", "content": "a"}]
    with pytest.raises(module.UnprocessableEntityError, match="`tools` is not supported"):
        openai.chat.completions.create(model="writer", messages=messages, tools=[tool])


def test_streams_of_many_clients_end_with_the_server(language_folder):
    """A stop ends no stream early."""
    engine, begun = Engine(language_folder), threading.Barrier(5, timeout=60)
    found = []

    def ask(url):
        body = {"model": "writer", "prompt": PROMPTS[0], "max_tokens": 100, "stream": True}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as response:
            begun.wait()
            found.append([line for line in response.iter_lines() if line])

    with running(create_app(engine)) as url:
        clients = [threading.Thread(target=ask, args=(url,)) for _ in range(4)]
        for client in clients:
            client.start()
        begun.wait()
    for client in clients:
        client.join()
    assert [lines[-1] for lines in found] == ["data: [DONE]"] * 4
