"""The parser that `hf-lifelong learn` and recipes share, and tasks as text: what is refused before a model loads."""

import csv
import json
from dataclasses import dataclass, field, fields, replace

import pytest
import yaml
from datasets import Dataset, DatasetDict
from learned import learn_task
from peft import get_peft_model
from transformers import AutoModel

from hf_lifelong import DriftAdapterConfig, KnowledgeBase, knowledge_of
from hf_lifelong.cli import learning, teaching
from hf_lifelong.cli.learning import defaults, learn, parse, read_yaml, was_audited
from hf_lifelong.hub import PullError
from hf_lifelong.knowledge import StatisticRecord
from hf_lifelong.memory import estimate_memory
from hf_lifelong.training.sources import TaskSource

TASK = {"name": "films", "kind": "text-classification", "dataset": "films.csv"}


@pytest.fixture
def config(tmp_path):
    """`config({...})`: a YAML file with these keys; text is written as it is."""

    def write(keys):
        path = tmp_path / "x.yaml"
        path.write_text(keys if isinstance(keys, str) else yaml.safe_dump(keys))
        return str(path)

    return write


def refused(capsys, *argv):
    """The one line on stderr that a wrong command line ends with."""
    with pytest.raises(SystemExit) as stopped:
        parse(list(argv), prog="hf-lifelong learn")
    found = capsys.readouterr()
    assert stopped.value.code == 2 and found.out == ""
    assert found.err.startswith("Error: ") and found.err.count("\n") == 1
    return found.err


def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(config):
    path = config({"members": 3, "learning_rate": 0.0005, "num_train_epochs": 7, "tasks": [TASK], "bf16": False})
    learning, adapter, training = parse(["--config", path, "--num_train_epochs", "2", "--stride=16"])
    assert (adapter.members, adapter.stride, adapter.r) == (3, 16, None)
    assert (training.learning_rate, training.num_train_epochs, training.bf16) == (5e-4, 2, False)
    assert training.warmup_steps == defaults()["warmup_steps"]
    assert learning.sources == [TaskSource(**TASK)]


def test_numbers_as_yaml_reads_them_become_numbers(config):
    _, adapter, training = parse(["--config", config("learning_rate: 5e-4\nlora_alpha: 8\ntrunk_depth: null\n")])
    assert (training.learning_rate, adapter.lora_alpha, adapter.trunk_depth) == (5e-4, 8.0, None)


def test_a_rank_is_a_number_or_full(config):
    assert [parse(["--r", value])[1].r for value in ("4", "full")] == [4, "full"]
    assert [parse(["--config", config({"r": value})])[1].r for value in (4, "full")] == [4, "full"]


def test_what_takes_several_values_takes_lists_and_mappings(config):
    path = config({"target_modules": ["query", "value"], "optim_args": None, "lr_scheduler_kwargs": {"power": 2}})
    _, adapter, training = parse(["--config", path])
    assert adapter.target_modules == ["query", "value"] and training.lr_scheduler_kwargs == {"power": 2}
    assert parse(["--target-modules", "all-linear"])[1].target_modules == "all-linear"


def test_tasks_on_the_command_line_are_yaml_or_json():
    for text in (json.dumps([TASK]), "[{name: films, kind: text-classification, dataset: films.csv}]"):
        assert parse(["--tasks", text])[0].sources == [TaskSource(**TASK)]
    with pytest.raises(ValueError, match="`tasks` is not YAML"):
        parse(["--tasks", "[{"])


def test_every_setting_of_an_adapter_can_be_given_and_none_is_typed_twice():
    own = set(DriftAdapterConfig.__annotations__) - {"knowledge", "digest"} | {"task_type"}
    assert {f.name for f in fields(parse([])[1])} == own


def test_unknown_keys_are_refused_by_name_with_the_nearest_one(config, capsys):
    error = refused(capsys, "--config", config({"learning_rat": 0.1}))
    assert "has the unknown key `learning_rat`; did you mean `learning_rate`?" in error
    assert "`--membrs` is no argument; did you mean `members`?" in refused(capsys, "--membrs", "3")
    assert "`films` is no argument" in refused(capsys, "films")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"members": "many"}, "argument --members: invalid int value: 'many'"),
        ({"members": 1.5}, "argument --members: invalid int value: '1.5'"),
        ({"members": [3]}, "`members` is [3], but takes one value"),
        ({"adapter": ["a"]}, "`adapter` is ['a'], but takes one value"),
        ({"retrieval": "best"}, "choose from 'signature', 'uncertainty', 'cascade'"),
        ({"bf16": "perhaps"}, "argument --bf16: Truthy value expected"),
        (["a"], "must hold `key: value` lines, not a list"),
        ("tasks: [", "is not YAML"),
    ],
)
def test_values_that_cannot_be_read_are_refused_by_name(config, capsys, keys, words):
    assert words in refused(capsys, "--config", config(keys))


