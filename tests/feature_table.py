"""Which feature is tested in which setting: a mark on tests, and the table that a run of them gives.

`@pytest.mark.feature("learn a task", "DDP")` says what a test shows; `pytest --feature-table FILE` writes the table of
what was shown in this run. `tests/features.md` is the one of a whole run, which `docs/performance.md` repeats.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

FEATURES = (
    "learn a task",
    "learn several tasks in one launch",
    "snapshots of a sharded model",
    "resume a killed run",
    "gradient checkpointing",
    "score each row once",
    "save and load",
    "generate",
    "export as LoRA",
    "forget a task",
    "prune",
)
SETTINGS = ("one process", "DDP", "4-bit", "8-bit", "FSDP2", "ZeRO")
SHOWN, REFUSED, FAILED, UNTESTED = "yes", "refused", "failed", "not tested"

outcomes: dict[tuple[str, str], list[str]] = defaultdict(list)


def table(cells: dict[tuple[str, str], str]) -> str:
    """The table in Markdown, of what each (feature, setting) is."""
    lines = ["| | " + " | ".join(SETTINGS) + " |", "|---" * (len(SETTINGS) + 1) + "|"]
    for feature in FEATURES:
        lines.append(f"| {feature} | " + " | ".join(cells.get((feature, s), UNTESTED) for s in SETTINGS) + " |")
    return "\n".join(lines) + "\n"


def marks_of(item: pytest.Item) -> list[tuple[str, str, str]]:
    """Feature, setting and what is shown, of each mark of a test.

    Raises:
        pytest.UsageError: for a feature or setting that the table has not.
    """
    found = []
    for mark in item.iter_markers("feature"):
        feature, setting = mark.args
        if feature not in FEATURES or setting not in SETTINGS:
            raise pytest.UsageError(f"{item.nodeid}: {mark.args} is not in the table of `tests/feature_table.py`.")
        found.append((feature, setting, REFUSED if mark.kwargs.get("refused") else SHOWN))
    return found


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--feature-table", metavar="FILE", help="write which features the tests of this run have shown")


def check_marks(items: list[pytest.Item]) -> None:
    """Ends a run with unknown names before it begins."""
    for item in items:
        marks_of(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):
    report = yield
    if report.failed or (report.when == "call" and report.passed):
        for feature, setting, shown in marks_of(item):
            outcomes[feature, setting].append(shown if report.passed else FAILED)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    file = session.config.getoption("--feature-table")
    if file is not None:
        cells = {key: FAILED if FAILED in found else found[0] for key, found in outcomes.items()}
        Path(file).write_text(table(cells), encoding="utf-8")
