"""Are boundaries found in a stream that does not announce them, how late, and at how many false alarms?

    python benchmarks/boundaries.py --data_dir DATA --model MODEL --cache CACHE

Only the frozen trunk matters here, so nothing is trained. Streams are drawn from test rows. `boundary_rivals.py` reads
`CACHE` for the other detectors. Rows of other parts and of other programs in the result file are kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from boundary_data import SEGMENT, TEN, Features, change, draw, features, pairs, visits
from record import RESULTS, header
from safetensors.torch import save_file

from hf_lifelong.knowledge import fit_signature
from hf_lifelong.streams import BoundaryDetector, Reference, coordinates_of_rows

RUN, WINDOW, RANK = 2000, 64, 128
BLURS = {"abrupt": 0.0, "blurred 10 %": 0.1, "blurred 50 %": 0.5}
NULLS, NULL_INPUTS = 4, 2000


def reference(rows: torch.Tensor, labels: torch.Tensor | None = None) -> Reference:
    classes = 1 if labels is None else int(labels.max()) + 1
    return Reference(fit_signature(rows, RANK, labels, classes), len(rows))


def first_alarm(detector: BoundaryDetector, stream: torch.Tensor) -> int | None:
    """Position of the first input at which a boundary is told."""
    return next((i for i, x in enumerate(stream) if detector.update(x).outcome != "same"), None)


def false_alarms(found: dict[str, Features], start: Callable[[str], BoundaryDetector], part: str) -> dict[str, Any]:
    """Inputs and alarms in streams of one set each, up to the first alarm of each."""
    per_set = {}
    for name in TEN:
        rows = found[name].test if part == "test" else found[name].train[1000:]
        alarms = inputs = 0
        for seed in range(NULLS):
            at = first_alarm(start(name), draw(rows, NULL_INPUTS, np.random.default_rng(seed)))
            alarms, inputs = alarms + (at is not None), inputs + (NULL_INPUTS if at is None else at + 1)
        per_set[name] = {"inputs": inputs, "alarms": alarms}
    total = {key: sum(one[key] for one in per_set.values()) for key in ("inputs", "alarms")}
    return {**total, "per_set": per_set}


def false_alarm_rows(found: dict[str, Features]) -> Iterable[tuple[str, Callable[[], dict[str, Any]]]]:
    known = {name: reference(found[name].train[:1000], found[name].labels[:1000]) for name in TEN}

    def first(name: str) -> BoundaryDetector:
        return BoundaryDetector(expected_run=RUN)

    def stored(name: str) -> BoundaryDetector:
        return BoundaryDetector(known, name, expected_run=RUN)

    yield "false alarms, first window", lambda: false_alarms(found, first, "test")
    yield "false alarms, stored statistics", lambda: false_alarms(found, stored, "train")
    yield "false alarms, stored statistics, test rows", lambda: false_alarms(found, stored, "test")


def delay_rows(found: dict[str, Features]) -> Iterable[tuple[str, Callable[[], dict[str, Any]]]]:
    domains = [name for name in found if name.startswith("clinc150")]
    sets = [*pairs(), *(("clinc150", a, b) for a in domains for b in domains if a != b)]
    same = [("same texts, other labels", name, name) for name in TEN]

    def run(which: str, blur: float) -> dict[str, Any]:
        delays, early = [], 0
        for kind, old, new in [*sets, *same]:
            if kind != which:
                continue
            at = first_alarm(BoundaryDetector(expected_run=RUN), pair_stream(found, old, new, blur))
            if at is not None and at < SEGMENT:
                early += 1
            else:
                delays.append(None if at is None else at - SEGMENT + 1)
        return {"delays": delays, "early": early}

    for which in ("unlike", "lookalike", "clinc150"):
        for kind, blur in BLURS.items():
            yield f"delays, {which}, {kind}", lambda which=which, blur=blur: run(which, blur)
    yield "delays, same texts, other labels, abrupt", lambda: run("same texts, other labels", 0.0)


def pair_stream(found: dict[str, Features], old: str, new: str, blur: float) -> torch.Tensor:
    rng = np.random.default_rng(abs(hash_of(f"{old} {new}")))
    rows = draw(found[old].test, SEGMENT, rng)
    return torch.cat([rows, change(found[old].test, found[new].test, blur, rng)])


def hash_of(text: str) -> int:
    return int.from_bytes(text.encode()[-8:], "little") % 2**31 + len(text)


def follow(found: dict[str, Features], names: list[str], blur: float, seed: int) -> dict[str, Any]:
    """A stream of 30 segments whose tasks the detector finds itself: the inputs of each stretch that it tells apart
    become the statistics of a group, and later ones may return to it."""
    rng = np.random.default_rng(seed)
    order = visits(names, 3, rng)
    segments = [draw(found[order[0]].test, SEGMENT, rng)]
    segments += [change(found[a].test, found[b].test, blur, rng) for a, b in pairwise(order)]
    stream = torch.cat(segments)
    detector, start, current = BoundaryDetector(expected_run=RUN), 0, None
    truth_of: dict[str, str] = {}
    events = []
    for i, x in enumerate(stream):
        verdict = detector.update(x)
        if verdict.outcome == "same":
            continue
        if current is None and verdict.since - start >= 2:
            current = f"group {len(truth_of)}"
            truth_of[current] = majority(order, start, verdict.since)
            detector.learn(current, reference(stream[start : verdict.since]))
        current, start = verdict.group, verdict.since
        detector.begin(current)
        events.append((i, verdict.outcome, verdict.group and truth_of[verdict.group]))
    groups = len(truth_of) + (current is None)
    return {"seed": seed, "groups": groups, **matched(order, events)}


def majority(order: list[str], start: int, stop: int) -> str:
    inside = [order[min(i, len(order) * SEGMENT - 1) // SEGMENT] for i in range(start, max(stop, start + 1))]
    return max(set(inside), key=inside.count)


def matched(order: list[str], events: list[tuple[int, str, str | None]]) -> dict[str, Any]:
    """What was told after each boundary: the first event of a segment is its detection, others are false."""
    delays, returns, right, new, new_right, false = [], 0, 0, 0, 0, 0
    for k in range(len(order)):
        inside = [event for event in events if event[0] // SEGMENT == k]
        if k == 0:
            false += len(inside)
            continue
        false += max(len(inside) - 1, 0)
        delays.append(inside[0][0] - k * SEGMENT + 1 if inside else None)
        # What the stream is said to show at the end of the segment.
        told = inside[-1][1:] if inside else (None, None)
        if order[k] in order[:k]:
            returns, right = returns + 1, right + (told == ("return", order[k]))
        else:
            new, new_right = new + 1, new_right + (told[0] == "new")
    return {
        "delays": delays,
        "false": false,
        "returns": returns,
        "returns_recognised": right,
        "new": new,
        "new_recognised": new_right,
    }


def stream_rows(found: dict[str, Features], seeds: int) -> Iterable[tuple[str, Callable[[], dict[str, Any]]]]:
    domains = [name for name in found if name.startswith("clinc150")]
    for which, names in (("ten sets", TEN), ("clinc150", domains)):
        for kind, blur in BLURS.items():
            for seed in range(seeds):
                yield (
                    f"30 segments, {which}, {kind}, {seed}",
                    lambda names=names, blur=blur, seed=seed: follow(found, names, blur, seed),
                )


def cost_row(found: dict[str, Features], model_name: str) -> dict[str, Any]:
    """CPU time of an update over that of a forward pass of one input of 64 tokens, in alternation."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(model_name, dtype=torch.float32).eval()
    ids = torch.randint(1000, 20000, (1, 64), generator=torch.Generator().manual_seed(0))
    known = {name: reference(found[name].train[:1000]) for name in TEN}
    detector, stream = (
        BoundaryDetector(known, "imdb", expected_run=10**6),
        draw(found["imdb"].test, 1200, np.random.default_rng(0)),
    )
    ratios, spent = [], [0.0, 0.0]
    with torch.inference_mode():
        for i, x in enumerate(stream):
            times = [time.process_time()]
            detector.update(x)
            times.append(time.process_time())
            model(input_ids=ids)
            times.append(time.process_time())
            if i >= 200:
                spent = [spent[0] + times[1] - times[0], spent[1] + times[2] - times[1]]
            if i >= 200 and i % 100 == 99:
                ratios.append(spent[0] / spent[1])
                spent = [0.0, 0.0]
    return {"share_of_forward": statistics.median(ratios), "of_blocks": [round(r, 4) for r in ratios]}


