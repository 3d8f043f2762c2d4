"""Tables of figures: the pages have those of the records, and what is wrong in a page is said."""

import json

import cells
import language_tables
import pruning_tables
import pytest
import result_tables
import speed_tables
import tables


def test_the_committed_pages_are_what_the_records_give():
    tables.fill(check=True)


@pytest.fixture
def page(tmp_path):
    """`page(text)`: a page of its own, and what fills it: the table `sizes`, of the record `sizes.json`."""
    (tmp_path / "sizes.json").write_text('{"small": 0.25, "large": 2}')

    def sizes(folder):
        return cells.table(["size", "figure"], [[k, cells.short(v)] for k, v in cells.read(folder, "sizes").items()])

    def make(text):
        path = tmp_path / "page.md"
        path.write_text(text)
        return path, lambda **options: tables.fill([path], {"sizes": sizes}, tmp_path, **options)

    return make


TABLE = "| size | figure |\n|---|---|\n| small | .250 |\n| large | 2.000 |\n"
BEGIN, END = "<!-- table: sizes -->\n", "<!-- end of table -->\n"


def test_a_table_goes_between_its_marks(page):
    path, fill = page(f"Before.\n\n{BEGIN}old\n{END}\nA line with `{BEGIN[:-1]}` in it.\n")
    fill()
    assert path.read_text() == f"Before.\n\n{BEGIN}{TABLE}{END}\nA line with `{BEGIN[:-1]}` in it.\n"
    fill(check=True)


def test_an_edited_figure_is_found_and_named(page):
    text = f"{BEGIN}{TABLE.replace('.250', '.260')}{END}"
    path, fill = page(text)
    with pytest.raises(SystemExit, match=r"page\.md: table `sizes` is not that of the records. Run `python bench"):
        fill(check=True)
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (f"{BEGIN}{END}<!-- table: weights -->\n{END}", "page.md: there is no table `weights`. Add it to TABLES"),
        (f"{BEGIN}{TABLE}", r"page.md: `<!-- table: sizes -->` has no end. Write `<!-- end of table -->` below"),
        (f"{BEGIN}{BEGIN}{END}", r"page.md: `<!-- table: sizes -->` has no end."),
        (f"{BEGIN}{END}{END}", r"page.md: `<!-- end of table -->` ends no table. Write `<!-- table: NAME -->` above"),
        ("No table.\n", "On no page: sizes. Write `<!-- table: NAME -->`"),
    ],
)
def test_what_is_wrong_in_a_page_is_said_and_nothing_is_written(text, error, page):
    path, fill = page(text)
    with pytest.raises(SystemExit, match=error):
        fill()
    assert path.read_text() == text


def test_figures_are_rounded_as_they_stand_in_a_record():
    assert [cells.short(value) for value in (0.6475, 0.0175, 1, -0.2, 10.5)] == [
        ".648",
        ".018",
        "1.000",
        "-.200",
        "10.500",
    ]
    assert [cells.exact(value) for value in (0.0, 1.0, 0.5)] == ["0", "1", ".500"]
    assert cells.percent(0.98571, 1) == "98.6 %" and cells.fixed(1.165, 2) == "1.17"
    assert cells.best([".2", "", ".10", ".1"], lowest=True) == [".2", "", "**.10**", "**.1**"]


def test_forgetting_of_a_language_model_is_from_the_best_score_of_each_task(tmp_path):
    scores = [[0.75, None], [0.25, 0.5]]
    rows = [
        {
            "method": "ours",
            "matrix": {"tasks": ["a", "yes_or_no"], "scores": [[1.0, None], [1.0, 0.5]], "oracle": scores},
        },
        {"method": "sequential", "matrix": {"tasks": ["a", "yes_or_no"], "scores": scores}},
    ]
    (tmp_path / "causal_lm.json").write_text(json.dumps({"rows": rows}))
    assert language_tables.kept(tmp_path) == [
        "| after the second task | a ↑ | yes or no ↑ | average ↑ | forgetting ↓ |",
        "|---|---|---|---|---|",
        "| hf_lifelong, not told the task | 1 | .500 | **.750** | 0 |",
        "| hf_lifelong, right group given | .250 | .500 | .375 | .500 |",
        "| one LoRA, trained on task after task | .250 | .500 | .375 | .500 |",
    ]


def test_a_pq_index_rises_only_if_it_does_so_visibly():
    assert pruning_tables.in_words([0.2, 0.1, 0.104, 0.09]) == "falls to .090"
    assert pruning_tables.in_words([0.2, 0.1, 0.3, 0.09]) == ".100 (1) → .300 (2) → .090"
    assert pruning_tables.in_words([0.2, 0.1, 0.3]) == ".100 (1) → .300 (2)"


def test_the_fairest_of_a_case_is_in_bold_and_a_method_without_a_weight_shows_none():
    def of(name, gap, accuracy, weight):
        keys = {"": gap, "_accuracy": accuracy, "_test": gap, "_test_accuracy": accuracy, "_weight": weight}
        return {f"adult_sex_sp_{name}{key}": value for key, value in keys.items()}

    summary = {**of("fedavg", 0.2, 0.84, 0.0), **of("fedgft", 0.02, 0.82, 20.0)}
    assert result_tables.case_of(summary, "adult", "sex", "sp") == [
        ["Adult, sex, SP: FedAvg", "", ".200", "**.840**", ".200", "**.840**"],
        ["**FedGFT**", "20", "**.020**", ".820", "**.020**", ".820"],
    ]


def test_what_a_gpu_measured_is_told_from_what_it_did_not(tmp_path):
    assert [line.split(" | ")[1] for line in speed_tables.gpu(tmp_path)[2:]] == ["not measured |"] * 7
    parts = [
        {"part": "gpu_8b", "error": "stopped after 120 s"},
        {"part": "training", "result": {"summary": {"step_time_ratio": 0.9}}},
        {"part": "answering", "result": {"summary": {"signature_ratio_1000": None}}},
        {"part": "memory", "result": {"summary": {"worst_relative_error_cuda": 0.0512}}},
        {"part": "compiled", "result": {"summary": {"speedup_1x32": 2.0, "speedup_8x128": 1.25}}},
    ]
    (tmp_path / "gpu.json").write_text(json.dumps({"parts": parts}))
    found = [line.rstrip(" |").split(" | ")[1] for line in speed_tables.gpu(tmp_path)[2:]]
    none = "not measured"
    assert found == ["5.1 %", none, none, none, none, none, "0.50 (1 × 32 tokens), 0.80 (8 × 128 tokens)"]
