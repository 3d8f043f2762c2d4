"""Records of streams: what is added stays, also what another process added, and a kill leaves a file whole."""

import json

import pytest
import stream_records
from stream_records import RECORDS, add_row, key_of, read_record, row_of

HEAD = {"name": "lifelong", "tasks": ["a", "b"]}


def cell(method, seed, accuracy=0.5):
    return {"method": method, "order": 0, "seed": seed, "summary": {"average_accuracy": accuracy}}


def test_each_row_is_a_line_and_rows_are_in_order(tmp_path):
    path = tmp_path / "new" / "domains.json"
    for row in (cell("ours", 1), cell("lda", 0), cell("ours", 0)):
        add_row(path, HEAD, row)
    rows = [cell("lda", 0), cell("ours", 0), cell("ours", 1)]
    assert read_record(path) == {**HEAD, "rows": rows}
    lines = path.read_text().splitlines()
    assert [json.loads(line.rstrip(",")) for line in lines[4:7]] == rows and len(lines) == 9


def test_a_row_replaces_the_one_with_its_key(tmp_path):
    path = tmp_path / "domains.json"
    for accuracy in (0.5, 0.6):
        add_row(path, HEAD, cell("ours", 0, accuracy))
    assert row_of(read_record(path), "ours", 0, 0) == cell("ours", 0, 0.6)
    assert row_of(read_record(path), "ours", 0, 1) is None and len(read_record(path)["rows"]) == 1


def test_a_kill_while_a_record_is_written_leaves_it_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "domains.json"
    add_row(path, HEAD, cell("ours", 0))
    with pytest.raises(ValueError, match="not JSON compliant"):
        add_row(path, HEAD, cell("ours", 1, float("nan")))
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        add_row(path, HEAD, cell("ours", 1))
    assert read_record(path)["rows"] == [cell("ours", 0)]


def test_a_damaged_record_is_named_with_what_to_do(tmp_path):
    path = tmp_path / "domains.json"
    path.write_text('{"rows": [{"method": ')
    with pytest.raises(SystemExit, match=r"delete it, and its cells are run again.*domains.json"):
        read_record(path)


def test_the_committed_records_have_every_cell_once_and_are_small():
    paths = list(RECORDS.rglob("*.json"))
    assert {path.parent.name for path in paths} == {"full", "small", "images"}
    for path in paths:
        record = read_record(path)
        keys = [key_of(row) for row in record["rows"]]
        assert keys == sorted(set(keys)), path
        assert record.get("stream", "chosen") == path.stem
        assert path.stat().st_size < 2_000_000
        assert len(path.read_text().splitlines()) == len(record) + len(keys) + 3, path


def test_there_is_no_record_beside_the_three_comparisons():
    assert not [path for path in stream_records.RESULTS.rglob("*.json") if "order" in path.stem]
