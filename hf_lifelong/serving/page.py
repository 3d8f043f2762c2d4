"""The page of a server: try an input, see what the adapter knows, teach it a task. Nothing comes from elsewhere."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any, Protocol

from ..evaluation import AccuracyMatrix, plot_matrix
from ..hub import PICTURE, clean, public, to_report
from ..knowledge import UNKNOWN
from ..objectives import head_kind, kinds_on
from ..utils.texts import one_line
from .engine import Engine
from .inputs import inputs_of
from .jobs import Answer, Route, Served
from .limits import RequestError

# Fields of each form of input, by the words that the page has for them.
FORMS = {
    "Text": ("text",),
    "Two texts": ("text", "text_pair"),
    "Question on a text": ("question", "context"),
    "Words": ("tokens",),
    "JSON": ("json",),
}
FIELDS = {
    "text": "Text",
    "text_pair": "Second text",
    "question": "Question",
    "context": "Text with the answer",
    "tokens": "Words, with blanks between",
    "json": "Input as JSON",
}
SAMPLES = {"text": "a", "text_pair": "a", "question": "a", "context": "a", "tokens": ["a"]}
# A wide table of the report scrolls by itself, and does not widen the page of a phone.
CSS = """
.gradio-container {width: 100% !important; max-width: 60rem !important; margin: 0 auto !important}
.gradio-container main, .gradio-container .tabs, .gradio-container .tabitem, .gradio-container .column {
  width: 100%; min-width: 0 !important
}
#report pre {overflow-x: auto; max-width: 100%; font-size: 0.8rem; margin: 0}
"""
PRIVACY = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


class Teacher(Protocol):
    """Changes what the adapter in a folder knows."""

    def learn(
        self,
        name: str,
        kind: str,
        file: str,
        columns: Mapping[str, str],
        epochs: int,
        on_progress: Callable[[float], None],
    ) -> None:
        """Learns a task from a file of rows.

        Args:
            name, kind, columns: As of a task.
            file (`str`): A file that was uploaded.
            epochs (`int`): Passes over the rows.
            on_progress (`Callable`): Called with the share of the training that is done.
        """

    def forget(self, name: str) -> None:
        """Forgets a task."""


def mount(app: Any, engine: Engine, teacher: Teacher | None = None) -> Any:
    """Puts the page at `/` of an application.

    Args:
        app (`FastAPI`): The application.
        engine ([`Engine`]): Answers.
        teacher ([`Teacher`], *optional*): Teaches and forgets; without it, the page can do neither.

    Returns:
        The page's own application, which ends its open connections when its `stop_event` is set.

    Raises:
        ImportError: when Gradio is not installed.
    """
    os.environ.update(PRIVACY)  # read when it is imported
    try:
        import gradio
    except ImportError as error:
        raise ImportError('The page needs Gradio: run `pip install "hf_lifelong[serve]"`, or `--no-page`.') from error
    blocks = _build(gradio, engine, teacher)
    gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        max_file_size=engine.limits.body,
        theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=CSS,
    )
    # Gradio refuses a path in a request that was not uploaded, but only in an application that it launched itself; in
    # a mounted one it would open any file.
    blocks.has_launched = True
    return blocks.app


def _build(gradio: Any, engine: Engine, teacher: Teacher | None) -> Any:
    served = engine.served
    with gradio.Blocks(title=f"{served.name} · hf_lifelong", analytics_enabled=False) as blocks:
        gradio.Markdown(f"# {clean(served.name, 100)}\nOne model that finds the task of an input itself.")
        with gradio.Tab("Ask"):
            _ask_tab(gradio, engine)
        with gradio.Tab("What it knows"):
            shown = _known_tab(gradio)
        if teacher is not None:
            with gradio.Tab("Teach"):
                _teach_tab(gradio, blocks, engine, teacher, shown)
        blocks.load(lambda: _known(engine.served), outputs=shown, show_progress="hidden")
    return blocks


def _ask_tab(gradio: Any, engine: Engine) -> None:
    if engine.served.knowledge.modality == "image":
        fields = [gradio.Image(label="Image", type="filepath", sources=["upload", "clipboard"], elem_id="image")]
        form = gradio.State("Image")
    else:
        forms = forms_of(engine.served)
        form = gradio.Radio(forms, value=forms[0], label="What to ask", visible=len(forms) > 1, elem_id="form")
        fields = [
            gradio.Textbox(label=label, lines=3, visible=name in FORMS[forms[0]], elem_id=name)
            for name, label in FIELDS.items()
        ]
        form.change(lambda form: [gradio.update(visible=name in FORMS[form]) for name in FIELDS], form, fields)
    abstain = gradio.Checkbox(False, label="May answer that it does not know such inputs", elem_id="abstain")
    button = gradio.Button("Ask", variant="primary", elem_id="ask")
    with gradio.Row():
        answer = gradio.Textbox(label="Answer", lines=2, interactive=False, elem_id="answer")
        tasks = gradio.Label(label="Task that answers, runner-up", elem_id="tasks")
    sure = gradio.Textbox(label="How sure", interactive=False, elem_id="sure")

    def ask(form: str, abstain: bool, *values: Any) -> tuple[Any, Any, Any]:
        try:
            return shown_answer(engine, input_of(form, values), abstain)
        except (RequestError, ValueError) as error:
            raise gradio.Error(one_line(str(error)), print_exception=False) from error

    button.click(ask, [form, abstain, *fields], [answer, tasks, sure], concurrency_limit=None, api_name=False)


def forms_of(served: Served) -> list[str]:
    """The forms of input that the page offers: those that a learned task answers."""
    if served.pipe.generates:
        return ["Text", "Two texts", "Question on a text"]
    forms = [form for task in served.knowledge.tasks for form in head_kind(task.kind).forms]
    samples = {words: {name: SAMPLES.get(name) for name in names} for words, names in FORMS.items()}
    found = [words for words, sample in samples.items() if any(form.fits(sample) for form in forms)]
    return found or ["JSON"]


def input_of(form: str, values: tuple[Any, ...]) -> Any:
    """The input that the fields of the page hold.

    Args:
        form (`str`): One of `FORMS`, or `"Image"`.
        values: The values of all `FIELDS`, or the file of the image, which the page has stored itself.
    """
    if form == "Image":
        if values[0] is None:
            raise ValueError("Choose an image first.")
        return Path(values[0]).read_bytes()
    fields = {name: value or "" for name, value in zip(FIELDS, values, strict=True) if name in FORMS[form]}
    if not any(value.strip() for value in fields.values()):
        raise ValueError("Write something first.")
    if form == "JSON":
        return json.loads(fields["json"])
    return {"tokens": fields["tokens"].split()} if form == "Words" else fields


def shown_answer(engine: Engine, given: Any, abstain: bool) -> tuple[str, dict[str, float], str]:
    """What the page shows of the answer to an input: the answer, the probabilities of the task that answers and of the
    runner-up, and in words how sure it is."""
    rows = inputs_of(given, engine.served.knowledge.modality, engine.limits)
    found = engine.submit(Answer(abstain=abstain), rows).result()[0]
    is_unknown, content = found["task"] == UNKNOWN, found["answer"]
    nothing = is_unknown and content is None
    answer = "unknown: like nothing that it has learned" if nothing else _text(content)
    sure = [] if is_unknown or found.get("score") is None else [f"score {found['score']:.3f}"]
    sure += [] if is_unknown else [f"margin to the runner-up {found['margin']:.3f}"]
    if "novelty" in found:
        sure.append(f"novelty {min(found['novelty'], 1e6):.3g} (unknown above 1)")
    try:
        route = engine.submit(Route(), rows).result()[0]
    except ValueError:  # no task of its form, or members are asked before a group is chosen
        return answer, {found["task"]: 1.0 if is_unknown else found["margin"]}, ", ".join(sure)
    tasks = {route["group"]: route["score"]}
    if route["runner_up"] is not None:
        tasks[route["runner_up"]] = max(route["score"] - route["margin"], 0.0)
    return answer, {UNKNOWN: 1.0} if is_unknown else tasks, ", ".join(sure)


def _text(content: Any) -> str:
    return " ".join(content) if isinstance(content, list) else str(content)


def _known_tab(gradio: Any) -> list[Any]:
    gradio.Markdown("### Accuracy matrix")  # a label would lie on the picture
    matrix = gradio.Image(show_label=False, type="pil", interactive=False, buttons=[], elem_id="matrix")
    gradio.Markdown("### Tasks and groups")
    heads = ["task", "kind", "group", "labels"]
    groups = gradio.Dataframe(headers=heads, show_label=False, interactive=False, wrap=True, buttons=[])
    gradio.Markdown("### What `hf-lifelong inspect` says")
    return [matrix, groups, gradio.HTML(elem_id="report")]


def _known(served: Served) -> list[Any]:
    """The values of the tab that shows what an adapter knows."""
    tasks = served.knowledge.tasks
    rows = [[clean(t.name, 60), t.kind, clean(t.group, 60), clean(", ".join(t.labels), 200)] for t in tasks]
    return [_picture(served.knowledge.scores), rows, f"<pre>{escape(public(to_report(served.saved)))}</pre>"]


def _picture(scores: dict[str, Any] | None) -> Any:
    """The picture of an accuracy matrix; `None` without scores, or without the library that draws."""
    from PIL import Image

    if not scores:
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            plot_matrix(AccuracyMatrix.from_dict(scores), Path(folder) / PICTURE)
        except ImportError:
            return None
        with Image.open(Path(folder) / PICTURE) as image:
            return image.copy()


def _teach_tab(gradio: Any, blocks: Any, engine: Engine, teacher: Teacher, shown: list[Any]) -> None:
    config, busy = engine.served.saved.config, threading.Lock()
    kinds = kinds_on(config.get("task_type"), engine.served.knowledge.modality)
    gradio.Markdown("Its own folder is changed; nobody else may learn there at the same time.")
    file = gradio.File(label="Rows: csv, tsv, json or parquet", type="filepath", elem_id="file")
    name = gradio.Textbox(label="Name of the task", elem_id="name")
    kind = gradio.Dropdown(kinds, value=kinds[0], label="Kind", elem_id="kind")
    columns = gradio.Textbox(
        label="Columns, if they have other names", placeholder="text=body, label=topic", elem_id="columns"
    )
    epochs = gradio.Slider(1, 20, value=3, step=1, label="Passes over the rows")
    learn = gradio.Button("Learn", variant="primary", elem_id="learn")
    said = gradio.Textbox(label="What happened", interactive=False, elem_id="said")
    forgotten = gradio.Dropdown([], label="Task to forget", elem_id="forgotten")
    certain = gradio.Checkbox(False, label="Yes, remove it and all that was learned from it", elem_id="certain")
    forget = gradio.Button("Forget", variant="stop", elem_id="forget")

    def choices() -> Any:
        return gradio.update(choices=engine.served.knowledge.names, value=None)

    def change(action: Callable[[], None], words: str) -> list[Any]:
        if not busy.acquire(blocking=False):
            raise gradio.Error("Another task is being learned or forgotten; wait for its end.", print_exception=False)
        try:
            action()
            engine.reload()
        except (ValueError, OSError, KeyError) as error:
            message = str(error.args[0] if isinstance(error, KeyError) else error)
            raise gradio.Error(one_line(message), print_exception=False) from error
        finally:
            busy.release()
        return [words, choices(), *_known(engine.served)]

    def learned(
        file: Any,
        name: str,
        kind: str,
        columns: str,
        epochs: int,
        progress: Any = gradio.Progress(),  # noqa: B008 (how Gradio finds it)
    ) -> list[Any]:
        if file is None or not name.strip():
            raise gradio.Error("Choose a file, and give the task a name.", print_exception=False)

        def action() -> None:
            progress(0.0, desc="Reading the rows")
            roles = dict(_pairs(columns))
            teacher.learn(name.strip(), kind, file, roles, int(epochs), lambda s: progress(s, desc="Learning"))

        return change(action, f"Learned {name.strip()}.")

    def forgot(name: str | None, certain: bool) -> list[Any]:
        if not name or not certain:
            raise gradio.Error("Choose a task, and tick that you are certain.", print_exception=False)
        return change(lambda: teacher.forget(name), f"Forgot {name}.")

    outputs = [said, forgotten, *shown]
    learn.click(learned, [file, name, kind, columns, epochs], outputs, show_progress_on=said, api_name=False)
    forget.click(forgot, [forgotten, certain], outputs, show_progress_on=said, api_name=False)
    blocks.load(choices, outputs=forgotten, show_progress="hidden")


def _pairs(text: str) -> list[tuple[str, str]]:
    """Pairs as in `text=body, label=topic`."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    if not all(role.strip() and column.strip() for role, _, column in pairs):
        raise ValueError("`Columns` must be pairs such as `text=body, label=topic`.")
    return [(role.strip(), column.strip()) for role, _, column in pairs]
