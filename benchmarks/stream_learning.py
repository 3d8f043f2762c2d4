"""What is a stream worth that does not say where its tasks end, beside the same stream whose boundaries are told?

    python benchmarks/stream_learning.py --data_dir DATA --model MODEL --cells CELLS

Ten segments of six text sets, four of which return with other rows. One run finds the boundaries, the other is given
each segment as a task; both are then asked the test rows of all sets without being told the task. Each run is a file
in CELLS, and a killed benchmark goes on. Rows and summary go into the result of `boundaries.py`, whose other entries
stay.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from itertools import accumulate
from pathlib import Path
from statistics import mean
from typing import Any

import datasets
import torch
from datasets import Dataset
from peft import get_peft_model
from record import RESULTS, header
from streams import load_task
from transformers import AutoModel, AutoTokenizer

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, LifelongPipeline, Task, knowledge_of
from hf_lifelong.training import Boundary, StreamCallback

# No set twice in a row; the second visit of a set has other rows.
ORDER = [
    *("sst2", "ag_news", "trec", "dbpedia14", "sst2", "sms_spam", "ag_news", "newsgroups20", "trec", "dbpedia14"),
]
SEGMENT, TESTED = 300, 200


class Noted(StreamCallback):
    """Keeps the boundaries that were found."""

    def __init__(self) -> None:
        self.boundaries: list[Boundary] = []

    def on_boundary(self, boundary: Boundary) -> None:
        self.boundaries.append(boundary)


def segments(data_dir: str, seed: int) -> tuple[list[list[dict[str, str]]], dict[str, list[dict[str, str]]]]:
    """The rows of each segment, and the test rows of each set, with the names of labels."""
    visits, rows, tests = Counter(ORDER), {}, {}
    for name in visits:
        loaded = load_task(name, data_dir, seed, SEGMENT * visits[name], test_size=TESTED)
        columns = loaded["columns"]
        for part, target in (("train", rows), ("test", tests)):
            data = loaded[part].shuffle(seed=seed)
            names = getattr(data.features[columns["label"]], "names", None)
            labels = [names[label] if names else str(label) for label in data[columns["label"]]]
            texts = data[columns["text"]]
            target[name] = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    taken: Counter[str] = Counter()
    found = []
    for name in ORDER:
        size = len(rows[name]) // visits[name]
        found.append(rows[name][taken[name] * size : (taken[name] + 1) * size][:SEGMENT])
        taken[name] += 1
    return found, tests


def learn(args: argparse.Namespace, told: bool, seed: int) -> dict[str, Any]:
    """One run: accuracy on each set, and which groups were made."""
    parts, tests = segments(args.data_dir, seed)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    torch.manual_seed(seed)
    base = AutoModel.from_pretrained(args.model, dtype=torch.float32)
    model = get_peft_model(base, DriftAdapterConfig(r=8, members=3, max_length=64, stride=16))
    noted = Noted()
    with tempfile.TemporaryDirectory() as folder:
        training = DriftTrainingArguments(
            folder,
            num_train_epochs=args.epochs,
            per_device_train_batch_size=16,
            per_device_eval_batch_size=32,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            seed=seed,
        )
        if told:
            names = [f"segment-{number + 1}" for number in range(len(parts))]
            tasks = [
                Task(name, "text-classification", Dataset.from_list(rows))
                for name, rows in zip(names, parts, strict=True)
            ]
            given: dict[str, Any] = {"tasks": tasks}
        else:
            given = {"stream": [row for rows in parts for row in rows], "kind": "text-classification"}
        start = time.process_time()
        DriftTrainer(model, training, processing_class=tokenizer, callbacks=[noted], **given).train()
        seconds = time.process_time() - start
    answer = LifelongPipeline(model=model, tokenizer=tokenizer)
    accuracy = {name: accuracy_on(answer, rows) for name, rows in tests.items()}
    ends = list(accumulate(map(len, parts)))
    ended = {boundary.task: boundary.since for boundary in noted.boundaries}
    return {
        "accuracy": mean(accuracy.values()),
        "per_set": accuracy,
        "boundaries": [boundary.since for boundary in noted.boundaries],
        "true_boundaries": ends,
        **groups_of(model, ends, ended if not told else dict(zip(names, ends, strict=True))),
        "cpu_seconds": round(seconds, 1),
    }


def accuracy_on(answer: LifelongPipeline, rows: list[dict[str, str]]) -> float:
    answers = answer([row["text"] for row in rows])
    return mean(one["answer"] == row["label"] for one, row in zip(answers, rows, strict=True))


def groups_of(model: torch.nn.Module, ends: list[int], ended: dict[str, int]) -> dict[str, Any]:
    """How many groups there are, and how many of the learned tasks are where they belong: in the group that a task of
    the same set opened, or in a new one if their set is new. The set of a task is that of most of its rows."""
    of_group: dict[str, str] = {}
    start, right, tasks = 0, 0, knowledge_of(model).tasks
    for task in tasks:
        of_row = Counter(ORDER[sum(end <= at for end in ends)] for at in range(start, ended[task.name]))
        name, start = of_row.most_common(1)[0][0], ended[task.name]
        is_new = name not in of_group.values()
        right += is_new if task.group == task.name else of_group.get(task.group) == name
        of_group.setdefault(task.group, name)
    return {"groups": len(of_group), "true_groups": len(set(ORDER)), "tasks": len(tasks), "tasks_right": right}


def summarise(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    found = [row for name, row in rows.items() if name.startswith("learned, found")]
    told = [row for name, row in rows.items() if name.startswith("learned, told")]
    return {
        "accuracy_found": round(mean(row["accuracy"] for row in found), 4) if found else None,
        "accuracy_told": round(mean(row["accuracy"] for row in told), 4) if told else None,
        "groups_right": [f"{row['tasks_right']} of {row['tasks']}" for row in found],
        "groups_right_told": [f"{row['tasks_right']} of {row['tasks']}" for row in told],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--model", default="sentence-transformers/paraphrase-MiniLM-L3-v2")
    parser.add_argument("--cells", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "boundaries.json")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    args.cells.mkdir(parents=True, exist_ok=True)
    rows = {}
    for seed in range(args.seeds):
        for told in (False, True):
            name = f"learned, {'told' if told else 'found'}, {seed}"
            cell = args.cells / f"{name.replace(', ', '_')}.json"
            if not cell.exists():
                cell.write_text(json.dumps(learn(args, told, seed), indent=1) + "\n")
                print(name, cell.read_text(), flush=True)
            rows[name] = json.loads(cell.read_text())
    head = header("python benchmarks/stream_learning.py --data_dir DATA --model MODEL", args.model)
    known = json.loads(args.out.read_text()) if args.out.exists() else {**head, "rows": {}, "summary": {}}
    known["rows"] |= rows
    known["summary"] |= summarise(rows)
    known["learned"] = {**head, "epochs": args.epochs}
    args.out.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
