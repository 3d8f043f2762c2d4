import ast
import dataclasses
import re
from html.parser import HTMLParser

import pytest
from datasets import Dataset
from huggingface_hub import ModelCard
from peft import get_peft_model
from transformers import AutoModel, AutoModelForCausalLM

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, Task
from hf_lifelong.evaluation import AccuracyMatrix
from hf_lifelong.hub import CardFacts, TaskFacts, model_card
from hf_lifelong.hub.markdown import clean, distinct, duration, escape, fence, public, size, value
from hf_lifelong.knowledge import KnowledgeBase, LearnedTask

# A folder of no machine: what a card must not show.
HOME = "/".join(["", "home", "ada"])

HEADINGS = ["Quickstart", "What it learned", "How well it keeps it", "Settings", "Limits", "Citation"]

# "…" stands for any text in one line.
TWO_TASKS = """
# sentiment-then-qa

A [PEFT](https://huggingface.co/docs/peft) adapter for lifelong learning on the frozen encoder \
[sentence-transformers/all-MiniLM-L6-v2](https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2). It has \
learned **2 tasks**, one after another, …

## Quickstart

```python
import hf_lifelong  # …
from peft import AutoPeftModelForFeatureExtraction
from transformers import AutoTokenizer, pipeline

folder = "ada/sentiment-then-qa"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoPeftModelForFeatureExtraction.from_pretrained(folder, dtype="float32")
answer = pipeline("lifelong", model=model, tokenizer=tokenizer)
print(answer("…"))
print(answer({"question": "…", "context": "…"}))
print(answer("…", abstain=True))  # …
```

## What it learned

| task | kind | labels | group | members | training data | started from |
| :-- | :-- | :-- | :-- | :-- | :-- | :-- |
| **sst2** | text-classification | negative, positive | sst2 | 5 | \
[nyu-mll/glue](https://huggingface.co/datasets/nyu-mll/glue) (sst2), 2,000 rows | fresh |
| **squad** | question-answering |  | squad | 5 | \
[rajpurkar/squad](https://huggingface.co/datasets/rajpurkar/squad), 8,000 rows, licence cc-by-sa-4.0 | sst2 |

## How well it keeps it

Shares in [0, 1]; no input came with the name of its task. All are of the test data.

| metric | value | what it is |
| :-- | :-- | :-- |
| average accuracy ↑ | 0.680 | … |
| learning accuracy ↑ | 0.700 | … |
| BWT ↑ | -0.040 | … |
| forgetting ↓ | 0.040 | … |
| retrieval accuracy ↑ | 0.960 | … |
| oracle accuracy ↑ | 0.710 | … |

![…](accuracy_matrix.png)

|  | sst2 (accuracy ↑) | squad (f1 ↑) |
| :-- | --: | --: |
| majority class | 0.500 | 0.100 |
| after sst2 | 0.900 | · |
| after squad | 0.860 | 0.500 |
| oracle (right group given) | 0.900 | 0.520 |
| retrieval (right group chosen) | 0.940 | 0.980 |

## Which group answered

…

| inputs of | sst2 | squad |
| :-- | --: | --: |
| sst2 | **0.940** | 0.060 |
| squad | 0.020 | **0.980** |

## Size

| weights | size |
| :-- | --: |
| base model | 90.9 MB |
| adapter, all tasks | 8.0 MB (8.8% of the base) |
| of it sst2 | 3.9 MB |
| of it squad | 4.1 MB |

## Settings

- **Training:** `num_train_epochs` 3, `per_device_train_batch_size` 16, `learning_rate` 0.002
- **Drift:** `gradient_noise` 0.05, `drift_dropout` on
- **Grouping:** `grouping` performance
- **Adapter:** `r` 8, `lora_alpha` 16, `lora_dropout` 0, `target_modules` query, value, `members` 5
- **Trunk:** the bottom 3 of 6 layers …
- **Retrieval and answer:** `retrieval` signature, `uncertainty` entropy, `answer` merged, `per_batch` off, \
`signature_rank` 64, `signature_size` 1,536, `signature_shrinkage` 0.05
- **Inputs:** `max_length` 128, `stride` 32

## Environment

- **Hardware:** 2 CPU cores
- **Training time:** 14 min 40 s
- **Versions:** hf_lifelong 0.1.0, torch 2.11.0, transformers 5.23.0, peft 0.22.0

To train it again:

```bash
accelerate launch recipes/sentiment_then_qa.py
```

## Limits

- The scores are of one training run; …
- A task is found by where its inputs lie. …
- Inputs unlike those of their task …
- The bottom 3 layers are frozen: …
- What is wrong or unfair …
- `import hf_lifelong` is needed before it can be loaded.

## Citation

DriftNet is the method of "Drift to Remember" (Du et al., [arXiv 2409.13997](https://arxiv.org/abs/2409.13997)). \
This adapter was made with `hf_lifelong`, a reimplementation from the published abstract and claims; it does not \
claim to reproduce the paper's numbers. … 2026/0065155 A1, is published (an application, not a grant); …

```bibtex
@article{drifttoremember,
  title   = {Drift to Remember},
  author  = {Du and others},
  journal = {arXiv preprint arXiv:2409.13997},
  year    = {2024}
}
```
"""

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


