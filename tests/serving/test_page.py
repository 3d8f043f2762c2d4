"""The page: what it shows, without a browser and in one."""

import json
import re
import shutil
from contextlib import contextmanager

import pytest
from serving_helpers import png, running

pytest.importorskip("gradio", reason="the extra `serve` is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed, which asks the server")

from hf_lifelong.evaluation import AccuracyMatrix  # noqa: E402
from hf_lifelong.loading import load  # noqa: E402
from hf_lifelong.pipeline import LifelongPipeline  # noqa: E402
from hf_lifelong.serving import Engine, create_app  # noqa: E402
from hf_lifelong.serving.page import forms_of, input_of, mount, shown_answer  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUESTION = ("question", "Who wrote it?"), ("context", "Ada wrote it in the spring of 1843.")


class Notes:
    """A teacher that notes what it is told."""

    def __init__(self):
        self.said = []

    def learn(self, name, kind, file, columns, epochs, on_progress):
        self.said.append(("learn", name, kind, file, dict(columns), epochs))
        on_progress(0.5)

    def forget(self, name):
        self.said.append(("forget", name))


@contextmanager
def page_of(engine, teacher=None):
    app = create_app(engine)
    inner = mount(app, engine, teacher)
    with running(app, inner) as url:
        yield url


@pytest.fixture(scope="module")
def engine(folder):
    return Engine(folder)


@pytest.fixture(scope="module")
def url(engine):
    with page_of(engine) as url:
        yield url


# without a browser


def test_forms_are_those_that_a_learned_task_answers(folder, make_folder, language_folder):
    words = {"all": folder, "names": make_folder("names"), "language": language_folder}
    forms = {}
    for name, place in words.items():
        engine = Engine(place)
        forms[name] = forms_of(engine.served)
        engine.close()
    assert forms == {
        "all": ["Text", "Two texts", "Question on a text", "Words"],
        "names": ["Words"],
        "language": ["Text", "Two texts", "Question on a text"],
    }


def test_fields_become_inputs(tmp_path):
    values = ("a", "b", "c", "d", "e f", '{"mine": 1}')
    assert input_of("Text", values) == {"text": "a"}
    assert input_of("Two texts", values) == {"text": "a", "text_pair": "b"}
    assert input_of("Question on a text", values) == {"question": "c", "context": "d"}
    assert input_of("Words", values) == {"tokens": ["e", "f"]}
    assert input_of("JSON", values) == {"mine": 1}
    (tmp_path / "image.png").write_bytes(png(4, 4))
    assert input_of("Image", (str(tmp_path / "image.png"),)) == png(4, 4)
    for form, wrong in (("Text", (" ", *values[1:])), ("Image", (None,)), ("JSON", (*values[:5], "{"))):
        with pytest.raises(ValueError):
            input_of(form, wrong)


def test_an_answer_is_shown_beside_the_runner_up(engine, folder, url):
    model, tokenizer = load(folder)
    pipe = LifelongPipeline(model=model, tokenizer=tokenizer)
    given = {"text": "a film"}
    answer, tasks, sure = shown_answer(engine, given, abstain=False)
    expected, route = pipe(given), pipe.route([given])[0]
    assert answer == expected["answer"] and list(tasks) == [route["group"], route["runner_up"]]
    assert tasks[route["group"]] >= tasks[route["runner_up"]] >= 0
    assert f"score {expected['score']:.3f}" in sure and "margin" in sure
    answer, tasks, sure = shown_answer(engine, {"text": "zzz " * 50}, abstain=True)
    if pipe({"text": "zzz " * 50}, abstain=True)["task"] == "unknown":
        assert answer.startswith("unknown") and tasks == {"unknown": 1.0} and "novelty" in sure


def test_unknown_is_shown_as_unknown(engine, url, monkeypatch):
    from hf_lifelong.adapter import Index

    monkeypatch.setattr(Index, "novelty", lambda self, features, group: features.new_full((len(features),), 3.0))
    answer, tasks, sure = shown_answer(engine, {"text": "a film"}, abstain=True)
    assert answer.startswith("unknown") and tasks == {"unknown": 1.0} and "novelty 3 (unknown above 1)" in sure


def test_the_page_asks_nothing_from_elsewhere(url):
    page = httpx.get(url).text
    loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(https?:)?//([^"]*)"', page)
    assert not loaded and "fonts.googleapis" not in page
    assert not re.search(r"""(url\(|@import )['"]?(https?:)?//""", httpx.get(f"{url}/theme.css").text)
    config = httpx.get(f"{url}/config").json()
    assert config["analytics_enabled"] is False
    assert not {"Teach", "Learn", "Forget"} & set(re.findall(r'"(?:label|value)": ?"(\w+)"', json.dumps(config)))
    assert httpx.get(f"{url}/health").json()["status"] == "ok"  # the server's own paths come first
    wrong = httpx.get(f"{url}/answer")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["error"]["message"] == "`/answer` takes POST."
    assert httpx.post(f"{url}/health").json()["error"]["message"] == "`/health` takes GET."