def write_cache(found: dict[str, Features], cache: Path) -> None:
    """Streams of single statistics and of features for `boundary_rivals.py`."""
    single: dict[str, np.ndarray] = {}
    rows: dict[str, torch.Tensor] = {}
    for name in TEN:
        for seed in range(NULLS):
            rows[f"null/{name}/{seed}"] = draw(found[name].test, NULL_INPUTS, np.random.default_rng(seed))
    for kind, blur in BLURS.items():
        for which, old, new in pairs():
            rows[f"{which}, {kind}/{old}/{new}"] = pair_stream(found, old, new, blur)
    for name, stream in rows.items():
        coordinates = coordinates_of_rows(stream[:WINDOW])
        levelled = coordinates.levelled(stream - coordinates.centre).double()
        cosine = torch.nn.functional.cosine_similarity(stream, stream[:WINDOW].mean(0, keepdim=True))
        single[name] = np.stack([levelled.square().sum(1).numpy(), cosine.double().numpy()])
    np.savez(cache / "single.npz", **single)
    keep = {n: r.half() for n, r in rows.items() if ", blurred" not in n and not n.endswith(("/2", "/3"))}
    save_file(keep, cache / "streams.safetensors")


def median(delays: list[int | None]) -> float | None:
    """Of all boundaries; one that was missed counts as later than all others."""
    return statistics.median(SEGMENT if d is None else d for d in delays) if delays else None