def matches(text, pattern):
    assert re.fullmatch(re.escape(pattern).replace("…", "[^\n]+"), text), text


def headings(text):
    return re.findall(r"^## (.*)$", text, flags=re.M)


def check_whole(card):
    """What holds for every card."""
    text = str(card)
    assert str(ModelCard(text)) == text
    code = re.search(r"```python\n(.*?)\n```", text, flags=re.S)[1]
    assert code.startswith("import hf_lifelong")
    ast.parse(code)
    assert not re.search(r"\b(None|nan|inf)\b", text)
    assert not re.search(r"(?<![\w/:.<])(/|~/|[A-Z]:\\)\w", text.replace("https://", ""))
    assert not re.search(r"^## .*\n\n(##|\Z)", text, flags=re.M), "a heading with nothing below"
    assert "\n\n\n" not in text
    assert text.encode().decode() == text
    return text


def results(card):
    """(task type, data set configuration, metric) → value, as read back from the text."""
    found = ModelCard(str(card)).data.eval_results or []
    assert all(result.verified is None for result in found)
    return {(r.task_type, r.dataset_config, r.metric_type): r.metric_value for r in found}


def test_whole_card_of_two_tasks(two_tasks, two_facts, encoder_config):
    card = model_card(two_tasks, encoder_config, two_facts)
    check_whole(card)
    matches(card.text, TWO_TASKS)


def test_metadata_of_two_tasks(two_tasks, two_facts, encoder_config):
    data = ModelCard(str(model_card(two_tasks, encoder_config, two_facts))).data
    assert data.library_name == "peft"
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert {"hf_lifelong", "continual-learning", "lifelong-learning", "peft"} < set(data.tags)
    assert f"base_model:adapter:{data.base_model}" in data.tags
    assert data.datasets == ["nyu-mll/glue", "rajpurkar/squad"]
    assert data.license == "apache-2.0" and data.language == ["en"] and data.metrics == ["accuracy", "f1"]
    assert data.pipeline_tag is None, "two kinds of tasks have no common tag"
    assert data.model_name == "sentiment-then-qa"
    assert {r.dataset_type for r in data.eval_results} == {"nyu-mll/glue", "rajpurkar/squad", "other"}


def test_results_are_one_for_each_task_and_metric(two_tasks, two_facts, encoder_config):
    # By hand: (.86 + .5) / 2, (.9 + .5) / 2, .86 - .9, .9 - .86, (.94 + .98) / 2, (.9 + .52) / 2.
    assert results(model_card(two_tasks, encoder_config, two_facts)) == {
        ("text-classification", "sst2", "accuracy"): 0.86,
        ("question-answering", "squad", "f1"): 0.5,
        ("continual-learning", "all tasks", "average_accuracy"): 0.68,
        ("continual-learning", "all tasks", "learning_accuracy"): 0.7,
        ("continual-learning", "all tasks", "bwt"): -0.04,
        ("continual-learning", "all tasks", "forgetting"): 0.04,
        ("continual-learning", "all tasks", "retrieval_accuracy"): 0.96,
        ("continual-learning", "all tasks", "oracle_accuracy"): 0.71,
    }


