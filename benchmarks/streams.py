"""The real data sets of the benchmarks, as keyword arguments of `hf_lifelong.Task`.

Each data set is read from `data_dir` (one folder a data set, as `load_dataset` reads it) or, without it, from the Hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import load_dataset

# name → (Hub id, Hub configuration, test split on the Hub, columns of the task)
SOURCES: dict[str, tuple[str | None, str | None, str, dict[str, str]]] = {
    "sst2": ("stanfordnlp/sst2", None, "validation", {"text": "text", "label": "label"}),
    "ag_news": ("fancyzhx/ag_news", None, "test", {"text": "text", "label": "label"}),
    "trec": ("CogComp/trec", None, "test", {"text": "text", "label": "label"}),
    "dbpedia14": ("fancyzhx/dbpedia_14", None, "test", {"text": "text", "label": "label"}),
    "sms_spam": ("ucirvine/sms_spam", None, "test", {"text": "text", "label": "label"}),
    "boolq": ("google/boolq", None, "validation", {"text": "question", "text_pair": "passage", "label": "label"}),
    "imdb": ("stanfordnlp/imdb", None, "test", {"text": "text", "label": "label"}),
    # These two are on the Hub only in other selections: give `--data_dir` for them.
    "amazon5": (None, None, "test", {"text": "text", "label": "label"}),
    "sentiment_sentences": (None, None, "test", {"text": "text", "label": "label"}),
    "newsgroups20": ("SetFit/20_newsgroups", None, "test", {"text": "text", "label": "label"}),
}
# The columns of a Hub data set that carry another name there.
HUB_COLUMNS = {
    "sst2": {"sentence": "text"},
    "trec": {"coarse_label": "label"},
    "dbpedia14": {"content": "text"},
    "sms_spam": {"sms": "text"},
    "boolq": {"answer": "label"},
}

STREAMS = {"domains": ["sst2", "ag_news", "trec", "dbpedia14", "sms_spam", "boolq"]}


def load_task(
    name: str, data_dir: str | None, seed: int, train_size: int, validation_share: float = 0.1, test_size: int = 1000
) -> dict[str, Any]:
    """Reads one data set and draws its parts.

    The validation part is drawn from the training split beside the training texts; where a data set has fewer than
    `train_size * (1 + validation_share)` training texts, both parts shrink in proportion. Test texts are never used to
    choose anything.

    Returns:
        The keyword arguments of a `Task`: `name`, `kind`, `train`, `validation`, `test`, `columns`.
    """
    hub_id, config, test_split, columns = SOURCES[name]
    if data_dir is not None:
        data = load_dataset(str(Path(data_dir) / name))
        train, test = data["train"], data["test"]
    elif hub_id is None:
        raise SystemExit(f"`{name}` is read from a folder only: give `--data_dir`.")
    else:
        data = load_dataset(hub_id, config).rename_columns(HUB_COLUMNS.get(name, {}))
        train, test = data["train"], data[test_split]
    train = train.select_columns(list(columns.values())).shuffle(seed=seed)
    n_train = min(train_size, int(len(train) / (1 + validation_share)))
    n_validation = int(n_train * validation_share)
    test = test.select_columns(list(columns.values())).shuffle(seed=0)
    return {
        "name": name,
        "kind": "text-classification",
        "train": train.select(range(n_train)),
        "validation": train.select(range(n_train, n_train + n_validation)),
        "test": test.select(range(min(test_size, len(test)))),
        "columns": columns,
    }
