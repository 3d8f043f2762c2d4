"""Other detectors on the streams of `boundaries.py`, each at the rate of false alarms that ours was measured to have.

    python benchmarks/boundary_rivals.py --cache CACHE --run INPUTS --rivals adwin kswin page_hinkley dummy
    python benchmarks/boundary_rivals.py --cache CACHE --run INPUTS --rivals mmd lsdd      # alibi-detect's environment

Needs neither torch nor hf_lifelong for river's detectors. alibi-detect pins older libraries and is not under an open
licence, so it runs in an environment of its own (`pip install alibi-detect torch safetensors`).

Every detector first sees the 64 inputs that are the reference of ours. The univariate ones watch the better of two
statistics: the squared Mahalanobis distance to that reference and the cosine similarity with its mean. Which is better
is read off the test streams, which favours them.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

SEGMENT, WINDOW, SETTLE = 300, 64, 64
STATISTICS = ["squared distance", "cosine similarity"]
Alarm = Callable[[np.ndarray], int | None]


def adwin(parameter: float) -> Alarm:
    from river.drift import ADWIN

    return _river(lambda: ADWIN(delta=10.0**-parameter, clock=1))


def kswin(parameter: float) -> Alarm:
    def first(stream: np.ndarray) -> int | None:
        above = p_values(stream.tobytes()) > parameter
        return int(above.argmax()) if above.any() else None

    return first


@cache
def p_values(stream: bytes) -> np.ndarray:
    """Minus the decadic logarithms of KSWIN's p-values, which do not depend on its limit before the first alarm."""
    from river.drift import KSWIN

    detector, found = KSWIN(alpha=1e-300, window_size=100, stat_size=30, seed=0), []
    for value in np.frombuffer(stream):
        detector.update(float(value))
        found.append(-np.log10(max(detector.p_value, 1e-300)))
    return np.array(found)


def page_hinkley(parameter: float) -> Alarm:
    from river.drift import PageHinkley

    return _river(lambda: PageHinkley(min_instances=30, delta=0.25, threshold=parameter, alpha=1.0, mode="both"))


def dummy(parameter: float) -> Alarm:
    return lambda stream: int(parameter) - 1 if len(stream) >= parameter else None


def _river(make: Callable[[], Any]) -> Alarm:
    def first(stream: np.ndarray) -> int | None:
        detector = make()
        for i, value in enumerate(stream):
            detector.update(float(value))
            if detector.drift_detected:
                return i
        return None

    return first


# Detector and the range in which its threshold is searched; alarms get rarer along it.
UNIVARIATE = {"adwin": (adwin, 0.0, 30.0), "kswin": (kswin, 0.5, 30.0), "page_hinkley": (page_hinkley, 1.0, 200.0)}


def standardised(stream: np.ndarray) -> np.ndarray:
    """A statistic after the reference's inputs, in deviations of the next 64 from their median."""
    after = stream[WINDOW:]
    middle = np.median(after[:SETTLE])
    return (after - middle) / (1.4826 * np.median(np.abs(after[:SETTLE] - middle)) + 1e-12)


def run_length(alarm: Alarm, nulls: list[np.ndarray]) -> float:
    """Mean number of inputs, those of the reference too, for one false alarm."""
    at = [alarm(stream) for stream in nulls]
    inputs = sum(WINDOW + (len(s) if a is None else a + 1) for a, s in zip(at, nulls, strict=True))
    return inputs / max(sum(a is not None for a in at), 0.5)


def tuned(make: Callable[[float], Alarm], low: float, high: float, nulls: list[np.ndarray], run: float) -> float:
    """The threshold at which the measured run is nearest to `run`, by bisection."""
    for _ in range(9):
        middle = (low + high) / 2
        low, high = (middle, high) if run_length(make(middle), nulls) < run else (low, middle)
    return high


