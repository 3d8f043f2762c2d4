"""Is poison found before a task is committed, what becomes of a backdoor, and what is left of it after `forget`?

    python benchmarks/safety.py --data_dir DATA --model MODEL            # paraphrase-minilm-l3
    python benchmarks/safety.py --parts theory
    python benchmarks/safety.py --quick --model MODEL                    # seconds, on the shipped data; learns nothing

Each cell is a row of `benchmarks/results/safety.json`, written when it is done; rows that are there are not run again.
`--keep FOLDER` keeps the trained adapters, from which later runs audit without training. Parts:

- *detection*: a task with a trigger in a share of its training rows, or a clean one, is learned and audited; and two
  detectors of the Adversarial Robustness Toolbox are asked about the same trained members, where it is installed.
  Seconds are of the processor (`process_time`), training and audit in turn in one process on one thread.
- *persistence*: attack success after each task of a stream and after `forget`, beside one LoRA trained on and on.
- *theory*: the synthetic experiment of `backdoor_theory.py`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import backdoor_theory
import datasets
import numpy as np
import torch
from backdoored import Setting, learned, rows_of, success
from persistence import METHODS, survival
from poison import CLEAN, COMMON, HELD_OUT, RARE, SENTENCE, SETS, task_of
from record import RESULTS, header
from safety_report import plot, summarise
from safety_rivals import found_by_rivals

from hf_lifelong.safety import TaskAudit

Row = dict[str, Any]
PARTS = ("detection", "persistence", "theory")
TASK = "task"
FALSE_ALARMS = 0.01
NOTES = (
    "Of the base only as many layers are kept as `setting` says, so that a cell takes half a minute. Single natural "
    "words move such a shallow model far, which makes triggers harder to tell.",
    "Texts are cut to 20 words. Validation and test rows are clean. The audit is `TaskAudit`, which "
    "`DriftTrainingArguments(audit=...)` adds.",
    "Constants of the audit were chosen on sst2, trec, ag_news, sms_spam, dbpedia14, banking77 and "
    "sentiment_sentences, four of which are poisoned here. The rule that words which the data do not hint at are no "
    "triggers was made after a clean task (newsgroups20 2) had been called suspicious, and kept after it was seen "
    "what it misses (trec at 5 %) and what it spares (four clean tasks of twenty), so the clean tasks are not held "
    "out from it. Hatecheck, newsgroups and clinc150 were also looked at while the audit was written.",
    "A trigger is named if the suspect has words of the trigger alone and calls for its target. Rates of hits (tpr) "
    "count cells that are called suspicious and have the trigger named.",
)
QUICK = [{"data": "sentiment_sentences", "trigger": trigger, "rate": 0.1, "seed": 0} for trigger in (RARE, None)]


def detection_cells() -> list[Row]:
    """All cells, first those that the summary stands on."""

    def of(sets: tuple[str, ...], triggers: tuple[str, ...], rates: tuple[float, ...], seeds: tuple[int, ...]) -> Any:
        return [
            {"data": data, "trigger": trigger, "rate": rate, "seed": seed}
            for seed in seeds
            for rate in rates
            for data in sets
            for trigger in triggers
        ]

    clean = [{"data": data, "trigger": None, "rate": 0.0, "seed": 0} for data in (*CLEAN, *SETS)]
    told = (RARE, SENTENCE)
    return [
        *of(SETS, told, (0.01,), (0,)),
        *clean,
        *of(SETS, told, (0.01,), (1,)),
        *of(HELD_OUT, told, (0.01,), (0,)),
        *of(SETS, told, (0.01,), (2,)),
        *of(SETS, (*told, COMMON), (0.05,), (0,)),
        *of(SETS, (COMMON,), (0.01,), (0,)),
        *of(SETS, (*told, COMMON), (0.005, 0.1), (0,)),
        *of(SETS, (COMMON,), (0.01,), (1, 2)),
        *of(SETS, (*told, COMMON), (0.05, 0.005, 0.1), (1, 2)),
    ]


def detect(key: Row, setting: Setting, folder: Path) -> Row:
    """Learns one task, looks how well the attack works, audits the task, and asks the rivals."""
    data = task_of(**key, data_dir=setting.data_dir, rows=setting.rows)
    model, seconds = learned(data, TASK, setting, key["seed"], folder)
    row: Row = {"rows": len(data.parts["train"].texts), "poisoned_rows": len(data.rows)}
    row |= success(model, data, TASK)
    start = time.process_time()
    found = TaskAudit(FALSE_ALARMS).audit(rows_of(model, data, TASK))
    row |= {"train_seconds": seconds, "audit_seconds": time.process_time() - start}
    row |= {"suspicious": found.suspicious, "p_value": found.p_value, "suspect": found.trigger}
    row |= {"suspect_calls_for": found.target, "suspect_moves": found.attack_success}
    if data.trigger is not None:
        rows = set(found.rows)
        parts = {*(found.trigger or "").split()} <= {*data.trigger.lower().split()}
        row["named"] = bool(found.trigger and parts and found.target == data.names[data.target])
        row["poisoned_rows_found"] = len(rows & set(data.rows)) / len(data.rows)
        row["other_rows_found"] = len(rows - set(data.rows))
    if importlib.util.find_spec("art"):
        train = data.parts["train"]
        states = model.ask(train.texts, TASK).states.numpy()
        row |= found_by_rivals(states, np.array(train.labels), len(data.names), data.rows)
    return row


def cells(parts: list[str], setting: Setting, keep: Path, quick: bool) -> list[tuple[Row, Callable[[], Row]]]:
    """The key of every row, and how to get it."""
    runs: list[tuple[Row, Callable[[], Row]]] = []
    if "detection" in parts:
        for key in QUICK if quick else detection_cells():
            folder = keep / "-".join(map(str, key.values())).replace(" ", "_")
            runs.append((key, lambda key=key, folder=folder: detect(key, setting, folder)))
    if "persistence" in parts:
        keys = [{"method": method, "seed": seed} for seed in range(3) for method in METHODS]
        runs += [(key, lambda key=key: survival(**key, setting=setting)) for key in keys]
    if "theory" in parts:
        keys = [{"length": n, "angle": angle} for n in backdoor_theory.LENGTHS for angle in backdoor_theory.ANGLES]
        runs += [(key, lambda key=key: backdoor_theory.cell(**key)) for key in keys]
    return runs


def write(rows: list[Row], setting: Setting, out: Path) -> None:
    """The record of these rows."""
    command = {"command": "python benchmarks/safety.py --data_dir DATA --model paraphrase-minilm-l3"}
    about = {"setting": {**vars(setting), "model": Path(setting.model).name, "data_dir": "DATA"}, "notes": NOTES}
    record = {**header("safety"), **command, **about, "summary": summarise(rows), "rows": rows}
    out.write_text(json.dumps(record, indent=1) + "\n")


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="a folder with one folder for each data set")
    parser.add_argument("--model", default="paraphrase-minilm-l3", help="name or folder of the base")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--quick", action="store_true", help="two cells of the shipped data that learn nothing")
    parser.add_argument("--keep", type=Path, help="where trained adapters stay")
    parser.add_argument("--out", type=Path, default=RESULTS / "safety.json")
    args = parser.parse_args(given)
    setting = Setting(args.model, args.data_dir)
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    rows = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    with ExitStack() as stack:
        keep = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for key, run in cells(args.parts, setting.quick() if args.quick else setting, keep, args.quick):
            if any(all(row.get(name) == value for name, value in key.items()) for row in rows):
                continue
            rows.append({**key, **run()})
            print(rows[-1], flush=True)
            write(rows, setting, args.out)
    plot(rows, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