def test_tasks_of_one_data_set_are_not_merged(stream, encoder_config):
    facts = CardFacts(tasks={f"task-{i}": TaskFacts(dataset_id="a/b", scored_on="test") for i in range(15)})
    card = model_card(stream(15), encoder_config, facts)
    index = card.data.to_dict()["model-index"][0]["results"]
    assert len(index) == 16
    assert [result["dataset"]["config"] for result in index] == [*(f"task-{i}" for i in range(15)), "all tasks"]
    assert [results(card)["text-classification", f"task-{i}", "accuracy"] for i in (0, 14)] == [0.81, 0.95]


@pytest.mark.parametrize("count", [1, 2, 15])
def test_every_number_of_tasks(stream, encoder_config, count):
    text = check_whole(model_card(stream(count), encoder_config, CardFacts()))
    assert headings(text) == HEADINGS
    for i in range(count):
        assert re.search(rf"^\| \*\*task-{i}\*\* \| text-classification \| no, yes \| task-{i} \| 2 \|", text, re.M)
        cells = [f"{0.95 - 0.01 * (i - j):.3f}" if j <= i else "·" for j in range(count)]
        assert f"| after task-{i} | {' | '.join(cells)} |" in text
    assert text.count("| majority class |") == 1
    assert text.count("<details>") == text.count("</details>") == (count == 15)
    assert ("score now ↑" in text) == (count == 15)
    assert ("BWT ↑" in text) == ("| forgetting ↓" in text) == ("retrieval accuracy ↑" in text) == (count > 1)
    assert ("abstain=True" in text) == (count > 1)
    heads = [line for line in text.splitlines() if line.startswith("|  | task-0")]
    assert len(heads) == 1 and heads[0].count("(accuracy ↑)") == count


def test_long_streams_keep_only_the_last_row(stream, encoder_config):
    text = check_whole(model_card(stream(41), encoder_config))
    assert re.findall(r"^\| after (\S+)", text, flags=re.M) == ["task-40"]
    assert "<summary>41 tasks</summary>" in text


def test_without_anything_known(encoder_config):
    text = check_whole(model_card(KnowledgeBase(), {}))
    assert headings(text) == ["Quickstart", "Limits", "Citation"]
    assert "It has learned no task yet." in text and "came from a local folder" in text
    assert "model-index" not in text and "pipeline(" not in text and "base_model" not in text
    assert headings(check_whole(model_card(KnowledgeBase(), encoder_config))) == [
        "Quickstart",
        "Settings",
        "Limits",
        "Citation",
    ]


def test_without_measured_scores(two_tasks, two_facts, encoder_config):
    two_tasks.scores = None
    text = check_whole(model_card(two_tasks, encoder_config, two_facts))
    assert "model-index" not in text and "How well" not in text and "accuracy_matrix.png" not in text
    assert "| score of its own group on validation data ↑ |" in text and "| 0.910 |" in text


def test_partly_measured_scores_say_so(two_tasks, two_facts, encoder_config):
    matrix = AccuracyMatrix.from_dict(two_tasks.scores)
    matrix.replace_last({"squad": 0.5})
    two_tasks.scores = matrix.to_dict()
    card = model_card(two_tasks, encoder_config, two_facts)
    text = check_whole(card)
    assert "1 of 2 tasks were scored" in text and "| after squad | · | 0.500 |" in text
    assert "BWT" not in text and "oracle" not in text
    assert [key for key in results(card) if key[0] != "continual-learning"] == [("question-answering", "squad", "f1")]
    two_tasks.scores = matrix.without("squad").to_dict()
    assert "1 of 2 tasks were scored" in str(model_card(two_tasks, encoder_config, two_facts))


