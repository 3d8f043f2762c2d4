"""The HTTP server on tiny models: what it answers is what the pipeline answers."""

import ast
import base64
import json
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from learned import TEXTS
from serving_helpers import png, running, teach

import hf_lifelong
from hf_lifelong.cli.forget import forget_saved
from hf_lifelong.hub import pull
from hf_lifelong.loading import load
from hf_lifelong.pipeline import LifelongPipeline

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed, which asks the server")

from fastapi.testclient import TestClient  # noqa: E402

from hf_lifelong.serving import Engine, Limits, create_app  # noqa: E402

QUESTION = {"question": "Who wrote it?", "context": "Ada wrote it in the spring of 1843. " * 20}
WORDS = {"tokens": ["Ada", "lives", "in", "London"]}
PAIR = {"text": TEXTS[0], "text_pair": TEXTS[1]}
INPUTS = [*TEXTS, PAIR, QUESTION, WORDS]


@pytest.fixture(scope="module")
def pipe(folder):
    model, tokenizer = load(folder)
    return LifelongPipeline(model=model, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def app(folder):
    return create_app(Engine(folder))


@pytest.fixture(scope="module")
def client(app):
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def same(found, expected):
    """Whether answers are the same, up to the rounding of sums over batches of other shapes."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == (pytest.approx(value, abs=1e-4) if isinstance(value, float) else value), key


def answers(client, path, **body):
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    assert response.json()["model"] == "learner"
    return response.json()["answers"]


def refused(response):
    """Status and message of an error, which is one line."""
    message = response.json()["error"]["message"]
    assert "\n" not in message and "Traceback" not in response.text and response.json()["error"]["code"]
    return response.status_code, message


def test_answers_are_those_of_the_pipeline(client, pipe):
    for abstain in (False, True):
        found = answers(client, "/answer", inputs=INPUTS, abstain=abstain)
        for one, other in zip(found, pipe(INPUTS, abstain=abstain), strict=True):
            same(one, other)
    same(answers(client, "/answer", inputs=QUESTION)[0], pipe(QUESTION))


def test_a_named_task_answers(client, pipe):
    for task in ("films", "news"):
        found = answers(client, "/answer", inputs=TEXTS, task=task)
        assert [answer["task"] for answer in found] == [task] * len(TEXTS)
        for one, other in zip(found, pipe(TEXTS, policy="oracle", group=task), strict=True):
            same(one, other)
    status, message = refused(client.post("/answer", json={"inputs": TEXTS, "task": "mail"}))
    assert status == 422 and message == "`task` is 'mail'; it knows films, news, answers, names."


def test_classify_answers_with_labels_only(client, make_folder):
    found = answers(client, "/classify", inputs=[*TEXTS, PAIR])
    assert {answer["kind"] for answer in found} == {"text-classification"}
    status, message = refused(client.post("/classify", json={"inputs": [TEXTS[0], WORDS]}))
    assert status == 422 and message.startswith("inputs[1] has the form of token-classification")
    assert answers(client, "/classify", inputs=[WORDS], abstain=True)[0]["task"] == "unknown"
    with TestClient(create_app(Engine(make_folder("names")))) as other:
        assert refused(other.post("/classify", json={"inputs": TEXTS}))[1].endswith("use `/answer`.")


def test_route_says_where_inputs_go(client, pipe):
    found = answers(client, "/route", inputs=INPUTS)
    for route, expected, answer in zip(found, pipe.route(INPUTS), pipe(INPUTS), strict=True):
        same(route, expected)
        assert route["task"] == answer["task"] and "answer" not in route
    status, message = refused(client.post("/route", json={"inputs": TEXTS, "task": "films"}))
    assert status == 422 and message == "`/route` finds the task; leave `task` out."


def test_images_are_answered_from_base64_and_from_bytes(image_folder):
    model, processor = load(image_folder)
    pipe = LifelongPipeline(model=model, image_processor=processor)
    images = [png(20, 30), png(16, 16, "JPEG")]
    with TestClient(create_app(Engine(image_folder))) as client:
        given = [{"image": base64.b64encode(image).decode()} for image in images]
        found = client.post("/classify", json={"inputs": given}).json()["answers"]
        raw = client.post("/classify", content=images[0], headers={"Content-Type": "image/png"}).json()["answers"]
        for one, other in zip([*found, *raw], pipe([*images, images[0]]), strict=True):
            same(one, other)
        cut = base64.b64encode(images[0][:-30]).decode()
        status, message = refused(client.post("/answer", json={"inputs": [given[0], {"image": cut}]}))
        assert status == 422 and message.startswith("inputs[1]: the image cannot be used")
        assert refused(client.post("/answer", json={"inputs": "/etc/passwd"}))[0] == 422


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 422, "`inputs`: Field required."),
        ({"inputs": "a", "abstain": "yes"}, 422, "`abstain`: Input should be a valid boolean."),
        ({"inputs": "a", "policy": "oracle"}, 422, "`policy`: Extra inputs are not permitted."),
        ({"inputs": []}, 422, "`inputs` is empty"),
        ({"inputs": [3]}, 422, "inputs[0] is 3"),
        ({"inputs": ["a", {"body": "b"}]}, 422, "inputs[1] is {'body': 'b'}, which is no known form of input"),
        ({"inputs": "\ud800"}, 422, "lone surrogate"),
        ({"inputs": ["a"] * 257}, 413, "257 inputs, more than 256"),
        ({"inputs": "a" * 50_001}, 413, "50,001 characters"),
        ([], 422, "`The body`: Input should be"),
    ],
)
def test_bad_requests_get_one_line(client, body, status, words):
    content = json.dumps(body)
    for path in ("/answer", "/classify", "/route"):
        response = client.post(path, content=content, headers={"Content-Type": "application/json"})
        found, message = refused(response)
        assert found == status and words in message


def test_bodies_that_are_no_json_or_come_unasked_are_refused(client):
    head = {"Content-Type": "application/json"}
    for content in (b"{", b"[" * 100_000, b"\xff"):
        assert refused(client.post("/answer", content=content, headers=head))[0] == 422
    # What a page from elsewhere may send without asking first.
    status, message = refused(
        client.post("/answer", content=b'{"inputs": "a"}', headers={"Content-Type": "text/plain"})
    )
    assert status == 422 and "Content-Type: application/json" in message
    assert refused(client.get("/nothing"))[0] == 404 and refused(client.get("/answer"))[0] == 405
    assert "access-control-allow-origin" not in client.get("/health", headers={"Origin": "http://evil"}).headers


def test_a_body_that_is_too_large_is_not_read(folder):
    with running(create_app(Engine(folder, Limits(body=1000)))) as url:
        response = httpx.post(f"{url}/answer", json={"inputs": "a" * 2000})
        assert refused(response) == (413, "The request is larger than 1,000 bytes; send fewer inputs at once.")

        def endless():
            for _ in range(1000):
                yield b" " * 500

        head = {"Content-Type": "application/json"}
        with suppress(httpx.WriteError):  # the server may have answered and closed the connection
            assert httpx.post(f"{url}/answer", content=endless(), headers=head).status_code == 413
        assert httpx.get(f"{url}/health").json()["status"] == "ok"


def test_a_full_queue_gives_429(folder):
    engine = Engine(folder, Limits(waiting=4))
    hold, begun = threading.Event(), threading.Event()

    class Holding:
        def run(self, served, rows, batch_size):
            begun.set()
            assert hold.wait(30)
            return rows

    with TestClient(create_app(engine)) as client:
        engine.submit(Holding(), ["first"])
        begun.wait(30)
        waiting = engine.submit(Holding(), ["second"] * 4)
        response = client.post("/answer", json={"inputs": "a"})
        assert refused(response)[0] == 429 and response.headers["retry-after"] == "1"
        assert client.get("/health").json()["waiting"] == 4
        hold.set()
        waiting.result(30)
        assert client.post("/answer", json={"inputs": "a"}).status_code == 200


def test_an_error_of_the_server_tells_nothing_to_the_client(client, monkeypatch):
    monkeypatch.setattr(LifelongPipeline, "__call__", lambda *_, **__: [][0])
    response = client.post("/answer", json={"inputs": "a"})
    assert refused(response) == (500, "The server failed; its log says why.")


def test_health_models_and_metrics(client):
    health = client.get("/health").json()
    assert health == {"status": "ok", "model": "learner", "tasks": ["films", "news", "answers", "names"], "waiting": 0}
    names = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert names == ["learner", "learner:films", "learner:news", "learner:answers", "learner:names"]
    client.post("/answer", json={"inputs": TEXTS})
    client.post("/answer", json={"inputs": 3})
    client.get("/some/where")
    lines = client.get("/metrics").text.splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert float(values['hf_lifelong_requests_total{path="/answer",status="200"}']) >= 1
    assert float(values['hf_lifelong_requests_total{path="/answer",status="422"}']) >= 1
    assert float(values['hf_lifelong_requests_total{path="other",status="404"}']) >= 1
    assert float(values['hf_lifelong_request_seconds_count{path="/answer"}']) >= 2
    assert float(values["hf_lifelong_batch_rows_sum"]) >= len(TEXTS)
    assert values["hf_lifelong_waiting_rows"] == "0.0"


def test_completions_need_a_language_model(client):
    status, message = refused(client.post("/v1/completions", json={"model": "learner", "prompt": "a"}))
    assert status == 422 and message.startswith("The adapter is no language model")


def test_a_name_from_elsewhere_does_not_reach_a_server_on_this_machine(folder):
    with running(create_app(Engine(folder), hosts=["127.0.0.1", "localhost"])) as url:
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"{url}/health", headers={"Host": "evil.example:80"}).status_code == 400


def test_500_requests_from_32_clients_all_get_their_own_answers(folder, pipe):
    """None is lost, none is wrong, whatever they share batches with."""
    texts = [f"{TEXTS[i % 4]} number {i}" for i in range(200)]
    choices = [*texts, *({**QUESTION, "question": f"Who wrote number {i}?"} for i in range(20)), WORDS, PAIR]
    draw = random.Random(0)
    jobs = [
        (draw.choice(("/answer", "/route")), [draw.choice(choices) for _ in range(draw.choice((1, 1, 1, 2, 5)))])
        for _ in range(500)
    ]
    with running(create_app(Engine(folder))) as url, httpx.Client(base_url=url, timeout=60) as http:
        with ThreadPoolExecutor(32) as pool:
            found = list(pool.map(lambda job: http.post(job[0], json={"inputs": job[1]}), jobs))
        sizes = http.get("/metrics").text
    assert [response.status_code for response in found] == [200] * 500
    for (path, inputs), response in zip(jobs, found, strict=True):
        alone = pipe(inputs) if path == "/answer" else pipe.route(inputs)
        for one, other in zip(response.json()["answers"], alone, strict=True):
            same(one, other)
    batches = float(next(line for line in sizes.splitlines() if "batch_rows_count" in line).split()[-1])
    assert batches < 400  # requests that waited were answered together


def test_a_new_task_is_served_without_a_lost_request(make_folder):
    folder = make_folder("films", "news")
    engine = Engine(folder)
    engine.watch(every=0.05)
    stop, statuses, seen = threading.Event(), [], []

    def ask(url):
        with httpx.Client(base_url=url, timeout=60) as http:
            while not stop.is_set():
                response = http.post("/answer", json={"inputs": TEXTS})
                statuses.append(response.status_code)
                seen.extend(answer["task"] for answer in response.json()["answers"])

    with running(create_app(engine)) as url:
        clients = [threading.Thread(target=ask, args=(url,)) for _ in range(4)]
        for client in clients:
            client.start()
        teach(folder, "mail")
        until = time.monotonic() + 60
        while httpx.get(f"{url}/health").json()["tasks"] != ["films", "news", "mail"]:
            assert time.monotonic() < until
            time.sleep(0.05)
        found = httpx.post(f"{url}/answer", json={"inputs": "a", "task": "mail"}).json()["answers"][0]
        stop.set()
        for client in clients:
            client.join()
    assert found["task"] == "mail" and found["answer"] in ("no", "yes")
    assert set(statuses) == {200} and set(seen) <= {"films", "news", "mail"}


def test_reload_when_asked_and_the_old_adapter_goes_on_if_the_new_one_is_damaged(make_folder):
    folder = make_folder("films")
    with TestClient(create_app(Engine(folder))) as client:
        assert client.post("/reload").json() == {"reloaded": False, "tasks": ["films"]}
        kept = folder.with_name("kept")
        shutil.copytree(folder, kept)
        teach(folder, "mail")
        tensors = folder / "adapter_model.safetensors"
        whole = tensors.read_bytes()
        tensors.write_bytes(whole[:-100])
        status, message = refused(client.post("/reload"))
        assert status == 500 and "the adapter from before answers" in message and str(folder) not in message
        assert client.post("/answer", json={"inputs": "a"}).json()["answers"][0]["task"] == "films"
        tensors.write_bytes(whole)
        assert client.post("/reload").json() == {"reloaded": True, "tasks": ["films", "mail"]}


def test_after_the_last_task_is_forgotten_nothing_answers(make_folder):
    folder = make_folder("films")
    with TestClient(create_app(Engine(folder))) as client:
        forget_saved(pull(folder), "films", folder)
        assert client.post("/reload").json() == {"reloaded": True, "tasks": []}
        status, message = refused(client.post("/answer", json={"inputs": "a"}))
        assert 400 <= status < 500 and "knows no task yet" in message


def test_a_folder_that_is_away_for_a_while_is_loaded_when_it_is_back(make_folder, monkeypatch):
    folder = make_folder("films")
    engine = Engine(folder)
    with TestClient(create_app(engine)) as client:
        monkeypatch.setattr("hf_lifelong.serving.engine.pull", None)  # the Hub is not asked for a folder
        away = folder.rename(folder.with_name("away"))
        engine.watch(every=0.02)
        time.sleep(0.2)
        assert refused(client.post("/reload"))[0] == 500
        assert client.post("/answer", json={"inputs": "a"}).json()["answers"][0]["task"] == "films"
        monkeypatch.undo()
        teach(away, "mail")
        away.rename(folder)
        deadline = time.monotonic() + 60
        while engine.served.knowledge.names != ["films", "mail"] and time.monotonic() < deadline:
            time.sleep(0.05)
        assert client.get("/health").json()["tasks"] == ["films", "mail"]


def test_an_adapter_that_knows_nothing_is_refused(make_folder):
    with pytest.raises(ValueError, match="has learned no task"):
        Engine(make_folder())


def test_the_command_answers_what_waits_before_it_stops(folder):
    command = [sys.executable, "-m", "hf_lifelong", "serve", str(folder), "--port", "0", "--no-page"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = next(line for line in process.stderr if "Serving" in line)
            url = line.split()[-1]
            assert line.startswith("Serving `learner` on http://127.0.0.1:")
            with ThreadPoolExecutor(8) as pool:
                body = {"inputs": [QUESTION] * 64}
                found = [pool.submit(httpx.post, f"{url}/answer", json=body, timeout=60) for _ in range(8)]
                while (waiting := httpx.get(f"{url}/health").json()["waiting"]) < 64:
                    time.sleep(0.01)
                process.send_signal(signal.SIGTERM)
                # Requests that had not been read by then may be refused.
                answered = [future.result() for future in found if future.exception() is None]
            assert {answer.status_code for answer in answered} == {200} and len(answered) * 64 >= waiting
            rest = process.stderr.read()
            assert process.wait(30) in (0, -signal.SIGTERM) and "Traceback" not in rest
        finally:
            process.kill()


def test_each_library_of_the_extra_is_imported_by_one_module():
    knowing = {}
    for file in Path(hf_lifelong.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in {name.split(".")[0] for name in names} & {"fastapi", "uvicorn", "gradio", "prometheus_client"}:
                knowing.setdefault(name, set()).add(file.stem)
    assert knowing == {
        "fastapi": {"app"},
        "uvicorn": {"server"},
        "gradio": {"page"},
        "prometheus_client": {"metrics"},
    }


def test_without_the_extra_the_error_names_it(tmp_path):
    code = """
import sys
sys.modules["fastapi"] = None
import hf_lifelong.serving
print("torch" in sys.modules)
try:
    from hf_lifelong.serving import create_app
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines() == ["False", 'A server needs FastAPI: run `pip install "hf_lifelong[serve]"`.']
