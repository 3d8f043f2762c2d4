"""Model cards of the reference adapters, rendered from recorded runs.

    python model_cards/render.py            # writes <name>/README.md and its pictures
    python model_cards/render.py --check    # writes nothing; fails where a card is not what its record gives

Every `benchmarks/results/<name>.json` that holds an `adapter` record (`hf_lifelong.training.cards.adapter_record`) has
a card. The same record gives the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from hf_lifelong.evaluation import AccuracyMatrix
from hf_lifelong.hub import CARD, CONFUSION, PICTURE, CardFacts, draw_matrix, model_card
from hf_lifelong.knowledge import KnowledgeBase
from hf_lifelong.utils.files import read_json

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"


def cards(results: Path) -> Iterator[tuple[str, str, AccuracyMatrix]]:
    """Name, text and accuracy matrix of every card.

    Raises:
        ValueError: when a record cannot be used; names the file.
    """
    for path in sorted(results.glob("*.json")):
        record = read_json(path).get("adapter")
        if record is None:
            continue
        try:
            knowledge = KnowledgeBase.from_dict(record["config"]["knowledge"], oldest=1)
            facts = replace(CardFacts.from_dict(record["facts"]), picture=True)
            matrix = AccuracyMatrix.from_dict(knowledge.scores or {})
            text = str(model_card(knowledge, record["config"], facts))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"The `adapter` record in `{path}` cannot be used: {error!r}. Run it again.") from error
        yield path.stem, text, matrix


def render(results: Path, folder: Path) -> list[str]:
    """Writes every card below `folder`; returns their names."""
    names = []
    for name, text, matrix in cards(results):
        (folder / name).mkdir(parents=True, exist_ok=True)
        draw_matrix(matrix, folder / name)
        (folder / name / CARD).write_text(text, encoding="utf-8")
        names.append(name)
    return names


def check(results: Path, folder: Path) -> list[str]:
    """What is wrong with the cards below `folder`. Of pictures only that they are there: another version of matplotlib
    draws other pixels."""
    problems, names = [], set()
    for name, text, _ in cards(results):
        names.add(name)
        card = folder / name / CARD
        if not card.is_file() or card.read_text(encoding="utf-8") != text:
            problems.append(f"{name}/{CARD} is not what its record gives")
        shown = [picture for picture in (PICTURE, CONFUSION) if f"({picture})" in text]
        problems += [f"{name}/{picture} is missing" for picture in shown if not (folder / name / picture).is_file()]
    there = {card.parent.name for card in folder.glob(f"*/{CARD}")}
    return problems + [f"{name}/{CARD} has no record" for name in sorted(there - names)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, and fail where a card is out of date")
    if not parser.parse_args().check:
        for name in render(RESULTS, HERE):
            print(f"{name}/{CARD}")
    elif problems := check(RESULTS, HERE):
        raise SystemExit("\n".join([*problems, "Run `python model_cards/render.py`."]))


if __name__ == "__main__":
    main()
