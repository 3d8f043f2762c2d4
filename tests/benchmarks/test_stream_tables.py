"""The tables and pictures of the evidence benchmark say what its records say."""

import json

import lifelong_pictures
import pytest
import stream_tables
from cells import short
from stream_figures import mean_of, results

from hf_lifelong.evaluation import AccuracyMatrix


def row(method, accuracy, seed=0, **beside):
    matrix = AccuracyMatrix()
    matrix.add("a", "accuracy", 0.5, {"a": 0.9})
    matrix.add("b", "accuracy", 0.5, {"a": accuracy, "b": accuracy}, confusion={"a": {"a": 0.5, "b": 0.5}})
    summary = {
        "average_accuracy": accuracy,
        "forgetting": 0.9 - accuracy,
        "forwards": 1.0,
        **beside.pop("summary", {}),
    }
    return {
        "method": method,
        "order": 0,
        "seed": seed,
        "summary": summary,
        "bytes_stored": [10, 20],
        "matrix": matrix.to_dict(),
        "beside": beside,
    }


@pytest.fixture
def result():
    """A stream with ours from two seeds and two rivals from one."""
    variants = {"cascade": {"average_accuracy": 0.85}, "last member": {"average_accuracy": 0.7}}
    ours = {"summary": {"oracle_accuracy": 0.9}, "variants": variants, "trunk": 0.5, "members": 5}
    rows = [row("ours", 0.8, **ours), row("ours", 0.84, seed=1, **ours), row("sequential", 0.4), row("separate", 0.95)]
    budget = {"train_texts": 500, "test_texts": 250}
    return {"model": "tiny", "budget": budget, "rows": rows}


def test_the_table_has_means_and_marks_the_best_of_what_a_stream_allows(result):
    lines = stream_tables.comparison({"domains": result}, "average accuracy ↑")
    assert "| average accuracy ↑ | *domains* |" in lines
    assert "| **hf_lifelong**, `signature` (the default) | .820 |" in lines
    assert "| hf_lifelong, `cascade` | **.850** |" in lines
    assert "| one LoRA, task after task | .400¹ |" in lines
    assert "| one LoRA a task, told the task | .950¹ |" in lines  # better, but told the task: not marked
    assert "| *hf_lifelong: forgetting ↓* | .080 |" in lines
    how = "Means of 2 seeds; ¹ of the first alone; tiny; 3 epochs; domains: up to 500 training and 250 test texts"
    assert f"{how} a task." in lines
    assert not any("one thing changed" in line for line in lines)


@pytest.fixture
def records(result, tmp_path):
    """A folder of records: `domains` with the small budget, `return` with the full one and more texts."""
    larger = {**result, "budget": {"train_texts": 1500, "test_texts": 500}}
    for name, record in (("small/domains", result), ("full/return", larger)):
        path = tmp_path / "streams" / f"{name}.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(record))
    return tmp_path


def test_each_budget_has_its_table(records):
    full, small = stream_tables.full_budget(records), stream_tables.small_budget(records)
    assert full[0] == "| average accuracy ↑ | *return* |" and "return: up to 1500 training" in full[-1]
    assert small[0] == "| average accuracy ↑, small budget | *domains* |" and "domains: up to 500" in small[-1]


def test_where_the_task_is_given_ours_answers_by_the_right_group(records):
    told = stream_tables.full_budget_told(records)
    assert told[0] == "| told the task of every input, average accuracy ↑ | *return* |"
    assert "| **hf_lifelong** | **.900** |" in told and "| one LoRA a task | .950¹ |" in told


def test_ablations_have_a_column_where_they_were_run(result):
    changed = {**result, "rows": [*result["rows"], row("ours_no_drift", 0.81)]}
    table = stream_tables.changed({"domains": changed, "return": result})
    assert table[0] == "| one thing changed, average accuracy ↑ | *domains* |"
    assert "| the default | **.820** |" in table and "| no drift | .810¹ |" in table
    assert "| last weights only | .700 |" in table


def test_other_orders_have_a_table_and_do_not_count_in_the_others(result):
    variants = {"cascade": {"average_accuracy": 0.1}}
    drawn = [{**row("ours", 0.7, summary={"oracle_accuracy": 0.1}, variants=variants), "order": 2}]
    both = {**result, "rows": [*result["rows"], *drawn]}
    others = [stream_tables.comparison({"domains": one}, "average accuracy ↑") for one in (both, result)]
    assert others[0] == others[1]
    orders = stream_tables.orders({"domains": both, "return": result})
    assert orders[0] == "| order of the tasks, average accuracy ↑ | *domains* |"
    assert orders[2:] == ["| as listed | .820 |", "| drawn, 2 | .700 |"]


def test_pictures_are_drawn_and_uncertainty_costs_all_members(result, tmp_path):
    lifelong_pictures.draw({"domains": result}, tmp_path)
    names = {path.name for path in (tmp_path / "domains").iterdir()}
    assert names == {"matrix.png", "accuracy.png", "confusion.png", "costs.png"}
    costs = lifelong_pictures.costs({r["method"]: r for r in result["rows"]})
    assert costs["hf_lifelong, uncertainty"] == [(1, 10, 3.0), (2, 20, 5.5)]


@pytest.mark.parametrize("streams", [1, 4])
def test_the_comparison_is_drawn_with_a_panel_for_each_stream(streams, result, tmp_path):
    lifelong_pictures.draw_comparison({f"stream {i}": result for i in range(streams)}, tmp_path / "all.png")
    assert (tmp_path / "all.png").stat().st_size > 10_000


def test_a_mean_is_of_the_cells_that_have_the_figure(result):
    assert mean_of(result["rows"], "ours", "average_accuracy") == pytest.approx(0.82)
    assert mean_of(result["rows"], "ours", "oracle_accuracy") == 0.9
    assert mean_of(result["rows"], "sequential", "oracle_accuracy") is None
    halves = [{"method": "lda", "summary": {"forgetting": value}} for value in (0.02, 0.015)]
    assert short(mean_of(halves, "lda", "forgetting")) == ".018"


def test_only_streams_that_ours_was_run_on_have_a_column(tmp_path):
    (tmp_path / "a.json").write_text('{"rows": [{"method": "lda", "order": 0}]}')
    (tmp_path / "b.json").write_text('{"rows": [{"method": "ours", "order": 0}]}')
    assert list(results(tmp_path, ["a", "b", "c"])) == ["b"]
