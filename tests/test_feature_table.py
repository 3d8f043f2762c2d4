"""The committed table of features says what the tests show."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from feature_table import FEATURES, SETTINGS, UNTESTED, marks_of, table

TESTS = Path(__file__).parent
COMMITTED = TESTS / "features.md"


def cells() -> dict[tuple[str, str], str]:
    """What the committed table says of each feature and setting."""
    found = {}
    for line in COMMITTED.read_text(encoding="utf-8").splitlines()[2:]:
        feature, *said = (part.strip() for part in line.strip("|").split("|"))
        found |= {(feature, setting): what for setting, what in zip(SETTINGS, said, strict=True)}
    return found


def test_the_committed_table_has_the_rows_and_columns_of_today():
    assert cells().keys() == {(feature, setting) for feature in FEATURES for setting in SETTINGS}
    assert table(cells()) == COMMITTED.read_text(encoding="utf-8")


def test_the_committed_table_says_what_marked_tests_show(request):
    items = request.session.items
    marked = {(feature, setting): shown for item in items for feature, setting, shown in marks_of(item)}
    said = {key: what for key, what in cells().items() if what != UNTESTED}
    assert marked.items() <= said.items()
    if {item.path for item in items} >= set(TESTS.rglob("test_*.py")):  # a run of all tests
        assert marked == said


def test_an_unknown_feature_is_refused():
    mark = pytest.mark.feature("fly", "one process").mark
    item = SimpleNamespace(nodeid="test_flying", iter_markers=lambda name: [mark])
    with pytest.raises(pytest.UsageError, match=r"test_flying: \('fly', 'one process'\) is not in the table"):
        marks_of(item)
