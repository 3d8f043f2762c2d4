"""Is poison found before a task is committed, what becomes of a backdoor, and what is left of it after `forget`?

    python benchmarks/safety.py --data_dir DATA --model MODEL --image_model IMAGE_MODEL
    python benchmarks/safety.py --parts theory
    python benchmarks/safety.py --quick --model MODEL                    # seconds, on the shipped data; learns nothing

Each cell is a row of `benchmarks/results/safety.json`, written when it is done; rows that are there are not run again.
`--merge FILE` adds the rows of another record first; `--parts` without a part runs none.
`--keep FOLDER` keeps the trained adapters, from which later runs audit without training. Parts:

- *detection*: a task with a trigger in a share of its training rows, or a clean one, is learned and audited; and two
  detectors of the Adversarial Robustness Toolbox are asked about the same trained members, where it is installed.
  Seconds are of the processor (`process_time`), training and audit in turn in one process on one thread.
- *persistence*: attack success after each task of a stream and after `forget`, beside one LoRA trained on and on.
- *images*: as detection, of image tasks with a patch in a corner. Their rows are marked `"modality": "image"`.
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
from functools import partial
from pathlib import Path
from typing import Any

import backdoor_theory
import datasets
import numpy as np
import torch
from backdoored import Setting, learned, rows_of, success
from persistence import METHODS, survival
from poison import CLEAN, COMMON, HELD_OUT, RARE, SENTENCE, SETS, TaskData, task_of
from poisoned_images import CLEAN as CLEAN_IMAGES
from poisoned_images import PATCH, ImageSetting, images_of
from poisoned_images import SETS as IMAGE_SETS
from record import RESULTS, header
from safety_report import plot, summarise
from safety_rivals import found_by_rivals

from hf_lifelong.safety import TaskAudit

Row = dict[str, Any]
PARTS = ("detection", "images", "persistence", "theory")
TASK = "task"
MODEL, IMAGE_MODEL = "paraphrase-minilm-l3", "dinov2-small"
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
    "Image tasks are four classes (one has two) of subsets of MNIST and CIFAR-10, on the first two layers of "
    "dinov2-small at 42 pixels; the patch is a checkerboard of 4 x 4 pixels in a corner. That colours are compared in "
    "steps of 16 was chosen on data (without a model) of mnist 0 1 2 3, all of mnist, cifar10 0 1 8 9, cifar10 0 8 "
    "and all of cifar10. CIFAR-10 has 250 images a class here, so that 1 % are eight images.",
    "A trigger is named if the suspect calls for its target and has words of the trigger alone, or covers at least "
    "half of the patch and no more than a pixel around it. Rates of hits (tpr) count cells that are called suspicious "
    "and have the trigger named.",
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


def image_cells() -> list[Row]:
    """All cells of images, first those that the summary stands on."""

    def of(rates: tuple[float, ...], seeds: tuple[int, ...]) -> list[Row]:
        keys = [(data, rate, seed) for seed in seeds for rate in rates for data in IMAGE_SETS]
        return [{"data": data, "trigger": PATCH, "rate": rate, "seed": seed} for data, rate, seed in keys]

    clean = [{"data": data, "trigger": None, "rate": 0.0, "seed": 0} for data in CLEAN_IMAGES]
    first = *of((0.01,), (0,)), *clean[:6], *of((0.05,), (0,)), *of((0.01,), (1,))
    return [*first, *clean[6:], *of((0.01,), (2,)), *of((0.1, 0.005), (0,)), *of((0.05, 0.1, 0.005), (1,))]


def detect(key: Row, data: TaskData, setting: Setting, folder: Path) -> Row:
    """Learns one task, looks how well the attack works, audits the task, and asks the rivals."""
    model, seconds = learned(data, TASK, setting, key["seed"], folder)
    row: Row = {"rows": len(data.parts["train"].inputs), "poisoned_rows": len(data.rows)}
    row |= success(model, data, TASK)
    start = time.process_time()
    found = TaskAudit(FALSE_ALARMS).audit(rows_of(model, data, TASK))
    row |= {"train_seconds": seconds, "audit_seconds": time.process_time() - start}
    row |= {"suspicious": found.suspicious, "p_value": found.p_value, "suspect": found.trigger and str(found.trigger)}
    row |= {"suspect_calls_for": found.target, "suspect_moves": found.attack_success}
    if data.trigger is not None:
        rows = set(found.rows)
        row["named"] = data.is_named(found.trigger) and found.target == data.names[data.target]
        row["poisoned_rows_found"] = len(rows & set(data.rows)) / len(data.rows)
        row["other_rows_found"] = len(rows - set(data.rows))
    if importlib.util.find_spec("art"):
        train = data.parts["train"]
        states = model.ask(train.inputs, TASK).states.numpy()
        row |= found_by_rivals(states, np.array(train.labels), len(data.names), data.rows)
    return row


def cells(
    parts: list[str], setting: Setting, images: ImageSetting, keep: Path, quick: bool
) -> list[tuple[Row, Callable[[], Row]]]:
    """The key of every row, and how to get it."""
    runs: list[tuple[Row, Callable[[], Row]]] = []
    if "detection" in parts:
        for key in QUICK if quick else detection_cells():
            folder = keep / "-".join(map(str, key.values())).replace(" ", "_")
            data = partial(task_of, **key, data_dir=setting.data_dir, rows=setting.rows)
            runs.append((key, lambda key=key, folder=folder, data=data: detect(key, data(), setting, folder)))
    if "images" in parts:
        for key in image_cells():
            folder = keep / "-".join(map(str, key.values())).replace(" ", "_")
            data = partial(images_of, **key, data_dir=images.data_dir, rows=images.rows)
            marked = {"modality": "image", **key}
            runs.append((marked, lambda key=key, folder=folder, data=data: detect(key, data(), images, folder)))
    if "persistence" in parts:
        keys = [{"method": method, "seed": seed} for seed in range(3) for method in METHODS]
        runs += [(key, lambda key=key: survival(**key, setting=setting)) for key in keys]
    if "theory" in parts:
        keys = [{"length": n, "angle": angle} for n in backdoor_theory.LENGTHS for angle in backdoor_theory.ANGLES]
        runs += [(key, lambda key=key: backdoor_theory.cell(**key)) for key in keys]
    return runs


def write(rows: list[Row], setting: Setting, images: ImageSetting, out: Path) -> None:
    """The record of these rows."""
    image_model = Path(images.model).name
    head = header(
        f"python benchmarks/safety.py --data_dir DATA --model MODEL --image_model {image_model}", setting.model
    )
    settings = [{**vars(one), "model": Path(one.model).name, "data_dir": "DATA"} for one in (setting, images)]
    about = {"setting": settings[0], "image_setting": settings[1], "notes": NOTES}
    record = {**head, **about, "summary": summarise(rows), "rows": rows}
    out.write_text(json.dumps(record, indent=1) + "\n")


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", help="a folder with one folder for each data set")
    parser.add_argument("--model", default=MODEL, help="name or folder of the base")
    parser.add_argument("--image_model", default=IMAGE_MODEL, help="name or folder of the base of images")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--quick", action="store_true", help="two cells of the shipped data that learn nothing")
    parser.add_argument("--keep", type=Path, help="where trained adapters stay")
    parser.add_argument("--merge", nargs="*", type=Path, default=[], help="further records whose rows are added")
    parser.add_argument("--out", type=Path, default=RESULTS / "safety.json")
    args = parser.parse_args(given)
    setting, images = Setting(args.model, args.data_dir), ImageSetting(args.image_model, args.data_dir)
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    records = [*([args.out] if args.out.exists() else []), *args.merge]
    rows: list[Row] = []
    for record in records:
        rows += [row for row in json.loads(record.read_text())["rows"] if row not in rows]
    if args.merge:
        write(rows, setting, images, args.out)
    with ExitStack() as stack:
        keep = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for key, run in cells(args.parts, setting.quick() if args.quick else setting, images, keep, args.quick):
            if any(all(row.get(name) == value for name, value in key.items()) for row in rows):
                continue
            rows.append({**key, **run()})
            print(rows[-1], flush=True)
            write(rows, setting, images, args.out)
    plot(rows, args.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