def summarise(rows: dict[str, dict[str, Any]], kept: dict[str, Any]) -> dict[str, Any]:
    def delays(which: str, kind: str = "abrupt") -> float | None:
        row = rows.get(f"delays, {which}, {kind}")
        return median(row["delays"]) if row else None

    def run(which: str) -> float | None:
        row = rows.get(f"false alarms, {which}")
        return round(row["inputs"] / max(row["alarms"], 1)) if row else None

    long = {name: row for name, row in rows.items() if name.startswith("30 segments")}

    def share(part: str, of: str, which: str) -> float | None:
        inside = [row for name, row in long.items() if which in name]
        total = sum(row[of] for row in inside)
        return round(sum(row[part] for row in inside) / total, 4) if total else None

    def groups(which: str) -> list[int]:
        return [row["groups"] for name, row in long.items() if which in name]

    same = rows.get("delays, same texts, other labels, abrupt")
    cost = rows.get("cost")
    return {
        "median_delay_unlike": delays("unlike"),
        "median_delay_lookalike": delays("lookalike"),
        "median_delay_clinc150": delays("clinc150"),
        **{
            f"median_delay_{which}_{kind.replace(' %', '').replace(' ', '_')}": delays(which, kind)
            for which in ("unlike", "lookalike")
            for kind in list(BLURS)[1:]
        },
        "inputs_per_false_alarm": run("first window"),
        "inputs_per_false_alarm_stored": run("stored statistics"),
        "inputs_per_false_alarm_stored_test_rows": run("stored statistics, test rows"),
        "returns_recognised": share("returns_recognised", "returns", "ten sets, abrupt"),
        "returns_recognised_blurred_10": share("returns_recognised", "returns", "ten sets, blurred 10 %"),
        "returns_recognised_blurred_50": share("returns_recognised", "returns", "ten sets, blurred 50 %"),
        "returns_recognised_clinc150": share("returns_recognised", "returns", "clinc150, abrupt"),
        "groups_of_ten": groups("ten sets, abrupt"),
        "groups_of_ten_blurred_10": groups("ten sets, blurred 10 %"),
        "groups_of_ten_blurred_50": groups("ten sets, blurred 50 %"),
        "groups_of_ten_clinc150": groups("clinc150, abrupt"),
        "same_texts_other_labels_missed": None
        if same is None
        else round(sum(d is None for d in same["delays"]) / (len(same["delays"]) + same["early"]), 4),
        "share_of_forward": cost and round(cost["share_of_forward"], 4),
        # Of the run that learns, which fills them in.
        "accuracy_found": kept.get("accuracy_found"),
        "accuracy_told": kept.get("accuracy_told"),
        "rivals": kept.get("rivals", {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", required=True)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--cache", type=Path, required=True, help="folder of features and streams")
    parser.add_argument("--rivals", type=Path, nargs="*", default=[], help="what `boundary_rivals.py` wrote")
    parser.add_argument("--only", nargs="*", default=[""], help="beginnings of the names of the rows that are run")
    parser.add_argument("--again", nargs="*", default=[], help="beginnings of the names of rows that are run again")
    parser.add_argument("--write_streams", action="store_true", help="write what `boundary_rivals.py` reads, no more")
    parser.add_argument("--seeds", type=int, default=3, help="streams of 30 segments of each kind")
    parser.add_argument("--out", type=Path, default=RESULTS / "boundaries.json")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    found = features(args.data_dir, args.model, args.cache)
    if args.write_streams:
        write_cache(found, args.cache)
        return
    cells = [
        *false_alarm_rows(found),
        *delay_rows(found),
        *stream_rows(found, args.seeds),
        ("cost", lambda: cost_row(found, args.model)),
    ]
    known = json.loads(args.out.read_text()) if args.out.exists() else {"rows": {}, "summary": {}}
    rows, kept = known["rows"], known["summary"]
    for file in args.rivals:
        kept.setdefault("rivals", {}).update(json.loads(file.read_text()))
    rows = {name: row for name, row in rows.items() if not any(name.startswith(again) for again in args.again)}

    def write() -> None:
        head = header("python benchmarks/boundaries.py --data_dir DATA --model MODEL", args.model)
        summary = {**kept, **summarise(rows, kept)}
        args.out.write_text(json.dumps({**head, "summary": summary, "rows": rows}, indent=1) + "\n")

    for name, run in cells:
        if name not in rows and name.startswith(tuple(args.only)):
            start = time.process_time()
            rows[name] = {**run(), "cpu_seconds": round(time.process_time() - start, 1)}
            write()
            print(name, rows[name]["cpu_seconds"], flush=True)
    write()


if __name__ == "__main__":
    main()
