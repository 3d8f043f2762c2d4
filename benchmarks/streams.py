"""The real data of the benchmarks: data sets, the tasks that are cut from them, and the streams these make.

A data set is read from `data_dir` (one folder a data set, as `load_dataset` reads it) or, without it, from the Hub.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, load_dataset
from label_names import BANKING77, CIFAR10, CIFAR100, DBPEDIA, INTENTS, NEWSGROUPS, SUPERCLASSES

SHIPPED = Path(__file__).parents[1] / "recipes" / "data"
TEXT = {"text": "text", "label": "label"}


@dataclass(frozen=True)
class Source:
    """A data set: its place on the Hub and the columns of its tasks.

    Args:
        hub_id (`str`, *optional*): Without it, the data set is read from a folder only.
        config (`str`, *optional*): Its configuration on the Hub.
        test (`str`): What its test split is called on the Hub.
        columns (`dict[str, str]`): Role to column.
        renamed (`dict[str, str]`): Columns that carry another name on the Hub.
        kind (`str`): Kind of its tasks.
        names (`list[str]`, *optional*): Its label names, where its files have only numbers.
    """

    hub_id: str | None = None
    config: str | None = None
    test: str = "test"
    columns: dict[str, str] = field(default_factory=lambda: dict(TEXT))
    renamed: dict[str, str] = field(default_factory=dict)
    kind: str = "text-classification"
    names: list[str] | None = None


IMAGE = {"image": "image", "label": "label"}
SPANS = {"question": "question", "context": "context", "answers": "answers"}
SOURCES = {
    "sst2": Source("stanfordnlp/sst2", test="validation", renamed={"sentence": "text"}),
    "ag_news": Source("fancyzhx/ag_news"),
    "trec": Source("CogComp/trec", renamed={"coarse_label": "label"}),
    "dbpedia14": Source("fancyzhx/dbpedia_14", renamed={"content": "text"}),
    "sms_spam": Source("ucirvine/sms_spam", renamed={"sms": "text"}),
    "boolq": Source(
        "google/boolq",
        test="validation",
        columns={"text": "question", "text_pair": "passage", "label": "label"},
        renamed={"answer": "label"},
    ),
    "imdb": Source("stanfordnlp/imdb"),
    "newsgroups20": Source("SetFit/20_newsgroups"),
    # Rows that belong to no intent have a label of their own there, which no task names.
    "clinc150": Source("clinc/clinc_oos", config="plus", renamed={"intent": "label"}),
    "banking77": Source("legacy-datasets/banking77"),
    "squad": Source("rajpurkar/squad", test="validation", columns=SPANS, kind="question-answering"),
    # On the Hub only in other selections.
    "amazon5": Source(),
    "sentiment_sentences": Source(names=["negative", "positive"]),
    "mnist": Source("ylecun/mnist", columns=IMAGE, kind="image-classification"),
    "cifar10": Source("uoft-cs/cifar10", columns=IMAGE, renamed={"img": "image"}, kind="image-classification"),
    "cifar100": Source(
        "uoft-cs/cifar100",
        columns=IMAGE,
        renamed={"img": "image", "fine_label": "label"},
        kind="image-classification",
    ),
}


@dataclass(frozen=True)
class Cut:
    """What a task takes of a data set.

    Args:
        data (`str`): Name of the data set.
        labels (`dict[str, tuple[str, ...]]`, *optional*): Label of the task → labels of the data set that it stands
            for; rows of other labels are left out. Without it, all labels as they are.
        half (`int`, *optional*): 0 or 1: the task takes one half of the training rows.
        column (`str`, *optional*): Reads the labels from this column of the shipped data.
        rare (`str`, *optional*): A label of which only a tenth of the training rows is taken.
    """

    data: str
    labels: dict[str, tuple[str, ...]] | None = None
    half: int | None = None
    column: str | None = None
    rare: str | None = None


def _kept(*names: str) -> dict[str, tuple[str, ...]]:
    return {name: (name,) for name in names}


def _groups(data: str, names: list[str], size: int) -> dict[str, Cut]:
    """Tasks of `size` classes each; classes that are left over at the end have no task."""
    count = len(names) // size
    return {f"{data} {i + 1}": Cut(data, _kept(*names[i * size : (i + 1) * size])) for i in range(count)}


def _pairs(data: str, names: list[str]) -> dict[str, Cut]:
    return _groups(data, names, 2)


STARS = ("very negative", "negative", "neutral", "positive", "very positive")
TOPICS = ["Nikola_Tesla", "Chloroplast", "Rhine", "Doctor_Who"]

TASKS = {
    **{name: Cut(name) for name in SOURCES},
    "amazon": Cut("amazon5", {"negative": STARS[:2], "positive": STARS[3:]}),
    "amazon 1 or 5": Cut("amazon5", _kept(STARS[0], STARS[4])),
    "amazon 2 or 4": Cut("amazon5", _kept(STARS[1], STARS[3])),
    "amazon 2 or 3": Cut("amazon5", _kept(STARS[1], STARS[2])),
    **{
        f"{name}, {part}": Cut(name, half=i)
        for name in ("sst2", "ag_news")
        for i, part in enumerate(("first", "again"))
    },
    **_pairs("dbpedia14", DBPEDIA),
    **{
        f"dbpedia14 {i + 1}, imbalanced": Cut("dbpedia14", _kept(*DBPEDIA[2 * i : 2 * i + 2]), rare=DBPEDIA[2 * i + 1])
        for i in range(7)
    },
    "clinc150": Cut("clinc150", _kept(*",".join(INTENTS.values()).split(","))),
    **{f"clinc150 {name}": Cut("clinc150", _kept(*names.split(","))) for name, names in INTENTS.items()},
    **_groups("banking77", BANKING77, 7),
    **_pairs("newsgroups20", NEWSGROUPS),
    **_pairs("ag_news", ["World", "Sports", "Business", "Sci/Tech"]),
    **_pairs("trec", ["ABBR", "ENTY", "DESC", "HUM", "LOC", "NUM"]),
    **_pairs("mnist", [str(digit) for digit in range(10)]),
    **_pairs("cifar10", CIFAR10),
    **_groups("cifar100", CIFAR100, 10),
    **{name: Cut("cifar100", _kept(*names.split(","))) for name, names in SUPERCLASSES.items()},
    # Of the data that ships with the repository: which article of Wikipedia is a question about?
    "topics": Cut("squad", _kept(*TOPICS), column="title"),
}

STREAMS = {
    "domains": ["sst2", "ag_news", "trec", "dbpedia14", "sms_spam", "boolq"],
    "lookalikes": ["sst2", "imdb", "amazon", "sentiment_sentences"],
    "classes": [f"dbpedia14 {i}" for i in range(1, 8)],
    "classes20": [f"newsgroups20 {i}" for i in range(1, 11)],
    "mixed": ["sentiment_sentences", "squad", "ag_news", "boolq"],
    "return": ["sst2, first", "ag_news, first", "trec", "sst2, again", "dbpedia14", "ag_news, again"],
    "long": [
        *(f"dbpedia14 {i}" for i in range(1, 8)),
        *(f"newsgroups20 {i}" for i in range(1, 11)),
        *(f"ag_news {i}" for i in range(1, 3)),
        *(f"trec {i}" for i in range(1, 4)),
        *("amazon 1 or 5", "amazon 2 or 4", "amazon 2 or 3"),
        *("sst2", "imdb", "sms_spam", "boolq", "sentiment_sentences"),
    ],
    "intents": [f"clinc150 {name}" for name in INTENTS],
    "banking": [f"banking77 {i}" for i in range(1, 12)],
    # Every other class has a tenth of its rows.
    "classes_imbalanced": [f"dbpedia14 {i}, imbalanced" for i in range(1, 8)],
    # Of images.
    "mnist": [f"mnist {i}" for i in range(1, 6)],
    "cifar10": [f"cifar10 {i}" for i in range(1, 6)],
    "cifar100": [f"cifar100 {i}" for i in range(1, 11)],
    "superclasses": list(SUPERCLASSES),
    # Of the shipped data alone, for a run of a minute.
    "shipped": ["sentiment_sentences", "topics"],
    "shipped_reversed": ["topics", "sentiment_sentences"],
}


def stream(name: str, order: int) -> list[str]:
    """The tasks of a stream. Order 0 is the one it is listed in, the others are drawn."""
    tasks = list(STREAMS[name])
    if order:
        Random(order).shuffle(tasks)
    return tasks


def load_task(
    name: str, data_dir: str | None, seed: int, train_size: int, validation_share: float = 0.1, test_size: int = 1000
) -> dict[str, Any]:
    """Reads one task and draws its parts.

    The validation part is drawn from the training split beside the training texts; where a data set has fewer than
    `train_size * (1 + validation_share)` training texts, both parts shrink in proportion. Test texts are never used to
    choose anything.

    Returns:
        The keyword arguments of a `Task`: `name`, `kind`, `train`, `validation`, `test`, `columns`.
    """
    cut = TASKS[name]
    source = SOURCES[cut.data]
    train, test = _splits(cut, source, data_dir)
    if cut.half is not None:
        # Halves of one fixed order, so that no text is in both whatever the seed.
        train = train.shuffle(seed=0)
        middle = len(train) // 2
        train = train.select(range(middle) if cut.half == 0 else range(middle, len(train)))
    train, test = train.shuffle(seed=seed), test.shuffle(seed=0)
    if cut.rare is not None:
        train = _thinned(train, cut.rare)
    n_train = min(train_size, int(len(train) / (1 + validation_share)))
    n_validation = int(n_train * validation_share)
    return {
        "name": name,
        "kind": "text-classification" if cut.column else source.kind,
        "train": train.select(range(n_train)),
        "validation": train.select(range(n_train, n_train + n_validation)),
        "test": test.select(range(min(test_size, len(test)))),
        "columns": dict(TEXT) if cut.column else source.columns,
    }


def _thinned(data: Dataset, rare: str) -> Dataset:
    """The rows without the last nine tenths of those with a label."""
    labels = np.array(data["label"])
    rows = np.flatnonzero(labels == data.features["label"].str2int(rare))
    return data.select(np.setdiff1d(np.arange(len(labels)), rows[len(rows) // 10 :]))


def _splits(cut: Cut, source: Source, data_dir: str | None) -> tuple[Dataset, Dataset]:
    """Training and test rows of a task, with the labels it has."""
    if cut.column:
        # Its test split is of other articles.
        data = load_dataset(str(SHIPPED / cut.data))["train"]
        first = {text: i for i, text in reversed(list(enumerate(data["question"])))}
        parts = data.select(sorted(first.values())).train_test_split(test_size=0.3, seed=0)
        parts = parts.rename_columns({"question": "text", cut.column: "label"}).select_columns(["text", "label"])
        train, test = parts["train"], parts["test"]
    else:
        data = _read(cut.data, source, data_dir)
        columns = list(source.columns.values())
        train, test = (data[part].select_columns(columns) for part in ("train", "test"))
    if source.names:
        train, test = (part.cast_column("label", ClassLabel(names=source.names)) for part in (train, test))
    if cut.labels is None:
        return train, test
    return _relabelled(train, cut.labels), _relabelled(test, cut.labels)


def _read(name: str, source: Source, data_dir: str | None) -> Any:
    if data_dir is not None:
        folder = Path(data_dir) / name
        if not folder.is_dir():
            raise SystemExit(f"`{folder}` is no folder: `--data_dir` needs one of each data set, here of `{name}`.")
        return load_dataset(str(folder))
    if (SHIPPED / name).exists():
        return load_dataset(str(SHIPPED / name))
    if source.hub_id is None:
        raise SystemExit(f"`{name}` is read from a folder only: give `--data_dir`.")
    data = load_dataset(source.hub_id, source.config).rename_columns(source.renamed)
    return {"train": data["train"], "test": data[source.test]}


def _relabelled(data: Dataset, labels: dict[str, tuple[str, ...]]) -> Dataset:
    """The rows whose label stands for one of the task's, with the task's labels."""
    new = {old: i for i, group in enumerate(labels.values()) for old in group}
    feature = data.features["label"]
    names = [feature.int2str(i) for i in data["label"]] if isinstance(feature, ClassLabel) else list(data["label"])
    rows = data.select([i for i, label in enumerate(names) if label in new])
    kept = [new[label] for label in names if label in new]
    return rows.remove_columns("label").add_column("label", kept).cast_column("label", ClassLabel(names=list(labels)))
