"""The reference cards: rendered from records alone, the same bytes every time, and checked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_lifelong import DriftAdapterConfig
from hf_lifelong.evaluation import AccuracyMatrix
from hf_lifelong.hub import CardFacts
from hf_lifelong.knowledge import KnowledgeBase, LearnedTask, TaskData

ROOT = Path(__file__).parents[2]


@pytest.fixture
def render(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "model_cards"))
    import render

    return render


@pytest.fixture
def record():
    """What a run of two tasks records of its adapter."""
    matrix = AccuracyMatrix()
    matrix.add("films", "accuracy", 0.5, {"films": 0.9}, confusion={"films": {"films": 1.0}})
    shares = {"films": {"films": 0.75, "news": 0.25}, "news": {"news": 1.0}}
    matrix.add("news", "accuracy", 0.25, {"films": 0.7, "news": 0.8}, confusion=shares)
    tasks = [
        LearnedTask(name, "text-classification", ("no", "yes"), 2, 5, name, 9, data=TaskData(name, rows=2000))
        for name in matrix.tasks
    ]
    base = {"model_type": "bert", "hidden_size": 384, "layers": 6, "fingerprint": "ab", "dtype": "float32"}
    config = DriftAdapterConfig(knowledge=KnowledgeBase(base, 3, [0, 3], tasks, matrix.to_dict()).to_dict())
    facts = CardFacts(base_model="ada/bert", task_sizes={"films": 10, "news": 20}, seconds=880)
    return {"config": config.to_dict(), "facts": facts.to_dict()}


@pytest.fixture
def results(record, tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "speed.json").write_text(json.dumps({"name": "speed", "rows": []}))
    (folder / "stream.json").write_text(json.dumps({"name": "stream", "adapter": record}))
    return folder


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_record_gives_card_and_picture_the_same_bytes_every_time(render, results, tmp_path):
    assert render.render(results, tmp_path / "first") == render.render(results, tmp_path / "second") == ["stream"]
    found = files(tmp_path / "first")
    assert list(found) == ["stream/README.md", "stream/accuracy_matrix.png", "stream/confusion.png"]
    assert found == files(tmp_path / "second")
    card = ModelCard(found["stream/README.md"].decode())
    assert card.data.base_model == "ada/bert" and "| **films** |" in card.text and "14 min 40 s" in card.text
    assert "](accuracy_matrix.png)" in card.text and "](confusion.png)" in card.text
    assert "| films | **0.750** | 0.250 |" in card.text


def test_check_names_what_is_out_of_date(render, results, record, tmp_path):
    cards = tmp_path / "cards"
    assert render.check(results, cards) == [
        "stream/README.md is not what its record gives",
        "stream/accuracy_matrix.png is missing",
        "stream/confusion.png is missing",
    ]
    render.render(results, cards)
    assert render.check(results, cards) == []
    record["facts"]["seconds"] = 881
    (results / "stream.json").write_text(json.dumps({"adapter": record}))
    assert render.check(results, cards) == ["stream/README.md is not what its record gives"]
    (results / "stream.json").unlink()
    assert render.check(results, cards) == ["stream/README.md has no record"]


def test_a_record_that_cannot_be_used_is_named(render, results, record, tmp_path):
    for damaged in ({}, [], {"config": record["config"]}, {**record, "facts": {"colour": 1}}):
        (results / "stream.json").write_text(json.dumps({"adapter": damaged}))
        with pytest.raises(ValueError, match=r"record in `.*stream.json` cannot be used: .* Run it again"):
            render.render(results, tmp_path / "cards")
    assert not (tmp_path / "cards").exists()


def test_the_committed_cards_are_what_their_records_give():
    done = subprocess.run(
        [sys.executable, str(ROOT / "model_cards" / "render.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_benchmark_keeps_the_record_of_its_first_run(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from record import fill

    out, runs = tmp_path / "x.json", []

    def run(method, seed):
        runs.append((method, seed))
        return {"seconds": 1, **({"adapter": {"seed": seed}} if method == "ours" else {})}

    def filled(seeds):
        fill(out, ["lora", "ours"], seeds, run, lambda rows: {"rows": rows})
        return json.loads(out.read_text())

    found = filled([0, 1])
    assert found["adapter"] == {"seed": 0} and not any("adapter" in row for row in found["rows"])
    assert filled([0, 1, 2])["adapter"] == {"seed": 0}
    assert runs == [("lora", 0), ("ours", 0), ("lora", 1), ("ours", 1), ("lora", 2), ("ours", 2)]
    del found["adapter"]
    out.write_text(json.dumps(found))
    assert (
        filled([0, 1])["adapter"] == {"seed": 0} and len(runs) == 7 and len(json.loads(out.read_text())["rows"]) == 4
    )