def test_a_missing_file_is_named(capsys, tmp_path):
    assert "no.yaml" in refused(capsys, "--config", str(tmp_path / "no.yaml"))


def test_a_recipe_adds_arguments_and_other_defaults():
    @dataclass
    class Extra:
        quick: bool = field(default=False)

    *_, training, extra = parse(["--quick"], extra=[Extra], preset={"num_train_epochs": 9, "logging_steps": 3})
    assert extra.quick and (training.num_train_epochs, training.logging_steps) == (9, 3)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "`tasks` says what to learn: it is not given. Give a list of tasks"),
        (["--tasks", "[]"], "`tasks` is []"),
        (["--tasks", "[3]"], "`tasks[0]` is 3; give a mapping"),
        (["--tasks", "[{name: a}]"], "`tasks[0]` lacks `kind`; a task needs `name`, `kind`, `dataset`."),
        (["--tasks", "[{url: a}]"], "`tasks[0]` has the unknown key `url`; a task has name, kind, dataset, "),
        (["--tasks", "[{nam: a}]"], "`tasks[0]` has the unknown key `nam`; did you mean `name`?"),
        (["--tasks", "[{name: 3, kind: a, dataset: b}]"], "`name` of task 3 is 3; give a text."),
        (["--tasks", "[{name: a, kind: a, dataset: b, columns: [x]}]"], "`columns` of task `a`"),
        (["--tasks", "[{name: a, kind: a, dataset: b, max_train_samples: 0}]"], "give an integer of at least 1"),
        (["--max_test_samples", "-1"], "`max_test_samples` is -1"),
        (["--model_name_or_path", "a", "--adapter", "b"], "`model_name_or_path` and `adapter` are both given"),
        (["--revision", "main"], "`revision` belongs to `adapter`"),
        (["--adapter", "a", "--r", "4", "--members", "2"], "`r`, `members` cannot be given with `adapter`"),
        (["--r", "4"], "Give `model_name_or_path` for a new adapter"),
        (["--model_name_or_path", "a", "--r", "0"], '`r` is 0; it must be an integer from 1 to 65536, or "full".'),
        (
            ["--model_name_or_path", "a"],
            "`dataset` of task `films` is 'films.csv', which cannot be loaded: there is no",
        ),
    ],
)
def test_what_cannot_be_learned_is_refused_before_a_model_is_loaded(argv, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = argv if "--tasks" in argv or argv == [] else [*argv, "--tasks", json.dumps([TASK])]
    with pytest.raises(ValueError) as error:
        learn(*parse(given))
    assert words in str(error.value)


# Tasks


@pytest.fixture
def rows():
    return Dataset.from_dict({"text": [f"text {i}" for i in range(20)], "label": ["good", "bad"] * 10})


def load(path, **options):
    return TaskSource("films", "text-classification", str(path), **options).load()


def test_csv_cells_are_numbers_only_where_all_are_written_as_numbers(tmp_path):
    """Types do not depend on the first rows, nor do names that look like numbers change."""
    head = "text,zip,grade,count,passed,late\n"
    rows = [f"t{i},00{i % 7},{i}.50,{i},{str(i % 2 > 0).lower()},{'' if i < 11_000 else 'x'}" for i in range(12_000)]
    (tmp_path / "a.csv").write_text(head + "\n".join(rows))
    found = load(tmp_path / "a.csv").train[11_001]
    assert found == {"text": "t11001", "zip": "004", "grade": 11001.5, "count": 11001, "passed": "true", "late": "x"}
    (tmp_path / "b.csv").write_text("text,label,text\na,b,c\n")
    with pytest.raises(ValueError, match=r"`b\.csv` has two columns 'text'; rename one"):
        load(tmp_path / "b.csv")


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl", "parquet"])
def test_a_file_is_a_training_split(rows, tmp_path, ending):
    path = tmp_path / f"films.{ending}"
    {"csv": rows.to_csv, "parquet": rows.to_parquet}.get(ending, rows.to_json)(str(path))
    task = load(path, columns={"text": "text"})
    assert task.train["text"][:] == rows["text"][:]
    assert task.test is None and task.validation is None and task.columns == {"text": "text"}


CAFES = {"text": ["un café", 'a, "b"; c', "None"], "label": ["bon", "N/A", "None"]}


@pytest.mark.parametrize(
    ("name", "separator", "encoding"),
    [
        ("films.csv", ",", "utf-8-sig"),
        ("films.csv", ";", "utf-8"),
        ("films.CSV", "\t", "utf-8"),
        ("films.tsv", "\t", "utf-8"),
        ("films.csv", ";", "utf-16"),
    ],
)
def test_csv_is_read_by_its_own_separator_and_encoding_and_cells_stay_texts(tmp_path, name, separator, encoding):
    with (tmp_path / name).open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=separator).writerows([list(CAFES), *zip(*CAFES.values(), strict=True)])
    assert load(tmp_path / name).train.to_dict() == CAFES
    (tmp_path / name).rename(tmp_path / f"train{(tmp_path / name).suffix.lower()}")
    assert load(tmp_path).train.to_dict() == CAFES


