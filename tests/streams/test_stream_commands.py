"""`hf-lifelong learn --stream` and `hf-lifelong watch`."""

import json

import pytest
from stream_helpers import rows
from typer.testing import CliRunner

from hf_lifelong.cli.app import app
from hf_lifelong.hub import pull


def run(*argv, code=0, **options):
    result = CliRunner().invoke(app, [str(part) for part in argv], **options)
    assert result.exit_code == code, (result.exit_code, result.output, result.exception)
    return result


TINY = ("--r", 2, "--members", 2, "--signature_rank", 2, "--max_length", 16, "--stride", 4, "--use_cpu", "true")
FAST = ("--max_steps", 4, "--save_strategy", "no", "--bf16", "false", "--disable_tqdm", "true", "--stream_least", 10)


def lines(some):
    return "".join(json.dumps(row) + "\n" for row in some)


STREAM = [*rows("film", 40), {"text": "a film"}, *rows("film", 100, 1), *rows("money", 100)]


@pytest.fixture(scope="module")
def taught(bert_folder, tmp_path_factory):
    """The folder of an adapter that learned a stream, and the result of the command."""
    folder = tmp_path_factory.mktemp("taught")
    (folder / "rows.jsonl").write_text(lines(STREAM))
    given = ("--stream", folder / "rows.jsonl", "--kind", "text-classification", "--output_dir", folder / "out")
    return folder, run("learn", "--model_name_or_path", bert_folder, *given, *TINY, *FAST)


def test_a_file_is_learned_and_answered(taught):
    folder, result = taught
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(answer["input"], answer["task"]) for answer in answers] == [(40, "unknown")]
    assert "The adapter is in" in result.stderr
    assert [task.group for task in pull(folder / "out").knowledge.tasks] == ["segment-1", "segment-2"]


def test_stdin_is_the_same_and_can_be_resumed(taught, bert_folder, tmp_path):
    given = ("--model_name_or_path", bert_folder, "--stream", "-", "--kind", "text-classification")
    given += ("--output_dir", tmp_path / "out", *TINY, *FAST)
    broken = run("learn", *given, input=lines(STREAM[:200]) + "{half\n", code=1)
    said = broken.stderr.splitlines()[-1]
    assert said.startswith("Error: `-`, line 201: ") and "`--resume_from_checkpoint True`" in said
    run("learn", *given, "--resume_from_checkpoint", "true", input=lines(STREAM))
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (taught[0] / "out" / name).read_bytes()


@pytest.mark.parametrize(
    ("argv", "stream", "message"),
    [
        (("--kind", "text-classification"), "text,label\n", "give a JSON object in each line, or a table (.csv)."),
        (("--kind", "text-classification"), "[1, 2]\n", "line 1: '[1, 2]' is no JSON object"),
        ((), "{}\n", "`kind` is None; it says what the rows of `stream` are learned as"),
        (("--kind", "text-classification", "--max_train_samples", 5), "{}\n", "go with `tasks`; of a stream all rows"),
        (
            ("--kind", "text-classification", "--columns", "{text: body}"),
            "{}\n",
            "as `columns: {text: ...}`",
        ),
    ],
)
def test_what_cannot_be_learned_is_one_line(bert_folder, tmp_path, argv, stream, message):
    (tmp_path / "rows.jsonl").write_text(stream)
    given = (
        "--model_name_or_path",
        bert_folder,
        "--stream",
        tmp_path / "rows.jsonl",
        "--output_dir",
        tmp_path / "out",
    )
    result = run("learn", *given, *argv, *TINY, *FAST, code=1)
    assert message in result.stderr.splitlines()[-1] and "Traceback" not in result.stderr and not result.stdout


def test_watching_prints_a_verdict_for_each_input(taught, tmp_path):
    inputs = [row["text"] for row in [*rows("money", 80, 5), *rows("match", 80, 5), *rows("film", 60, 5)]]
    (tmp_path / "inputs.txt").write_text("\n".join(inputs))
    before = (taught[0] / "out" / "adapter_model.safetensors").read_bytes()
    from_file = run("watch", taught[0] / "out", tmp_path / "inputs.txt", "--expected-run", 1000)
    found = [json.loads(line) for line in from_file.stdout.splitlines()]
    assert [one["input"] for one in found] == list(range(220))
    told = [(one["outcome"], one["group"]) for one in found if one["outcome"] != "same"]
    assert told == [("return", "segment-2"), ("new", None), ("return", "segment-1")]
    assert set(found[0]) == {"input", "outcome", "group", "since", "evidence"}
    assert run("watch", taught[0] / "out", "--expected-run", 1000, input="\n".join(inputs)).stdout == from_file.stdout
    assert (taught[0] / "out" / "adapter_model.safetensors").read_bytes() == before


def test_a_table_is_watched_and_learned_as_lines_are(taught, bert_folder, tmp_path):
    table = "".join(f"{row['text']},{row.get('label', '')}\n" for row in STREAM)
    (tmp_path / "rows.csv").write_text("text,label\n" + table)
    watched = run("watch", taught[0] / "out", tmp_path / "rows.csv").stdout
    assert watched == run("watch", taught[0] / "out", taught[0] / "rows.jsonl").stdout  # labels are not looked at
    given = ("--stream", tmp_path / "rows.csv", "--kind", "text-classification", "--output_dir", tmp_path / "out")
    assert run("learn", "--model_name_or_path", bert_folder, *given, *TINY, *FAST).stdout == taught[1].stdout
    tensors = "adapter_model.safetensors"
    assert (tmp_path / "out" / tensors).read_bytes() == (taught[0] / "out" / tensors).read_bytes()


def test_a_missing_file_is_said(taught, tmp_path):
    result = run("watch", taught[0] / "out", tmp_path / "none.txt", code=1)
    assert "cannot be read (No such file or directory)" in result.stderr