def measured(alarm: Alarm, streams: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Delays of each kind of stream; an input is counted from the boundary on."""
    result = {}
    for kind, of_kind in streams.items():
        at = [alarm(stream) for stream in of_kind.values()]
        result[kind] = outcome([None if a is None else a + WINDOW for a in at])
    return result


def outcome(at: list[int | None]) -> dict[str, Any]:
    """Delays from positions of first alarms in streams that change at `SEGMENT`."""
    early = sum(a is not None and a < SEGMENT for a in at)
    delays = [None if a is None else a - SEGMENT + 1 for a in at if a is None or a >= SEGMENT]
    late = [SEGMENT if d is None else d for d in delays]
    hits = sum(d is not None for d in delays)
    return {
        "median_delay": statistics.median(late) if late else None,
        "quartiles": [round(float(q), 1) for q in np.quantile(late, [0.25, 0.75])] if late else None,
        "missed": sum(d is None for d in delays),
        "early": early,
        "f1": round(2 * hits / (2 * hits + early + (len(at) - hits)), 4),
    }


def f1_of_dummy(every: int) -> float:
    """F1 of an alarm every n inputs on streams with a boundary every `SEGMENT` inputs, where the first alarm of a
    segment finds its boundary and all others are false."""
    inputs = SEGMENT * every
    alarms, boundaries = inputs // every, inputs // SEGMENT
    hits = len({(i * every - 1) // SEGMENT for i in range(1, alarms + 1)})
    return round(2 * hits / (alarms + boundaries), 4)


def univariate(name: str, single: dict[str, np.ndarray], run: float) -> dict[str, Any]:
    make, low, high = UNIVARIATE[name]
    best: dict[str, Any] = {}
    for i, statistic in enumerate(STATISTICS):
        nulls = [standardised(s[i]) for key, s in single.items() if key.startswith("null/")]
        kinds = dict.fromkeys(key.split("/")[0] for key in single if not key.startswith("null/"))
        streams = {
            kind: {key: standardised(s[i]) for key, s in single.items() if key.startswith(kind + "/")}
            for kind in kinds
        }
        threshold = tuned(make, low, high, nulls, run)
        alarm = make(threshold)
        found = {
            "statistic": statistic,
            "threshold": threshold,
            "inputs_per_false_alarm": round(run_length(alarm, nulls)),
            "streams": measured(alarm, streams),
        }
        found = {**summary_of(found["streams"]), **found}
        print(name, statistic, found["inputs_per_false_alarm"], found["median_delay_unlike"], flush=True)
        if not best or (found["median_delay_unlike"] or math.inf) < (best["median_delay_unlike"] or math.inf):
            best = found
    return best


def summary_of(streams: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        f"median_delay_{which}": streams[f"{which}, abrupt"]["median_delay"]
        for which in ("unlike", "lookalike")
        if f"{which}, abrupt" in streams
    }


def multivariate(name: str, file: Path, run: float, scores_file: Path) -> dict[str, Any]:
    """alibi-detect's online detectors. The ratio of their statistic to their limit is kept for every input, so that
    the limit can be scaled to any rate of false alarms."""
    from safetensors import safe_open

    scores = dict(np.load(scores_file)) if scores_file.exists() else {}
    with safe_open(str(file), "np") as streams:
        for key in sorted(streams.keys(), key=lambda key: (not key.startswith("null"), key)):
            if key not in scores:
                start = time.process_time()
                scores[key] = _scores(name, streams.get_tensor(key).astype(np.float32))
                np.savez(scores_file, **scores)
                print(name, key, round(time.process_time() - start, 1), flush=True)
    nulls = [s for key, s in scores.items() if key.startswith("null/")]

    def make(threshold: float) -> Alarm:
        return lambda s: int(np.argmax(s > threshold)) if (s > threshold).any() else None

    alarm = make(tuned(make, 0.5, 50.0, nulls, run))
    kinds = dict.fromkeys(key.split("/")[0] for key in scores if not key.startswith("null/"))
    streams_of = {kind: {k: s for k, s in scores.items() if k.startswith(kind + "/")} for kind in kinds}
    found = measured(alarm, streams_of)
    return {**summary_of(found), "inputs_per_false_alarm": round(run_length(alarm, nulls)), "streams": found}


def _scores(name: str, stream: np.ndarray) -> np.ndarray:
    from alibi_detect.cd import LSDDDriftOnline, MMDDriftOnline

    cls = {"mmd": MMDDriftOnline, "lsdd": LSDDDriftOnline}[name]
    detector = cls(stream[:WINDOW], ert=300, window_size=16, backend="pytorch", n_bootstraps=4000, verbose=False)
    found = []
    for x in stream[WINDOW:]:
        data = detector.predict(x)["data"]
        found.append(data["test_stat"] / data["threshold"])
    return np.nan_to_num(np.array(found, dtype=np.float32), nan=0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="the folder of `boundaries.py`")
    parser.add_argument("--run", type=float, required=True, help="measured inputs per false alarm of ours")
    parser.add_argument("--rivals", nargs="+", choices=[*UNIVARIATE, "dummy", "mmd", "lsdd"], required=True)
    parser.add_argument("--abrupt", action="store_true", help="no blurred streams, for the slow ones")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    single = dict(np.load(args.cache / "single.npz"))
    if args.abrupt:
        single = {key: stream for key, stream in single.items() if ", blurred" not in key}
    for name in args.rivals:
        if name == "dummy":
            every = round(args.run)
            found: dict[str, Any] = {
                "every": every,
                # Boundaries lie anywhere between two alarms.
                "median_delay_unlike": every / 2,
                "median_delay_lookalike": every / 2,
                "inputs_per_false_alarm": every,
                "f1": f1_of_dummy(every),
                "f1_every_100": f1_of_dummy(100),
            }
        elif name in UNIVARIATE:
            found = univariate(name, single, args.run)
        else:
            found = multivariate(name, args.cache / "streams.safetensors", args.run, args.cache / f"scores_{name}.npz")
        known = json.loads(args.out.read_text()) if args.out.exists() else {}
        args.out.write_text(json.dumps({**known, name: found}, indent=1) + "\n")
        print(name, {key: value for key, value in found.items() if key != "streams"}, flush=True)


if __name__ == "__main__":
    main()
