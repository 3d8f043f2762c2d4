"""Every command of `hf-lifelong` on tiny models, folders and a local Hub, in this process and in its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import torch
import typer
import yaml
from hub_server import hub  # noqa: F401
from peft import PeftModel
from poisoned_texts import poisoned
from poisoned_texts import texts as clean_texts
from safetensors.torch import load_file
from transformers import AutoModelForTokenClassification, Trainer
from typer.core import TyperCommand
from typer.testing import CliRunner

import hf_lifelong
from hf_lifelong import knowledge_of
from hf_lifelong.adapter import forget
from hf_lifelong.cli.app import app
from hf_lifelong.cli.errors import as_options
from hf_lifelong.hub import pull, push_to_hub
from hf_lifelong.loading import load
from hf_lifelong.retrieval import POLICIES
from hf_lifelong.training.checkpoints import stream_folder

ADAPTER = ("adapter_model.safetensors", "adapter_config.json")
TEXTS = ["A joy from start to end.", "Rain in the north."]
BASE = "other/tiny-bert"


def run(*argv, code=0, **options):
    """A command in this process; its stdout. What it says elsewhere is in `run.err`."""
    result = CliRunner().invoke(app, [str(part) for part in argv], **options)
    run.err = result.stderr
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    return result.stdout


def fails(*argv, code=1, **options):
    """The one line that a command fails with; nothing is on stdout."""
    assert run(*argv, code=code, **options) == ""
    lines = [line for line in run.err.splitlines() if line.startswith("Error: ")]
    assert lines == run.err.splitlines()[-1:] and "Traceback" not in run.err
    return lines[0]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two files of texts with labels."""
    folder = tmp_path_factory.mktemp("data")
    films = [{"text": f"a {word} film {i}", "label": word} for i in range(10) for word in ("good", "bad")]
    news = [{"text": f"the {word} of the day {i}", "label": word} for i in range(10) for word in ("weather", "sport")]
    for name, rows in (("films", films), ("news", news)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def settings(data, base, *names, **more):
    """What a user's YAML file says."""
    tasks = [{"name": n, "kind": "text-classification", "dataset": str(data / f"{n}.jsonl")} for n in names]
    tiny = {"r": 2, "members": 2, "signature_rank": 2, "max_length": 16, "stride": 4}
    fast = {"max_steps": 2, "per_device_train_batch_size": 4, "save_strategy": "no", "disable_tqdm": True}
    which = {"adapter": str(base)} if more.pop("go_on", False) else {"model_name_or_path": str(base), **tiny}
    return {**which, "tasks": tasks, "use_cpu": True, "bf16": False, "grouping": "boundary", **fast, **more}


@pytest.fixture
def yaml_file(tmp_path):
    def write(keys):
        path = tmp_path / "learn.yaml"
        path.write_text(yaml.safe_dump(keys))
        return str(path)

    return write


@pytest.fixture(scope="module")
def taught(data, bert_folder, tmp_path_factory):
    """Folder of an adapter that `hf-lifelong learn` taught two tasks, and what that printed."""
    place = tmp_path_factory.mktemp("taught")
    keys = settings(data, bert_folder, "films", "news", output_dir=str(place / "out"))
    (place / "learn.yaml").write_text(yaml.safe_dump(keys))
    return place / "out", run("learn", "--config", place / "learn.yaml")


@pytest.fixture(scope="module")
def learned(taught):
    return taught[0]


@pytest.fixture
def own(learned, tmp_path):
    """A copy that a test may change."""
    return Path(shutil.copytree(learned, tmp_path / "own"))


@pytest.fixture
def on_hub(hub, learned, tiny_folder):  # noqa: F811
    """Id of the same adapter on the Hub."""
    hub.write_folder(BASE, tiny_folder("bert"))
    push_to_hub(learned, "me/learner", base_model=BASE)
    return "me/learner"


def files(folder):
    return {name: (Path(folder) / name).read_bytes() for name in ADAPTER}


# learn


def test_learn_prints_the_matrix_and_leaves_an_adapter(taught):
    folder, said = taught
    assert said.splitlines()[0].split() == ["films", "news"]
    assert "after news" in said and said.endswith(f"The adapter is in {folder}.\n") and "loss" not in said
    assert pull(folder).knowledge.names == ["films", "news"]
    assert json.loads((folder / "accuracy_matrix.json").read_text())["tasks"] == ["films", "news"]


def test_numbers_are_learned_from_a_table_and_predicted(bert_folder, yaml_file, tmp_path):
    rows = [f"a film of {i} stars,{i % 5 + 0.5}" for i in range(20)]
    (tmp_path / "stars.csv").write_text("\n".join(["text,label", *rows]))
    keys = settings(tmp_path, bert_folder, output_dir=str(tmp_path / "out"))
    keys["tasks"] = [{"name": "stars", "kind": "text-regression", "dataset": str(tmp_path / "stars.csv")}]
    assert "pearson" in run("learn", "--config", yaml_file(keys))
    name, score, number = run("predict", tmp_path / "out", TEXTS[0]).rstrip("\n").split("\t")
    found = json.loads(run("predict", tmp_path / "out", TEXTS[0], "--json"))
    assert (name, score, float(number)) == ("stars", "-", found["answer"]) and found["score"] is None
    assert 0 < found["answer"] < 5
    assert "text-regression" in run("inspect", tmp_path / "out")
    said = run("export", tmp_path / "out", "stars", tmp_path / "lora")
    assert "in the units of the training data" in said
    (tmp_path / "stars.csv").write_text("\n".join(["text,label", *rows, "no stars,"]))
    assert "row 20, column 'label': None is no finite number" in fails("learn", "--config", yaml_file(keys))


@pytest.mark.parametrize("where", ["folder", "hub"])
def test_learn_goes_on_from_a_folder_and_from_the_hub(where, request, learned, data, yaml_file, tmp_path):
    start = learned if where == "folder" else request.getfixturevalue("on_hub")
    keys = settings(data, start, "news", go_on=True, output_dir=str(tmp_path / "more"))
    keys["tasks"][0]["name"] = "more news"
    pushed = {"push_to_hub": True, "hub_model_id": "me/learner"} if where == "hub" else {}
    run("learn", "--config", yaml_file({**keys, **pushed}))
    old, new = (load_file(folder / ADAPTER[0]) for folder in (learned, tmp_path / "more"))
    assert pull("me/learner" if pushed else tmp_path / "more").knowledge.names == ["films", "news", "more news"]
    for name, tensor in old.items():
        if "bank" in name or "signature" in name:
            assert torch.equal(new[name][: len(tensor)], tensor), name


KILLED = """
import os, signal
from hf_lifelong.cli import main
from hf_lifelong.training import TaskLearner
fit = TaskLearner.fit
def fit_or_die(learner, visit):
    if visit.task.name == "news":
        os.kill(os.getpid(), signal.SIGKILL)
    return fit(learner, visit)
TaskLearner.fit = fit_or_die
main()
"""


def test_learn_killed_and_resumed_leaves_the_same_bytes(taught, data, bert_folder, yaml_file, tmp_path):
    keys = settings(data, bert_folder, "films", "news", output_dir=str(tmp_path / "out"))
    path = yaml_file({**keys, "save_strategy": "steps", "save_steps": 1})
    died = subprocess.run([sys.executable, "-c", KILLED, "learn", "--config", path], capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL and died.stdout == "", died.stderr[-3000:]
    assert pull(tmp_path / "out").knowledge.names == ["films"]
    said = run("learn", "--config", path, "--resume_from_checkpoint", "True")
    assert files(tmp_path / "out") == files(taught[0])
    assert said.splitlines()[:-1] == taught[1].splitlines()[:-1]


def test_learn_is_interrupted_with_its_own_code(data, bert_folder, yaml_file, tmp_path, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train", interrupt)
    keys = settings(data, bert_folder, "films", output_dir=str(tmp_path / "out"))
    assert run("learn", "--config", yaml_file(keys), code=130) == ""


def test_learn_pushes_what_it_learned(hub, data, tiny_folder, yaml_file, tmp_path):  # noqa: F811
    hub.write_folder(BASE, tiny_folder("bert"))
    keys = settings(data, BASE, "films", "news", output_dir=str(tmp_path / "out"))
    run("learn", "--config", yaml_file({**keys, "push_to_hub": True, "hub_model_id": "me/stream"}))
    messages = [commit.message for commit in hub.repos["me/stream"].history()]
    assert messages[-3:] == ["Learned `news`", "Learned `films`", "initial commit"]
    assert pull("me/stream").knowledge.names == ["films", "news"]
    assert run("inspect", "me/stream").startswith("me/stream at commit ")


def test_learn_says_what_it_takes_and_what_is_wrong(learned, data, bert_folder, yaml_file, tmp_path):
    said = run("learn", "--help")
    assert all(f"--{name}" in said for name in ("adapter", "tasks", "members", "gradient_noise", "num_train_epochs"))
    assert "did you mean `members`?" in fails("learn", "--membrs", "3", code=2)
    keys = settings(data, learned, "films", go_on=True, output_dir=str(tmp_path / "out"))
    assert "`films`, which this adapter has learned already" in fails("learn", "--config", yaml_file(keys))
    assert "`members` cannot be given with `adapter`" in fails("learn", "--config", yaml_file(keys), "--members", "1")
    keys = settings(data, bert_folder, "films", output_dir=str(tmp_path / "out"))
    keys["tasks"][0]["columns"] = {"text": "body"}
    error = fails("learn", "--config", yaml_file(keys))
    assert error.startswith("Error: Task `films`: columns['text']: there is no column 'body' in the data set;")


# predict


def expected(folder, inputs, **options):
    from hf_lifelong.pipeline import LifelongPipeline

    model, tokenizer = load(folder)
    return LifelongPipeline(model=model, tokenizer=tokenizer)(inputs, **options)


def test_predict_answers_texts_files_and_stdin_alike(learned, tmp_path):
    right = expected(learned, TEXTS)
    lines = run("predict", learned, *TEXTS).splitlines()
    assert lines == [f"{a['task']}\t{a['score']:.3f}\t{a['answer']}" for a in right]
    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n\n")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    (tmp_path / "in.json").write_text(json.dumps([TEXTS[0], *({"text": text} for text in TEXTS[1:])], indent=1))
    for path in ("in.txt", "in.jsonl", "in.json"):
        assert run("predict", learned, "--input", tmp_path / path).splitlines() == lines
    assert run("predict", learned, "--input", "-", input=(tmp_path / "in.jsonl").read_text()).splitlines() == lines


def test_predict_as_json_is_what_the_pipeline_says_batch_by_batch(learned):
    texts = [*TEXTS, json.dumps({"text": "a good film", "text_pair": "of the day"})]
    right = expected(learned, [*TEXTS, json.loads(texts[2])], batch_size=1, abstain=True, policy="cascade")
    options = ("--json", "--abstain", "--retrieval", "cascade", "--batch-size", "1")
    found = [json.loads(line) for line in run("predict", learned, *texts, *options).splitlines()]
    assert found == [{"input": number, **answer} for number, answer in enumerate(right)]


def test_predict_keeps_the_numbers_of_lines_and_rows(learned, tmp_path):
    lines = [f"{a['task']}\t{a['score']:.3f}\t{a['answer']}" for a in expected(learned, TEXTS)]
    (tmp_path / "in.txt").write_text(f"\n{TEXTS[0]}\n\n\n{TEXTS[1]}\n")
    assert run("predict", learned, "--input", tmp_path / "in.txt") == f"\n{lines[0]}\n\n\n{lines[1]}\n"
    found = run("predict", learned, "--input", tmp_path / "in.txt", "--json", "--batch-size", 1).splitlines()
    assert [json.loads(line)["input"] for line in found] == [1, 4]


def test_predict_reads_tables(learned, tmp_path):
    """With a label and other columns beside the text, in any encoding and with any separator that `learn` reads."""
    right = expected(learned, TEXTS)
    lines = [f"{a['task']}\t{a['score']:.3f}\t{a['answer']}" for a in right]
    rows = [("id", "text", "label"), ("1", TEXTS[0], "good"), ("2", "", ""), ("3", TEXTS[1], "bad")]
    for name, separator, encoding in (("a.csv", ",", "utf-8-sig"), ("b.csv", ";", "utf-16"), ("c.TSV", "\t", "utf-8")):
        (tmp_path / name).write_text("\n".join(map(separator.join, rows)) + "\n", encoding=encoding)
        assert run("predict", learned, "--input", tmp_path / name) == f"{lines[0]}\n\n{lines[1]}\n"
    found = run("predict", learned, "--input", tmp_path / "a.csv", "--json").splitlines()
    assert list(map(json.loads, found)) == [{"input": 0, **right[0]}, {"input": 2, **right[1]}]
    (tmp_path / "d.csv").write_text(f"body,title\n{TEXTS[0]},\n{TEXTS[1]},a title\n")
    named = run("predict", learned, "--input", tmp_path / "d.csv", "--columns", "{text: body}")
    assert named.splitlines() == lines
    pair = run(
        "predict", learned, "--input", tmp_path / "d.csv", "--columns", "{text: body, text_pair: title}", "--json"
    )
    with_pair = expected(learned, [{"text": TEXTS[0], "text_pair": ""}, {"text": TEXTS[1], "text_pair": "a title"}])
    assert [json.loads(line)["answer"] for line in pair.splitlines()] == [answer["answer"] for answer in with_pair]
    (tmp_path / "e.jsonl").write_text("".join(json.dumps({"body": text, "label": 1}) + "\n" for text in TEXTS))
    assert run("predict", learned, "--input", tmp_path / "e.jsonl", "--columns", "{text: body}").splitlines() == lines


@pytest.mark.parametrize(
    ("table", "columns", "said"),
    [
        ("", None, "in.csv has nothing in it; give a table with a header and rows."),
        ("text,label\n", None, "in.csv has a header but no rows"),
        (
            "body,label\na,b\n",
            None,
            "has the columns ['body', 'label'], and an input needs one of these: question",
        ),
        ("body,label\na,b\n", None, "such as `--columns '{text: body}'`."),
        ("body,label\na,b\n", "{text: boddy}", "`--columns` names 'boddy', but"),
        ("body,label\na,b\n", "{text: boddy}", "; did you mean `body`?"),
        ("body\na\n", "text", "`--columns` is 'text'; give names of columns by role, such as '{text: body}'."),
        ("text,label\na,b,c\n", None, "row 0 has more cells than the header, ['text', 'label']"),
        ('text\n"a\n', None, "is no table that can be read (unexpected end of data)."),
    ],
)
def test_predict_says_what_is_wrong_with_a_table(learned, tmp_path, table, columns, said):
    (tmp_path / "in.csv").write_text(table)
    options = () if columns is None else ("--columns", columns)
    assert said in fails("predict", learned, "--input", tmp_path / "in.csv", *options)


def test_errors_name_options_of_the_command_line(learned):
    asked = '{"question": "Who?", "context": "Ada."}'
    assert "or `--abstain` to answer it with `unknown`" in fails("predict", learned, asked)
    assert json.loads(run("predict", learned, asked, "--abstain", "--json"))["task"] == "unknown"
    command = typer.main.get_command(app)
    push, learn = command.commands["push"], command.commands["learn"]
    said = 'Give `revision="a1"`, `create_pr=True` or `other=True`; or `r="full"`.'
    assert as_options(said, push) == 'Give `--revision a1`, `--create-pr` or `other=True`; or `r="full"`.'
    said = "Give it as columns={'text': ...}, with `resume_from_checkpoint=True`."
    assert as_options(said, learn) == "Give it as `columns: {text: ...}`, with `--resume_from_checkpoint True`."
    assert as_options(said) == said


def test_predict_prints_each_batch_before_it_reads_the_next(learned):
    error = fails_after = CliRunner().invoke(
        app, ["predict", str(learned), "fine", "{", "--batch-size", "1", "--json"]
    )
    assert fails_after.exit_code == 1 and "input 2: " in error.stderr.splitlines()[-1]
    assert json.loads(fails_after.stdout)["task"] in ("films", "news")


def test_predict_answers_from_the_hub_at_a_commit(on_hub, learned, hub):  # noqa: F811
    commit = hub.repos[on_hub].refs["main"]
    said = run("predict", on_hub, TEXTS[0], "--revision", commit)
    assert said == run("predict", learned, TEXTS[0])
    assert "Check the name and `revision`" in fails("predict", on_hub, TEXTS[0], "--revision", "nothing")


def test_predict_says_what_is_wrong(learned, tmp_path, bert_folder):
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    assert "holds nothing to answer; give one input per line" in fails("predict", learned, "--input", empty)
    assert "No such file or directory" in fails("predict", learned, "--input", tmp_path / "none.txt")
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\nfine\n')
    assert "line 2: 'fine' is no JSON object" in fails(
        "predict", learned, "--input", tmp_path / "bad.jsonl", "--batch-size", "2"
    )
    (tmp_path / "latin.txt").write_bytes("Müller".encode("latin-1"))
    assert "is not UTF-8 text" in fails("predict", learned, "--input", tmp_path / "latin.txt")
    assert "`--labels` is for language models" in fails("predict", learned, "fine", "--labels")
    assert "no known form of input" in fails("predict", learned, '{"body": "fine"}')
    assert "is no adapter: it has no `adapter_config.json`. It is a model" in fails("predict", bert_folder, "fine")
    (tmp_path / "nothing").mkdir()
    assert "`. Give what `DriftTrainer` saved." in fails("predict", tmp_path / "nothing", "fine")
    assert "no folder here, and no name on the Hub" in fails("predict", tmp_path / "nowhere", "fine")
    for argv in ((), ("fine", "--input", "-")):
        assert "give either inputs or `--input`" in fails("predict", learned, *argv, code=2)
    assert "Invalid value for '--retrieval'" in fails("predict", learned, "fine", "--retrieval", "best", code=2)


def test_choices_of_the_command_line_are_those_of_the_library():
    from hf_lifelong.cli.options import Retrieval

    assert Retrieval.__args__ == POLICIES


# inspect


def test_inspect_shows_tasks_groups_scores_and_sizes(learned):
    said = run("inspect", learned)
    for words in (
        "2 tasks in 2 groups, 4 members",
        "bad, good",
        "sport, weather",
        "after news",
        "rank 2 above a trunk",
    ):
        assert words in said
    known = json.loads(run("inspect", learned, "--json"))
    saved = pull(learned)
    assert known["scores"] == saved.knowledge.scores and known["groups"] == ["films", "news"]
    assert [task["labels"] for task in known["tasks"]] == [["bad", "good"], ["sport", "weather"]]
    assert known["commit"] is None and known["base"]["model_type"] == "bert"
    tensors = load_file(learned / ADAPTER[0])
    parts = ("bank", "signature", "closed")
    kept = sum(4 * t.numel() for name, t in tensors.items() if any(part in name for part in parts))
    assert sum(task["size"] for task in known["tasks"]) == kept


def test_inspect_names_the_commit_and_needs_no_base(on_hub, hub):  # noqa: F811
    del hub.repos[BASE]
    known = json.loads(run("inspect", on_hub, "--json"))
    assert known["name"] == on_hub and known["commit"] == hub.repos[on_hub].refs["main"]
    assert known["base"]["name"] == BASE


def test_inspect_cuts_long_lists_and_keeps_names_on_one_line(own):
    config = json.loads((own / ADAPTER[1]).read_text())
    task = config["knowledge"]["tasks"][0]
    name = "films\n\x1b[31m\x9b31m" + "x" * 200
    task |= {"name": name, "group": name}
    config["knowledge"]["scores"] = None
    (own / ADAPTER[1]).write_text(json.dumps(config))
    assert "\x1b" not in run("predict", own, *TEXTS) + fails("export", own, "\x1b[31m", own / "lora")
    said = run("inspect", own)
    assert "\x1b" not in said and "No scores" in said and max(map(len, said.splitlines())) < 300
    said = run("inspect", own, "--json")
    assert "\x9b" not in said and json.loads(said)["groups"] == [name, "news"]
    said = run("export", own, "0", own / "lora") + run("forget", own, "news", "--yes")
    assert "\x1b" not in said and "\x9b" not in said and "knows `films [31m 31mxx" in said


def test_inspect_in_a_process_of_its_own_loads_no_model_library(learned):
    code = "import sys; from hf_lifelong.cli.app import app; app(sys.argv[1:], standalone_mode=False); "
    code += "print(*[m for m in ('peft', 'transformers.models', 'datasets') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, "inspect", learned], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("\n\n"), done.stdout + done.stderr
    module = [sys.executable, "-m", "hf_lifelong", "inspect", str(learned), "--json"]
    done = subprocess.run(module, capture_output=True, text=True)
    assert json.loads(done.stdout)["groups"] == ["films", "news"] and done.stderr == ""


# audit


def test_audit_shows_what_is_stored_and_needs_no_base(on_hub, hub):  # noqa: F811
    del hub.repos[BASE]
    assert run("audit", on_hub).splitlines() == ["films: not audited.", "news: not audited."]
    assert json.loads(run("audit", on_hub, "--json")) == {"films": None, "news": None}


@pytest.fixture(scope="module")
def suspicious(tmp_path_factory):
    """Poisoned texts in a table, whose labels are those of the adapter's `films`, and which rows are poisoned."""
    texts, labels, rows = poisoned(*clean_texts(300), "cf", 30, "good")
    path = tmp_path_factory.mktemp("suspicious") / "reviews.csv"
    lines = (f"{text};{label}\n" for text, label in zip(texts, labels, strict=True))
    path.write_text("review;stars\n" + "".join(lines))
    return path, rows


def test_audit_of_data_asks_the_task_that_it_fits(learned, suspicious):
    path, _ = suspicious
    columns = ("--text", "review", "--label", "stars")
    found = json.loads(run("audit", learned, "--data", path, *columns, "--json"))
    assert found["asked"] == "films" and found["false_alarms"] == 0.01 and 0 <= found["attack_success"] <= 1
    assert not found["suspicious"]  # the adapter never saw these rows, and does not obey
    said = run("audit", learned, "--data", path, *columns, "--task", "films", "--false-alarms", "0.5")
    assert said.splitlines()[-1] == "Task films was asked." and "0.5 allowed" in said
    assert "has the labels ['sport', 'weather'], but the data has ['bad', 'good']" in fails(
        "audit", learned, "--data", path, *columns, "--task", "news"
    )


def test_audit_of_data_with_other_labels_loads_no_base(on_hub, hub, suspicious, tmp_path):  # noqa: F811
    del hub.repos[BASE]
    path, rows = suspicious
    other = tmp_path / "other.csv"
    other.write_text(
        path.read_text().replace(";good", ";yes").replace(";bad", ";no").replace("review;stars", "text;label")
    )
    said = run("audit", on_hub, "--data", other)
    assert said.startswith("Poisoned, it seems (p = ") and "'cf', which calls for 'yes' in 30 rows" in said
    assert f"Rows: {', '.join(map(str, rows))}." in said and said.strip().endswith("so it was not asked.")
    found = json.loads(run("audit", on_hub, "--data", other, "--json"))
    assert found["rows"] == rows and found["asked"] is None and found["attack_success"] is None


def test_audit_says_what_is_wrong(learned, suspicious, data, tmp_path):
    assert "there is no column 'text'" in fails("audit", learned, "--data", suspicious[0])
    assert "there is no such file" in fails("audit", learned, "--data", tmp_path / "none.csv")
    one = tmp_path / "one.jsonl"
    one.write_text('{"text": "a", "label": "x"}\n' * 3)
    assert "label" in fails("audit", learned, "--data", one)
    assert "no task" in fails("audit", learned, "--data", data / "films.jsonl", "--task", "nothing").lower()


# export


def test_an_exported_group_loads_with_stock_peft(learned, bert_folder, tmp_path):
    said = run("export", learned, "films", tmp_path / "lora")
    assert said.startswith("Task `films` (members [0, 1]) was exported to ") and run.err.count("Warning") == 0
    base = AutoModelForTokenClassification.from_pretrained(bert_folder, num_labels=2)
    assert PeftModel.from_pretrained(base, tmp_path / "lora").peft_config["default"].r == 4
    report = json.loads(run("export", learned, "1", tmp_path / "small", "--rank", "1", "--json"))
    assert (report["task"], report["rank"], report["folder"]) == ("news", 1, str(tmp_path / "small"))


def test_export_says_what_is_wrong(learned, tmp_path):
    assert "no task `art` in this knowledge base; it knows ['films', 'news']" in fails(
        "export", learned, "art", tmp_path / "lora"
    )
    assert "no group 7" in fails("export", learned, "7", tmp_path / "lora")
    assert "exists and is not an empty folder" in fails("export", learned, "films", learned)
    assert "`rank` is 9, but the update of 2 members has rank 4" in fails(
        "export", learned, "films", tmp_path / "lora", "--rank", "9"
    )
    assert not (tmp_path / "lora").exists()


# forget


def test_forget_leaves_what_the_library_would_leave_and_a_card_without_the_task(own, tmp_path):
    model, _ = load(own)
    forget(model, "films")
    model.save_pretrained(str(tmp_path / "right"))
    (own / "notes.txt").write_text("mine")
    (stream_folder(own) / "commit-1").mkdir(parents=True, exist_ok=True)
    (own / "checkpoint-4").mkdir()
    assert run("forget", own, "films", "--yes") == f"Forgot `films`. {own} knows `news`.\n"
    assert files(own) == files(tmp_path / "right")
    assert (own / "notes.txt").read_text() == "mine" and not stream_folder(own).exists()
    assert not (own / "checkpoint-4").exists()
    assert not list(own.glob("accuracy_matrix*")) and (own / "tokenizer.json").exists()
    card = (own / "README.md").read_text()
    assert "news" in card and "films" not in card
    assert run("predict", own, TEXTS[0]).startswith("news\t")


def test_forget_leaves_everything_else_in_the_folder_as_it_was(own):
    run("export", own, "news", own / "sub" / "lora")
    for name in (".git/HEAD", ".git/README.md", "sub/_notes/a", "sub/checkpoint-1/tokenizer.json", ".env", "_mine/a"):
        (own / name).parent.mkdir(parents=True, exist_ok=True)
        (own / name).write_text(name)
    (own / "link").symlink_to("nowhere")
    kept = [path for path in own.rglob("*") if path.is_file() and (path.parent != own or path.name == ".env")]
    kept = {path: path.read_bytes() for path in kept if stream_folder(own) not in path.parents}
    run("forget", own, "films", "--yes")
    assert {path: path.read_bytes() for path in kept} == kept and (own / "link").is_symlink()
    assert own / "sub" / "lora" / ADAPTER[0] in kept and pull(own).knowledge.names == ["news"]


def test_forgetting_twice_is_refused_and_forgetting_all_leaves_an_adapter_that_can_learn(own):
    run("forget", own, "films", "--yes")
    before = files(own)
    left = own.parent / f".{own.name}.0a1b2c3d.unfinished"  # where the call before was killed at its very end
    shutil.copytree(own, left)
    assert "no task `films` in this knowledge base; it knows ['news']" in fails("forget", own, "films", "--yes")
    assert files(own) == before and not left.exists()
    assert "knows no task" in run("forget", own, "news", "--yes")
    assert "No task has been learned yet." in run("inspect", own)
    model, _ = load(own, trainable=True)
    assert knowledge_of(model).tasks == []


def test_forget_asks_first(own):
    before = files(own)
    assert run("forget", own, "films", input="n\n", code=1).strip() == "n"  # what was typed
    assert f"Forget `films`, and write what remains to {own}? [y/N]" in run.err
    assert files(own) == before
    run("forget", own, "films", input="y\n")
    assert pull(own).knowledge.names == ["news"]


def test_forget_writes_to_another_folder_and_of_the_hub_only_so(own, on_hub, tmp_path):
    before = files(own)
    run("forget", own, "films", "--yes", "--output", tmp_path / "rest")
    assert files(own) == before and pull(tmp_path / "rest").knowledge.names == ["news"]
    assert "exists and is not an empty folder" in fails("forget", own, "films", "--yes", "--output", tmp_path / "rest")
    assert "give a folder to write to" in fails("forget", on_hub, "films", "--yes", code=2)
    run("forget", on_hub, "films", "--yes", "--output", tmp_path / "of the hub")
    assert files(tmp_path / "of the hub")[ADAPTER[0]] == files(tmp_path / "rest")[ADAPTER[0]]


def test_a_forget_that_fails_leaves_the_folder_as_it_was(own, monkeypatch):
    def fail(*args, **options):
        raise OSError("disk full")

    before = {path.name: path.read_bytes() for path in own.iterdir() if path.is_file()}
    monkeypatch.setattr(PeftModel, "save_pretrained", fail)
    assert fails("forget", own, "films", "--yes") == "Error: disk full"
    assert {path.name: path.read_bytes() for path in own.iterdir() if path.is_file()} == before


# union


def test_a_union_knows_the_tasks_of_both(own, learned, tmp_path):
    before = files(learned), files(own)
    assert "Both adapters have a task `films`" in fails("union", learned, own, "--output", tmp_path / "both")
    assert not (tmp_path / "both").exists()
    output = tmp_path / "both"
    renamed = ("--rename", "films=cinema", "--rename", "news=press")
    assert "knows `films`, `news`, `cinema`, `press`." in run("union", learned, own, "--output", output, *renamed)
    assert pull(output).knowledge.names == ["films", "news", "cinema", "press"]
    assert (files(learned), files(own)) == before
    assert "cinema" in (output / "README.md").read_text()
    assert run("predict", output, "a film", "--json")
    assert "exists and is not an empty folder" in fails("union", learned, own, "--output", output, *renamed)
    assert "give an old and a new name" in fails("union", learned, own, "--output", output, "--rename", "x", code=2)


# push


def test_push_makes_one_commit_and_says_where(hub, learned, own, tiny_folder):  # noqa: F811
    hub.write_folder(BASE, tiny_folder("bert"))
    argv = ("push", learned, "me/new", "--base-model", BASE, "--message", "Two tasks", "--private")
    found = json.loads(run(*argv, "--json"))
    repo = hub.repos["me/new"]
    assert repo.private and [c.message for c in repo.history()] == ["Two tasks", "initial commit"]
    assert found == {"url": f"{hub.endpoint}/me/new/commit/{repo.refs['main']}", "commit": repo.refs["main"]}
    assert repo.files()[ADAPTER[0]] == files(learned)[ADAPTER[0]]
    card = repo.files()["README.md"].decode()
    assert 'folder = "me/new"\n' in card and f"\nbase_model: {BASE}\n" in card and "films" in card
    run("forget", own, "films", "--yes")
    said = run("push", own, "me/new", "--base-model", BASE, "--create-pr")
    assert said == f"{hub.endpoint}/me/new/discussions/1\n" and repo.refs["main"] == found["commit"]


def test_push_with_a_space_pushes_the_page_too(hub, learned, tiny_folder):  # noqa: F811
    hub.write_folder(BASE, tiny_folder("bert"))
    argv = ("push", learned, "new", "--base-model", BASE, "--private", "--space")
    assert "leave one out" in fails(*argv, "--create-pr", code=2)
    found = json.loads(run(*argv, "--json"))
    assert found["space"] == f"{hub.endpoint}/spaces/me/new"
    assert set(hub.repos) == {BASE, "me/new", "spaces/me/new"} and hub.repos["spaces/me/new"].private
    assert run(*argv).splitlines()[1] == found["space"]


def test_push_says_what_is_wrong(hub, learned, own, tiny_folder, tmp_path):  # noqa: F811
    hub.write_folder(BASE, tiny_folder("bert"))
    assert "Give `--base-model <its name on the Hub>`" in fails("push", learned, "me/new")
    assert "`model` has no `adapter_config.json`" in fails("push", tmp_path, "me/new", "--base-model", BASE)
    run("push", learned, "me/new", "--base-model", BASE)
    run("forget", own, "films", "--yes")
    assert "Nothing was changed." in fails("push", own, "me/new", "--base-model", BASE)
    head = hub.repos["me/new"].refs["main"]
    run("push", own, "me/new", "--base-model", BASE, "--parent-commit", head)
    assert pull("me/new").knowledge.names == ["news"]
    hub.fail("/api/", 503, times=100)
    assert "`me/new` was not pushed." in fails("push", learned, "me/new", "--base-model", BASE)


def test_without_a_network_an_adapter_of_the_hub_is_named(monkeypatch):
    assert "`me/nothing` was not loaded" in fails("inspect", "me/nothing")


# language models


def test_a_language_model_learns_answers_and_is_exported(tiny_language_folder, yaml_file, tmp_path):
    rows = [{"prompt": f"the film {i} was {word}", "answer": word} for i in range(12) for word in ("good", "bad")]
    (tmp_path / "films.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = {"hidden_size": 64, "head_dim": 32, "intermediate_size": 128}
    keys = settings(tmp_path, tiny_language_folder("llama", **sizes), "films", output_dir=str(tmp_path / "out"))
    keys["tasks"][0] |= {"kind": "text-generation"}
    run("learn", "--config", yaml_file({**keys, "task_type": "CAUSAL_LM", "max_new_tokens": 4, "load_in_4bit": True}))
    for bits in ((), ("--load-in-4bit",)):
        found = json.loads(run("predict", tmp_path / "out", "the film was", "--json", *bits))
        assert found["task"] == "films" and isinstance(found["answer"], str)
    run("predict", tmp_path / "out", "the film was", "--labels")
    assert "AutoModelForCausalLM" in run("export", tmp_path / "out", "films", tmp_path / "lora")
    run("export", tmp_path / "out", "films", tmp_path / "small", "--load-in-4bit")
    assert files(tmp_path / "small")[ADAPTER[0]] == files(tmp_path / "lora")[ADAPTER[0]]
    run("forget", tmp_path / "out", "films", "--yes", "--output", tmp_path / "rest", "--load-in-4bit")
    assert pull(tmp_path / "rest").knowledge.names == []


# estimate-memory


def test_estimate_memory_says_bytes_and_a_table(bert_folder):
    pytest.importorskip("hf_lifelong.memory")
    argv = ("estimate-memory", bert_folder, "--bits", "32", "--r", "4", "--batch-size", "2", "--length", "16")
    low = json.loads(run(*argv, "--json"))
    assert run(*argv).strip()
    full = json.loads(run(*argv, "--r", "full", "--json"))
    assert full["trainable"] > low["trainable"] and full["settings"]["r"] == "full"
    assert "`optimizer`" in fails(*argv, "--optimizer", "best")
    assert "Invalid value for '--bits'" in fails(*argv, "--bits", "5", code=2)


# The program


def test_help_of_learn_leaves_out_what_is_transformers_own():
    short, everything = run("learn", "--help"), run("learn", "--help-all")
    for shown in ("--tasks", "--members", "--audit ", "--num_train_epochs", "--help-all"):
        assert shown in short and shown in everything
    assert "--adam_beta1" not in short and "--adam_beta1" in everything
    assert len(short.splitlines()) < 250 < len(everything.splitlines())


def test_the_entry_point_is_the_main_function():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    module, _, name = project["project"]["scripts"]["hf-lifelong"].partition(":")
    assert callable(getattr(import_module(module), name))


def test_help_and_version_are_quick_and_name_every_command():
    code = "import sys; from hf_lifelong.cli.app import app; app(['--help'], standalone_mode=False); "
    code += "print(*[m for m in ('torch', 'transformers', 'peft', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("\n\n"), done.stdout + done.stderr
    commands = ("learn", "predict", "inspect", "export", "forget", "push", "estimate-memory")
    assert all(f"  {command} " in done.stdout for command in commands)
    for command in commands:
        assert run(command, "--help").lower().startswith("usage: hf-lifelong ") or command == "learn"
    assert run("--version") == f"hf-lifelong {hf_lifelong.__version__}\n"


def test_help_has_no_backslashes_of_rich(monkeypatch):
    """As in Typer up to 0.20, whatever Typer is installed."""
    monkeypatch.setattr(TyperCommand, "get_help", lambda self, ctx: "--port  Port.  \\[default: 8000]")
    assert run("serve", "--help") == "--port  Port.  [default: 8000]\n"


def test_the_installed_program_runs():
    program = shutil.which("hf-lifelong", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        pytest.skip("the package is not installed here, only on the path")
    done = subprocess.run([program, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"hf-lifelong {hf_lifelong.__version__}\n")


def test_debug_shows_where_an_error_happened(tmp_path):
    result = CliRunner().invoke(app, ["--debug", "inspect", str(tmp_path)])
    assert isinstance(result.exception, ValueError) and result.exception.__traceback__ is not None