def test_a_blank_cell_is_missing_and_makes_no_floats_of_integers(tmp_path):
    (tmp_path / "a.csv").write_text("text,label,weight\nx,1,0.5\n,0,\nz,,1\n")
    assert load(tmp_path / "a.csv").train.to_dict() == {
        "text": ["x", None, "z"],
        "label": [1, 0, None],
        "weight": [0.5, None, 1.0],
    }


def test_the_json_of_squad_and_rows_under_data_are_read_as_rows(tmp_path):
    path, entry = tmp_path / "a.json", {"text": "Ada", "answer_start": 0}
    asked = [{"id": "1", "question": "Who?", "answers": [entry]}, {"id": "2", "question": "When?", "answers": []}]
    article = {"title": "t", "paragraphs": [{"context": "Ada wrote it.", "qas": asked}]}
    path.write_text(json.dumps({"version": "1.1", "data": [article, article]}))
    found = load(path).train
    assert found["question"][:] == ["Who?", "When?"] * 2 and found["context"][3] == "Ada wrote it."
    assert found["answers"][:2] == [{"text": ["Ada"], "answer_start": [0]}, {"text": [], "answer_start": []}]
    (tmp_path / "b.json").write_text(json.dumps({"data": [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}]}))
    assert load(tmp_path / "b.json").train.to_dict() == {"text": ["x", "y"], "label": ["a", "b"]}


def test_a_folder_has_the_splits_of_its_files(rows, tmp_path):
    parts = DatasetDict(train=rows, validation=rows.select(range(4)), test=rows.select(range(6)))
    for name, part in parts.items():
        part.to_parquet(str(tmp_path / f"{name}.parquet"))
    task = load(tmp_path)
    assert (len(task.train), len(task.test), task.validation) == (20, 6, None)
    task = load(tmp_path, train_split="test", validation_split="train", test_split="validation")
    assert (len(task.train), len(task.validation), len(task.test)) == (6, 20, 4)
    (tmp_path / "test.parquet").unlink()
    assert len(load(tmp_path).test) == 4
    with pytest.raises(ValueError, match=r"`test_split` of task `films` is 'dev', but .* has the splits \['train', "):
        load(tmp_path, test_split="dev")


def test_a_task_has_the_smallest_of_all_limits(rows, tmp_path):
    rows.to_csv(str(tmp_path / "films.csv"))
    task = TaskSource(**{**TASK, "dataset": str(tmp_path / "films.csv")}, max_train_samples=5).load(9, 3)
    assert (len(task.train), task.max_train_samples, task.max_test_samples) == (20, 5, 3)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.parquet", b"no parquet", "Parquet magic bytes not found"),
        ("a.csv", "text,label\nun café,bon\n".encode("latin-1"), "`a.csv`, line 2, is not UTF-8 .*byte 0xe9"),
        ("a.jsonl", '{"text": "café"}'.encode("latin-1"), "`a.jsonl`, line 1, is not UTF-8"),
        ("a.jsonl", '{"text": "café"}'.encode("utf-16"), "`a.jsonl` is UTF-16; save it as UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"text": ', "JSON parse error"),
        ("a.csv", b"text,label\na,b\nc,d,e\n", "Expected 2 fields in line 3, saw 3"),
        ("a.xlsx", b"PK", "files that end in '.xlsx' are not read; convert it to one of .csv, .tsv"),
    ],
)
def test_why_a_file_cannot_be_loaded_is_said_in_one_line(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"`dataset` of task `films` is .*, which cannot be loaded: .*{reason}") as e:
        load(tmp_path / name)
    assert "\n" not in str(e.value)


