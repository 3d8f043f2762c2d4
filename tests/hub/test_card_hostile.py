"""Names and texts of users and of loaded files: they break nothing, and nothing of the machine is told."""

from dataclasses import replace
from html.parser import HTMLParser

import pytest
from card_helpers import HEADINGS, HOME, check_whole, headings
from huggingface_hub import ModelCard

from hf_lifelong.evaluation import AccuracyMatrix
from hf_lifelong.hub import CardFacts, model_card
from hf_lifelong.hub.markdown import clean, distinct, duration, escape, fence, public, size, value
from hf_lifelong.knowledge import KnowledgeBase, LearnedTask, TaskData

NAMES = [
    "a|b",
    "\\|",
    "x`y``z",
    "**bold** _and_ ~~gone~~",
    "<script>alert(1)</script>",
    "</details>",
    "<!--",
    "![i](http://e.org/x.png)",
    "[l](javascript:x)",
    "# heading",
    "---",
    "- item: {a: b",
    "&lt;b&gt;",
    "$$x^2$$ @someone #1",
    "null",
    "{{ 7 * 7 }}{% raw %}",
    "x" * 500,
    "x" * 499 + "y" + "x" * 200,
]


BROKEN = ["two\nlines\n---\nlicense: mit\n", "\u202eright to left", "\ud800", "\x00\x1b[31m", "\u2028| --- |", " "]


class Tags(HTMLParser):
    """All tags with their attributes, and the number of cells of each row of each table."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.tables = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append(0)
        elif tag in ("td", "th"):
            self.tables[-1][-1] += 1


def hostile(names):
    matrix, tasks = AccuracyMatrix(), []
    for i, name in enumerate(names):
        if name.isprintable() and name.strip():
            same = dict.fromkeys([*matrix.tasks, name], 0.5)
            confusion = {task: dict.fromkeys(same, 1 / len(same)) for task in same}
            matrix.add(name, "<b>|acc", 0.5, same, same, same, confusion=confusion)
        data = TaskData(name, name, name, 5, name, "test")
        learned = LearnedTask(name, names[-i - 1], (name, "|`<i>`"), 0, 1, name, 9, 0.5, names[0], name, data)
        tasks.append(learned)
    return KnowledgeBase({"model_type": "<u>", "layers": "x"}, 0, [], tasks, matrix.to_dict())


def hostile_facts(names):
    return CardFacts(
        repo_id='x" + exec("1") + "',
        base_model="a b",
        session=names[:2],
        task_sizes=dict.fromkeys(names, 10**6),
        training=dict.fromkeys(names, "`|<b>\n---\n"),
        command="```\n# evil\n```\nx",
        hardware=" | ".join(names),
        versions={name: name for name in names},
        language=["en", "---", "English"],
        license="My | own\n---\nlicence",
    )


def test_hostile_names_break_nothing(encoder_config):
    names = NAMES + BROKEN
    config = {**encoder_config, "target_modules": NAMES, "retrieval": "`|"}
    card = model_card(hostile(names), config, hostile_facts(names))
    text = str(card)
    assert str(ModelCard(text)) == text
    text.encode()
    assert headings(text) == [*HEADINGS[:3], "Which group answered", "Size", "Adapter", "Training", *HEADINGS[4:]]
    assert "exec" not in text.partition("## What")[0]
    data = ModelCard(text).data
    assert data.license == "other" and data.license_name == "my-own-licence" and data.language == ["en"]
    assert data.base_model is None and data.datasets == ["null"]
    found = [result for result in data.eval_results if result.task_type != "continual-learning"]
    assert [r.dataset_config for r in found if len(r.dataset_config) < 50] == NAMES[:-2]
    assert len({r.dataset_config for r in found}) == len(NAMES)


def test_hostile_names_read_as_they_are_when_rendered(encoder_config):
    markdown_it = pytest.importorskip("markdown_it")
    names = NAMES + BROKEN
    card = model_card(hostile(names), encoder_config, hostile_facts(names))
    html = markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(card.text)
    page = Tags(html)
    assert len(page.tables) == 5
    assert [len(set(rows)) for rows in page.tables] == [1] * 5
    assert [len(rows) for rows in page.tables] == [
        len(names) + 1,
        7,
        len(NAMES) + 4,
        len(NAMES) + 1,
        2,
    ]
    allowed = {"h1", "h2", "p", "a", "strong", "em", "code", "pre", "ul", "li", "details", "summary"}
    assert {tag for tag, _ in page.tags} <= allowed | {"table", "thead", "tbody", "tr", "th", "td"}
    links = {attrs["href"] for tag, attrs in page.tags if tag == "a"}
    assert links == {
        "https://huggingface.co/docs/peft",
        "https://arxiv.org/abs/2409.13997",
        "https://huggingface.co/datasets/null",
    }
    for name in ("a|b", "&lt;script&gt;alert(1)&lt;/script&gt;", "**bold** _and_ ~~gone~~", "&amp;lt;b&amp;gt;"):
        assert f"<strong>{name}</strong>" in html


def test_nothing_of_the_machine_is_told(two_tasks, two_facts, encoder_config):
    facts = replace(
        two_facts,
        command=(
            f"python {HOME}/code/train.py --output_dir={HOME}/out --data ~/data/x.csv \\\n"
            "  --hub_token hf_abcdefghijklmnopqrstuvwx --key=secret C:\\ada\\y.csv"
        ),
        training={"report_to": ["none"], "logging_dir": f"{HOME}/logs", "warmup_ratio": float("nan"), "x": None},
        hardware=f"H200 of {HOME}",
    )
    films = replace(two_tasks.tasks[0], data=TaskData(f"{HOME}/data/films.csv", rows=3))
    two_tasks.tasks[0] = films
    text = check_whole(model_card(two_tasks, encoder_config, facts))
    assert "python train.py --output_dir=out --data x.csv \\\n--hub_token … --key=… y.csv" in text
    assert "films.csv, 3 rows" in text and "`logging_dir` logs" in text and "`report_to` none" in text
    assert "warmup_ratio" not in text and "home" not in text and "hf_abc" not in text and "secret" not in text


def test_helpers():
    assert (size(999), size(1500), size(91_000_000), size(123_000_000), size(2.5e9)) == (
        "999 bytes",
        "1.5 kB",
        "91.0 MB",
        "123 MB",
        "2.5 GB",
    )
    assert (duration(3.21), duration(59), duration(880), duration(7325)) == (
        "3.2 seconds",
        "59 seconds",
        "14 min 40 s",
        "2 h 2 min",
    )
    assert escape("ag_news: C# & <b>") == "ag_news: C&#35; &#38; &#60;b&#62;"
    assert all(escape(f"a{c}b") == f"a&#{ord(c)};b" for c in "&<>|\\`*[]~$#@")
    assert escape("_x_") == "&#95;x&#95;" and escape(" \n ") == "(no name)"
    assert len(clean("x" * 1000, 60)) == 60
    assert distinct(["a", "a\n", "a (2)", "b"]) == ["a", "a (2)", "a (2) (2)", "b"]
    assert fence("a\n````\nb", "x") == "`````x\na\n````\nb\n`````"
    assert (
        public("https://e.org/a/b and/or /etc/x PYTHONPATH=/a/b:/c/d w/o")
        == "https://e.org/a/b and/or x PYTHONPATH=b:d w/o"
    )
    assert (value(True), value(1e-5), value(float("inf")), value(None), value({}), value("")) == (
        "on",
        "1e-05",
        "",
        "",
        "",
        "",
    )
    assert value({"b", "a"}) == "a, b" and value([0.9, 0.5]) == "0.9, 0.5"