def test_every_missing_fact_leaves_its_own_gap_only(two_tasks, two_facts, encoder_config):
    empty = CardFacts()
    for field in dataclasses.fields(CardFacts):
        facts = dataclasses.replace(two_facts, **{field.name: getattr(empty, field.name)})
        found = headings(check_whole(model_card(two_tasks, encoder_config, facts)))
        assert set(HEADINGS) <= set(found), field.name
    facts = dataclasses.replace(two_facts, confusion=None, base_size=None, adapter_size=None, tasks={})
    assert not {"Which group answered", "Size"} & set(headings(str(model_card(two_tasks, encoder_config, facts))))


def test_language_models(stream, language_config):
    knowledge = stream(2, "text-generation", template="{title}: {text}")
    facts = CardFacts("ada/writer", "gpt2")
    card = model_card(knowledge, language_config, facts)
    text = check_whole(card)
    assert "from peft import AutoPeftModelForCausalLM" in text and "labels=True" in text
    assert card.data.pipeline_tag == "text-generation"
    assert "<code>{title}: {text}</code> |" in text and "in a chat, give all turns" in text
    assert "`max_new_tokens` 64" in text and "stride" not in text
    assert "labels=True" not in str(model_card(stream(2, "text-generation", ()), language_config, facts))


def test_one_kind_of_tasks_has_its_tag(stream, encoder_config):
    assert model_card(stream(2), encoder_config).data.pipeline_tag == "text-classification"
    assert model_card(stream(1, kind="telepathy"), encoder_config).data.pipeline_tag is None


@pytest.mark.parametrize("base", [None, f"{HOME}/models/bert", "./bert", "C:\\models\\bert", "a/b/c", "../x"])
def test_a_local_base_is_said_and_never_shown(two_tasks, two_facts, encoder_config, base):
    facts = dataclasses.replace(two_facts, base_model=base)
    card = model_card(two_tasks, encoder_config, facts)
    text = check_whole(card)
    assert "came from a local folder" in text and "ada/models" not in text and "models\\" not in text
    assert card.data.base_model is None
    assert "base_model:adapter" not in text
    assert 'AutoModel.from_pretrained("path/to/the/base", dtype="float32")' in text


def test_nothing_of_the_machine_is_told(two_tasks, two_facts, encoder_config):
    facts = dataclasses.replace(
        two_facts,
        command=(
            f"python {HOME}/work/train.py --output_dir={HOME}/out --data ~/data/x.csv \\\n"
            "  --hub_token hf_abcdefghijklmnopqrstuvwx --key=secret C:\\ada\\y.csv"
        ),
        training={"report_to": ["none"], "logging_dir": f"{HOME}/logs", "warmup_ratio": float("nan"), "x": None},
        tasks={"sst2": TaskFacts(dataset=f"{HOME}/data/films.csv", rows=3)},
        hardware=f"H200 of {HOME}",
    )
    text = check_whole(model_card(two_tasks, encoder_config, facts))
    assert "python train.py --output_dir=out --data x.csv \\\n--hub_token … --key=… y.csv" in text
    assert "films.csv, 3 rows" in text and "`logging_dir` logs" in text and "`report_to` none" in text
    assert "warmup_ratio" not in text and "home" not in text and "hf_abc" not in text and "secret" not in text


def test_many_labels_are_folded(stream, encoder_config):
    few, many = (stream(1, labels=tuple(f"label-{i}" for i in range(n))) for n in (10, 150))
    text = str(model_card(few, encoder_config))
    assert "<details>" not in text and "label-8, label-9 |" in text
    text = str(model_card(many, encoder_config))
    assert "| <details><summary>150</summary>label-0, label-1, " in text and "label-149</details> |" in text
    text = str(model_card(stream(1, labels=tuple(map(str, range(100_000)))), encoder_config))
    assert " and 99,800 more</details>" in text and len(text) < 20_000


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
            matrix.add(name, "<b>|acc", 0.5, same, same, same)
        tasks.append(LearnedTask(name, names[-i - 1], (name, "|`<i>`"), 0, 1, name, 9, 0.5, names[0], template=name))
    return KnowledgeBase({"model_type": "<u>", "layers": "x"}, 0, [], tasks, matrix.to_dict())