def test_a_data_set_that_cannot_be_found_is_named(tmp_path):
    for path in (tmp_path / "nothing", tmp_path / "nothing.csv", "me/nothing:config"):
        with pytest.raises(ValueError, match=r"`dataset` of task `films` is .*nothing.*, which cannot be loaded: "):
            load(path)


@pytest.mark.parametrize("ask", ["learn", "estimate"])
def test_code_that_comes_with_a_base_is_never_run(ask, tmp_path, monkeypatch):
    base, canary = tmp_path / "base", tmp_path / "canary"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}))
    maps = {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}
    (base / "tokenizer_config.json").write_text(json.dumps(maps))
    (base / "evil.py").write_text(f"open({str(canary)!r}, 'w')")
    monkeypatch.setattr("builtins.input", lambda *question: "y")  # transformers would ask
    monkeypatch.setattr(TaskSource, "load", lambda *given: None)
    tasks = json.dumps([TASK])
    arguments = parse(["--model_name_or_path", str(base), "--tasks", tasks, "--output_dir", str(tmp_path / "out")])
    with pytest.raises((ValueError, PullError), match="custom code"):
        learn(*arguments) if ask == "learn" else estimate_memory(str(base))
    assert not canary.exists()


@pytest.mark.parametrize("text", ["[" * 3000, "{a: " * 3000, "- " * 3000])
def test_yaml_that_nests_too_deeply_is_one_error(text):
    with pytest.raises(ValueError, match="`tasks` is YAML that nests too deeply"):
        read_yaml(text, "tasks")


def test_data_with_a_script_is_one_error(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.py").write_text("raise SystemExit")
    with pytest.raises(ValueError, match=r"`dataset` of task `films` is .* cannot be loaded: Dataset scripts are no"):
        TaskSource("films", "text-classification", str(tmp_path / "data")).load()
    with pytest.raises(ValueError, match="`dataset` of task 'films' is empty"):
        TaskSource("films", "text-classification", " ")


def test_an_adapter_is_no_base_and_a_missing_base_is_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    for base, kind, words in (
        (tmp_path, ValueError, "which is an adapter. Give it as `adapter`"),
        ("me/nothing", PullError, "The base `me/nothing` was not loaded"),
    ):
        argv = ["--model_name_or_path", str(base), "--tasks", "[]", "--output_dir", str(tmp_path / "out")]
        tasks, adapter, training = parse(argv)
        tasks.tasks, tasks.stream = None, "rows.csv"
        with pytest.raises(kind, match=words):
            learn(tasks, adapter, training)


@pytest.mark.parametrize(
    ("text", "words"), [("", "the file is empty"), ("text,label\n", "it has a header but no rows")]
)
def test_a_file_without_rows_is_said(tmp_path, text, words):
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(ValueError, match=f"`dataset` of task `films` is .*rows.csv', which cannot be loaded: {words}"):
        TaskSource("films", "text-classification", str(tmp_path / "rows.csv")).load()


def test_a_later_task_is_audited_on_a_page_and_asked_for_in_a_launch(bert_folder, tokenizer, tmp_path, monkeypatch):
    model = get_peft_model(
        AutoModel.from_pretrained(bert_folder), DriftAdapterConfig(r=2, members=1, signature_rank=2)
    )
    learn_task(model, "films", "text-classification", ("bad", "good"), 0)
    model.save_pretrained(str(tmp_path))
    tokenizer.save_pretrained(str(tmp_path))
    audited = replace(knowledge_of(model).tasks[0], statistics=(StatisticRecord("audit", ()),))
    assert was_audited(KnowledgeBase(tasks=[audited])) and not was_audited(knowledge_of(model))
    assert not was_audited(KnowledgeBase(tasks=[audited, knowledge_of(model).tasks[0]]))
    seen = []
    monkeypatch.setattr(teaching, "learn", lambda learning, adapter, training, callbacks: seen.append(training.audit))
    for was in (True, False):
        monkeypatch.setattr(teaching, "was_audited", lambda knowledge, was=was: was)
        teaching.FolderTeacher(tmp_path).learn("mail", "text-classification", "mail.csv", {}, 1, lambda share: None)
    assert seen == ["report", "off"]
    monkeypatch.setattr(learning, "was_audited", lambda knowledge: True)
    monkeypatch.setattr(TaskSource, "load", lambda *given: None)
    argv = ["--adapter", str(tmp_path), "--tasks", json.dumps([TASK]), "--output_dir", str(tmp_path / "out")]
    with pytest.warns(UserWarning, match="this launch audits none; `audit` sets it"), pytest.raises(ValueError):
        learn(*parse(argv))
