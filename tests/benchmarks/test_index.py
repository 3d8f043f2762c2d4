"""The index of the records."""

import json

import index


def record(**entries):
    versions = {"hf_lifelong": "0.1.0", "torch": "2.13.0"}
    command = "python benchmarks/some.py --model tiny"
    return {"command": command, "date": "2026-01-02", "hardware": "a CPU", "versions": versions, **entries}


def test_a_record_states_itself():
    line = index.entry("some.json", record(model="tiny", rows=[{"seed": 0}]))
    command = "`python benchmarks/some.py --model tiny`"
    assert line == ["`some.json`", "`benchmarks/some.py`", "2026-01-02", "0.1.0", "tiny", "a CPU", command]


def test_rows_of_several_days_and_machines_are_all_named():
    rows = [record(date=f"2026-01-0{day}", hardware=f"machine {day}") for day in (3, 1)]
    assert index.entry("some.json", record(rows=rows))[2:6] == [
        "2026-01-01 to 2026-01-03",
        "0.1.0",
        "",
        "machine 1; machine 3",
    ]


def test_records_below_are_listed_after_those_beside(tmp_path):
    for name in ("streams/full/a.json", "z.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(record()))
    lines = index.index(tmp_path).splitlines()
    assert [line.split(" | ")[0] for line in lines[-2:]] == ["| `z.json`", "| `streams/full/a.json`"]


def test_the_committed_index_lists_every_record_as_it_is():
    assert (index.RESULTS / "README.md").read_text() == index.index(index.RESULTS), "run `python benchmarks/index.py`"