def call(url, fn_index, data):
    """What an event of the page answers to any caller."""
    body = {"data": data, "fn_index": fn_index, "session_hash": "s", "event_data": None, "trigger_id": None}
    joined = httpx.post(f"{url}/gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        return joined.text
    with httpx.stream("GET", f"{url}/gradio_api/queue/data?session_hash=s", timeout=60) as events:
        for line in events.iter_lines():
            if "process_completed" in line:
                return line
    return ""


def test_a_path_in_a_request_is_not_opened(make_folder):
    """Only what was uploaded, which lies in a folder of its own."""
    engine, teacher = Engine(make_folder("films")), Notes()
    with page_of(engine, teacher) as url:
        config = httpx.get(f"{url}/config").json()
        events = {event["id"]: event for event in config["dependencies"]}
        kinds = {component["id"]: component for component in config["components"]}
        learn = next(i for i, event in events.items() if [kinds[c]["type"] for c in event["inputs"]][:1] == ["file"])
        path = str(engine.folder / "README.md")
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, "mail", "text-classification", "", 1]
        answer = call(url, learn, data)
        assert not teacher.said and '"success":true' not in answer.replace(" ", "")
        assert httpx.get(f"{url}/gradio_api/file={engine.folder / 'adapter_config.json'}").status_code == 403


# in a browser


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed, which drives a browser")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """`visit(url, width)`: a page that is open; at the end, that nothing came from elsewhere and nothing failed."""
    pages, elsewhere, errors = [], [], []

    def open_page(url, width=1200):
        page = browser.new_page(viewport={"width": width, "height": 844})
        page.on("request", lambda r: r.url.startswith((url, "data:", "blob:")) or elsewhere.append(r.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_default_timeout(60_000)
        page.goto(url)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not elsewhere and not errors


def value(page, name):
    return page.locator(f"#{name} textarea, #{name} input").first


def until(page, name, expected):
    from playwright.sync_api import expect

    expect(value(page, name)).to_have_value(re.compile(expected), timeout=60_000)


@pytest.mark.parametrize("width", [1200, 390])
def test_asking_in_a_browser(visit, url, folder, width):
    model, tokenizer = load(folder)
    pipe = LifelongPipeline(model=model, tokenizer=tokenizer)
    page = visit(url, width)
    assert not page.locator("#abstain input").is_checked()  # as in a request or a pipeline
    value(page, "text").fill("a film")
    page.locator("#ask").click()
    until(page, "answer", f"^{pipe('a film')['answer']}$")
    assert pipe.route(["a film"])[0]["group"] in page.locator("#tasks").inner_text()
    page.get_by_label("Question on a text").check()
    for name, text in QUESTION:
        value(page, name).fill(text)
    page.locator("#ask").click()
    until(page, "answer", f"^{re.escape(pipe(dict(QUESTION))['answer'])}$")
    assert "answers" in page.locator("#tasks").inner_text()
    page.get_by_role("tab", name="What it knows").click()
    page.locator("#report pre").wait_for()
    said = page.locator("#report").inner_text()
    assert "4 tasks in 4 groups" in said and str(folder.parent) not in said
    assert page.get_by_role("tab", name="Teach").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_learning_and_forgetting_in_a_browser(visit, make_folder, tmp_path):
    from hf_lifelong.cli.teaching import FolderTeacher

    rows = [
        f"{text} {i},{label}" for i in range(12) for label, text in {"bill": "pay", "talk": "shall we meet"}.items()
    ]
    (tmp_path / "mail.csv").write_text("\n".join(["body,topic", *rows]) + "\n")
    folder = make_folder("films")
    engine = Engine(folder)
    with page_of(engine, FolderTeacher(folder)) as url:
        page = visit(url)
        page.get_by_role("tab", name="Teach").click()
        page.locator("#file input[type=file]").set_input_files(tmp_path / "mail.csv")
        value(page, "name").fill("mail")
        page.locator("#learn").click()  # the columns have other names
        page.get_by_text("no column").first.wait_for()
        assert engine.served.knowledge.names == ["films"]
        value(page, "columns").fill("text=body, label=topic")
        page.locator("#learn").click()
        until(page, "said", "^Learned mail.$")
        assert engine.served.knowledge.names == ["films", "mail"]
        matrix = AccuracyMatrix.from_dict(engine.served.knowledge.scores)
        assert matrix.tasks[-1] == "mail" and matrix.scores[-1][-1] is not None
        page.get_by_role("tab", name="What it knows").click()
        page.locator("#matrix img").wait_for()
        assert "2 tasks in 2 groups" in page.locator("#report").inner_text()
        page.get_by_role("tab", name="Teach").click()
        page.locator("#forget").click()
        page.get_by_text("tick that you are certain").first.wait_for()
        value(page, "forgotten").click()
        page.get_by_role("option", name="films").click()
        page.locator("#certain input").check()
        page.locator("#forget").click()
        until(page, "said", "^Forgot films.$")
        assert engine.served.knowledge.names == ["mail"]