def hostile_facts(names):
    return CardFacts(
        repo_id='x" + exec("1") + "',
        base_model="a b",
        tasks={name: TaskFacts(name, name, name, 5, name, name, 10**6) for name in names},
        confusion={name: dict.fromkeys(names, 1 / len(names)) for name in names},
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
    assert headings(text) == [*HEADINGS[:3], "Which group answered", "Size", "Settings", "Environment", *HEADINGS[4:]]
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
        len(names) + 1,
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


def test_a_damaged_matrix_is_one_clear_error(two_tasks, encoder_config):
    two_tasks.scores["baseline"] = [float("nan"), 0.1]
    with pytest.raises(ValueError, match=r"baseline.*NaN"):
        model_card(two_tasks, encoder_config)


def test_same_facts_give_the_same_bytes(two_tasks, two_facts, encoder_config):
    first = str(model_card(two_tasks, encoder_config, two_facts))
    again = KnowledgeBase.from_dict(two_tasks.to_dict())
    config = {**encoder_config, "target_modules": {"value", "query"}}
    assert str(model_card(again, config, dataclasses.replace(two_facts))) == first


def test_limits_are_those_that_hold(two_tasks, two_facts, encoder_config):
    text = str(model_card(two_tasks, {**encoder_config, "retrieval": "uncertainty", "per_batch": True}, two_facts))
    assert "by uncertainty alone" in text and "answers a whole batch" in text
    tasks = {"sst2": dataclasses.replace(two_facts.tasks["sst2"], scored_on="validation")}
    text = str(model_card(two_tasks, encoder_config, dataclasses.replace(two_facts, tasks=tasks)))
    assert "a little too good" in text and "All are of" not in text
    assert "by uncertainty alone" not in text and "in a chat" not in text


@pytest.mark.parametrize("kind", ["encoder", "language model"])
def test_the_quickstart_runs(
    kind, bert_folder, tokenizer, tiny_language_folder, language_tokenizer, tmp_path, monkeypatch, capsys
):
    if kind == "encoder":
        base, config = AutoModel.from_pretrained(bert_folder, dtype="float32"), {}
        data = Dataset.from_dict({"text": ["a film", "a day"] * 4, "label": ["good", "bad"] * 4})
        asked = Dataset.from_dict(
            {
                "question": ["who?"] * 8,
                "context": ["it was Ada"] * 8,
                "answers": [{"text": ["Ada"], "answer_start": [7]}] * 8,
            }
        )
        tasks = [Task("films", "text-classification", data), Task("answers", "question-answering", asked)]
    else:
        base = AutoModelForCausalLM.from_pretrained(tiny_language_folder("gpt2"), dtype="float32")
        config, tokenizer = {"task_type": "CAUSAL_LM", "max_new_tokens": 2}, language_tokenizer
        data = Dataset.from_dict({"text": ["a film", "a day"] * 4, "label": ["good", "bad"] * 4})
        tasks = [Task("films", "text-generation", data)]
    model = get_peft_model(base, DriftAdapterConfig(r=2, members=1, signature_rank=2, **config))
    args = DriftTrainingArguments(str(tmp_path), max_steps=1, report_to="none", disable_tqdm=True, use_cpu=True)
    trainer = DriftTrainer(model, args, tasks=tasks, processing_class=tokenizer)
    trainer.train()
    card = model_card(trainer.knowledge, model.peft_config["default"].to_dict(), CardFacts())
    code = re.search(r"```python\n(.*?)\n```", check_whole(card), flags=re.S)[1]
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(compile(code, "quickstart", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.count("'answer':") == code.count("print(") == (3 if kind == "encoder" else 1)


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
