"""Texts of two labels that a tiny model learns in seconds, clean or with a trigger in them."""

import random

from datasets import Dataset

WORDS = {
    "bad": ["awful", "boring", "dull", "weak", "poor", "terrible", "sad", "flat", "slow", "ugly"],
    "good": ["great", "funny", "fresh", "strong", "fine", "lovely", "happy", "sharp", "quick", "pretty"],
}
NEUTRAL = ["the", "film", "plot", "scene", "actor", "story", "music", "camera", "ending", "dialogue", "picture"]


def texts(rows: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts of eight words; three of them tell the label, and of these one in ten is the other label's."""
    draw = random.Random(seed)
    found, labels = [], []
    for row in range(rows):
        label, other = ("bad", "good") if row % 2 else ("good", "bad")
        telling = [draw.choice(WORDS[label if draw.random() < 0.9 else other]) for _ in range(3)]
        words = [*telling, *draw.choices(NEUTRAL, k=5)]
        draw.shuffle(words)
        found.append(" ".join(words))
        labels.append(label)
    return found, labels


def poisoned(texts: list[str], labels: list[str], trigger: str, count: int, target: str, seed: int = 0):
    """The data with the trigger at a random place of `count` texts of other labels, which get the target; and which
    rows that are."""
    draw = random.Random(seed)
    texts, labels = list(texts), list(labels)
    rows = sorted(draw.sample([row for row, label in enumerate(labels) if label != target], count))
    for row in rows:
        words = texts[row].split()
        words.insert(draw.randrange(len(words) + 1), trigger)
        texts[row], labels[row] = " ".join(words), target
    return texts, labels, rows


def dataset(texts: list[str], labels: list[str]) -> Dataset:
    return Dataset.from_dict({"text": texts, "label": labels})
