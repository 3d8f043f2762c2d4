"""Tables of figures: the pages have those of the records, and what is wrong in a page is said."""

import cells
import pytest
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
