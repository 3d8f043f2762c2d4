"""Which inputs matter: planted ones found, public tables, wide tables, and labels drawn at random.

    python benchmarks/selection.py planted --data nn --sigmas 0 1 --seeds 0 1 2 --methods ours lasso
    python benchmarks/selection.py tables --data_dir DATA --data mice_protein --seeds 0
    python benchmarks/selection.py wide --inputs 1000 10000
    python benchmarks/selection.py random --seeds 0 1 2

Every (command, data, noise, method, seed) is a row of `benchmarks/results/selection.json`; rows that are there are not
run again, so that the tables can be filled in pieces. `planted` has the settings of Li, Wang and Ding, 2023: networks
(p = 100, 10 relevant, 500 rows), linear (p = 8, 3 relevant, 60 rows, neighbours correlated by a half) and Friedman's
function (p = 50, 5 relevant, 500 rows); the error is against the target without noise. `tables` keeps 50 inputs and
puts extra trees on top; of MNIST 10,000 rows train. Seconds are the process's own, of methods in turn; run it on one
thread (`OMP_NUM_THREADS=1`). `wide` has those on the clock as well. Rivals are run from their own packages:
`pip install "hf_lifelong[benchmarks]"`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import load_dataset
from record import RESULTS, header
from sklearn.datasets import make_friedman1
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LassoCV, OrthogonalMatchingPursuitCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import SplineTransformer, StandardScaler

from hf_lifelong.selection import InputSelector, Problem, draw_rows, mixture_cut, train_path
from hf_lifelong.utils.figures import drawn

KEPT = 50
MOST_ROWS = 10_000  # of a table that train, one sample for all methods: LassoNet takes hours on all of MNIST
COLOURS = ["black", "#31688e", "#35b779", "#90d743", "#440154", "#e16462", "#f0a030", "#888888"]
Rows = list[dict[str, Any]]


def networks_data(rng: np.random.Generator, rows: int, inputs: int = 100, relevant: int = 10, hidden: int = 16) -> Any:
    """Inputs, a target without noise, and which inputs matter."""
    x = rng.normal(size=(rows, inputs))
    weight, bias = rng.uniform(-1, 1, size=(relevant, hidden)), rng.uniform(-1, 1, size=hidden)
    clean = np.maximum(x[:, :relevant] @ weight + bias, 0) @ rng.choice([-1.0, 1.0], size=hidden)
    return x, clean, np.arange(inputs) < relevant


def linear_data(rng: np.random.Generator, rows: int) -> Any:
    slopes = np.array([3, 1.5, 0, 0, 2, 0, 0, 0])
    near = 0.5 ** np.abs(np.subtract.outer(np.arange(8), np.arange(8)))
    x = rng.multivariate_normal(np.zeros(8), near, size=rows)
    return x, x @ slopes, slopes != 0


def friedman_data(rng: np.random.Generator, rows: int) -> Any:
    x, clean = make_friedman1(rows, 50, noise=0.0, random_state=int(rng.integers(2**31)))
    return x, clean, np.arange(50) < 5


PLANTED = {"nn": (networks_data, 500), "linear": (linear_data, 60), "friedman": (friedman_data, 500)}


def refitted(x: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """What ten networks on the selected inputs say of new rows, in the mean, at the small penalty that predicts rows
    left out best."""
    if not x.shape[1]:
        return np.full(len(test), y.mean())
    scaler, centre, spread = StandardScaler().fit(x), y.mean(), y.std()
    columns = torch.from_numpy(scaler.transform(x).astype(np.float32))
    target = torch.from_numpy(((y - centre) / spread)[:, None].astype(np.float32))
    generator = torch.Generator().manual_seed(seed)
    problem = Problem(columns, target, False, draw_rows(len(x), 10, generator))
    with torch.no_grad():
        trained = train_path(problem, torch.tensor([0.1, 0.03, 0.01, 0.003, 0.001]), "l1", 50, 400, generator)
        networks = trained.networks.at(int(trained.losses.mean(1).argmin()))
        seen = replace(problem, x=torch.from_numpy(scaler.transform(test).astype(np.float32))).seen(trained.seen)
        return networks.scores(networks.hidden(seen))[..., 0, 0].mean(0).numpy() * spread + centre


def ours(penalty: str) -> Callable[..., dict[str, Any]]:
    def run(x: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> dict[str, Any]:
        selector = InputSelector(penalty=penalty, repeats=10, random_state=seed).fit(x, y)
        # What the mixture keeps is scored as the published sets are, whether the selector trusts it or not.
        kept = mixture_cut(selector.importances_)[0]
        answers = refitted(x[:, kept], y, test[:, kept], seed)
        found = {"found": selector.found_, "stability": selector.stability_score_}
        return {"importances": selector.importances_, "kept": kept, "answers": answers, **found}

    return run


def rival(make: Callable[[int], Any], importances: Callable[[Any], np.ndarray], by_mixture: bool) -> Callable:
    """A model of scikit-learn; what it keeps is what it gives a weight, or the high part of the mixture."""

    def run(x: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> dict[str, Any]:
        scaler = StandardScaler().fit(x)
        model = make(seed).fit(scaler.transform(x), y)
        sizes = np.abs(importances(model))
        kept = mixture_cut(sizes)[0] if by_mixture else sizes > 0
        return {"importances": sizes, "kept": kept, "answers": model.predict(scaler.transform(test))}

    return run


def lassonet(x: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> dict[str, Any]:
    """The point of its path that predicts a fifth of the rows best."""
    from lassonet import LassoNetRegressor

    scaler, centre, spread = StandardScaler().fit(x), y.mean(), y.std()
    model = LassoNetRegressor(hidden_dims=(50,), random_state=seed, torch_seed=seed, verbose=0)
    rows = train_test_split(scaler.transform(x), (y - centre) / spread, test_size=0.2, random_state=seed)
    path = model.path(rows[0], rows[2], X_val=rows[1], y_val=rows[3], return_state_dicts=True)
    best = min(path, key=lambda point: point.val_loss)
    model.load(best.state_dict)
    answers = model.predict(scaler.transform(test)).ravel() * spread + centre
    return {
        "importances": model.feature_importances_.numpy(),
        "kept": best.selected.numpy().astype(bool),
        "answers": answers,
    }


def group_lasso(x: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> dict[str, Any]:
    """A sparse additive model: six splines an input, taken or left together; the penalty that predicts a fifth of the
    rows best."""
    from skglm import GroupLasso

    splines = make_pipeline(StandardScaler(), SplineTransformer(include_bias=False), StandardScaler()).fit(x)
    wide, centre = splines.transform(x), y.mean()
    size = wide.shape[1] // x.shape[1]
    fitted, held, known, wanted = train_test_split(wide, y - centre, test_size=0.2, random_state=seed)
    pulls = fitted.T @ known / len(fitted)
    largest = np.linalg.norm(pulls.reshape(-1, size), axis=1).max()
    losses = []
    penalties = largest * np.logspace(-0.1, -2.5, 20)
    for penalty in penalties:
        model = GroupLasso(size, penalty).fit(fitted, known)
        losses.append(((model.predict(held) - wanted) ** 2).mean())
    model = GroupLasso(size, penalties[int(np.argmin(losses))]).fit(wide, y - centre)
    sizes = np.linalg.norm(model.coef_.reshape(-1, size), axis=1)
    return {"importances": sizes, "kept": sizes > 0, "answers": model.predict(splines.transform(test)) + centre}


METHODS = {
    "ours": ours("l1"),
    "ours group": ours("group"),
    "lasso": rival(lambda seed: LassoCV(cv=5), lambda m: m.coef_, False),
    "group lasso": group_lasso,
    "omp": rival(lambda seed: OrthogonalMatchingPursuitCV(cv=5), lambda m: m.coef_, False),
    "random forest": rival(lambda s: RandomForestRegressor(random_state=s), lambda m: m.feature_importances_, True),
    "boosting": rival(lambda s: GradientBoostingRegressor(random_state=s), lambda m: m.feature_importances_, True),
    "lassonet": lassonet,
}


def planted(data: str, sigma: float, method: str, seed: int) -> dict[str, Any]:
    make, rows = PLANTED[data]
    rng = np.random.default_rng(seed)
    x, clean, relevant = make(rng, rows + 2000)
    y = clean + sigma * rng.normal(size=len(clean))
    result = METHODS[method](x[:rows], y[:rows], x[rows:], seed)
    kept, importances, answers = (result.pop(key) for key in ("kept", "importances", "answers"))
    return {
        "true_positives": int(kept[relevant].sum()),
        "false_positives": int(kept[~relevant].sum()),
        "auc": float(roc_auc_score(relevant, importances)),
        "test_error": float(((answers - clean[rows:]) ** 2).mean()),
        **result,
    }


def load_table(name: str, data_dir: str, seed: int) -> Any:
    """Training and test inputs and classes; 80 % of the rows train where there is no test split."""
    found = load_dataset(str(Path(data_dir, name)))
    parts = [table_of(name, part) for part in found.values()]
    if len(parts) == 1:
        x, y = parts[0]
        return train_test_split(x, y, test_size=0.2, stratify=y, random_state=seed)
    by_name = dict(zip(found, parts, strict=True))
    (x, y), (test_x, test_y) = by_name["train"], by_name["test"]
    if len(x) > MOST_ROWS:
        x, _, y, _ = train_test_split(x, y, train_size=MOST_ROWS, stratify=y, random_state=seed)
    return x, test_x, y, test_y


def table_of(name: str, part: Any) -> tuple[np.ndarray, np.ndarray]:
    if name == "mnist":
        return np.stack([np.asarray(image, float).ravel() for image in part["image"]]), np.array(part["label"])
    frame = part.to_pandas()
    label = "class" if "class" in frame else frame.columns[-1]
    numbers = frame.drop(columns=label).select_dtypes("number")
    return numbers.fillna(numbers.mean()).to_numpy(float), frame[label].to_numpy()


def top(scores: np.ndarray) -> np.ndarray:
    return np.argsort(-np.nan_to_num(scores), kind="stable")[:KEPT]


def lassonet_top(x: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    from lassonet import LassoNetClassifier

    model = LassoNetClassifier(hidden_dims=(50,), random_state=seed, torch_seed=seed, verbose=0)
    model.path(x, np.unique(y, return_inverse=True)[1], return_state_dicts=False)
    return top(model.feature_importances_.numpy())


def ours_top(penalty: str) -> Callable[..., np.ndarray]:
    return lambda x, y, seed: top(
        InputSelector(penalty=penalty, cut=KEPT, repeats=5, target="classification", random_state=seed)
        .fit(x, y)
        .importances_
    )


TOPS: dict[str, Callable[..., np.ndarray]] = {
    "ours": ours_top("l1"),
    "ours group": ours_top("group"),
    "fisher": lambda x, y, seed: top(f_classif(x, y)[0]),
    "random forest": lambda x, y, seed: top(RandomForestClassifier(random_state=seed).fit(x, y).feature_importances_),
    "lassonet": lassonet_top,
}


def tables(data: str, method: str, seed: int, data_dir: str) -> dict[str, Any]:
    x, test_x, y, test_y = load_table(data, data_dir, seed)
    scaler = StandardScaler().fit(x)
    start = time.process_time()
    kept = TOPS[method](scaler.transform(x), y, seed)
    seconds = time.process_time() - start
    trees = ExtraTreesClassifier(random_state=seed).fit(x[:, kept], y)
    return {"accuracy": trees.score(test_x[:, kept], test_y), "kept": kept.tolist(), "select_seconds": seconds}


def wide(inputs: int, penalty: str, seed: int) -> dict[str, Any]:
    """500 rows, ten relevant inputs, ten repeats; memory is the peak of the whole process."""
    rng = np.random.default_rng(seed)
    x, clean, relevant = networks_data(rng, 500, inputs)
    y = clean + 0.5 * rng.normal(size=500)
    start, used = time.perf_counter(), time.process_time()
    selector = InputSelector(penalty=penalty, repeats=10, random_state=seed).fit(x, y)
    kept = mixture_cut(selector.importances_)[0]
    return {
        "select_seconds": time.perf_counter() - start,
        "processor_seconds": time.process_time() - used,
        "threads": torch.get_num_threads(),
        "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "true_positives": int(kept[relevant].sum()),
        "false_positives": int(kept[~relevant].sum()),
        "found": selector.found_,
        "reason": selector.reason_,
    }


def random_labels(kind: str, seed: int) -> dict[str, Any]:
    """Data in which no input says anything of the target."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, 50))
    y = rng.normal(size=200) if kind == "numbers" else rng.integers(3, size=200)
    selector = InputSelector(random_state=seed).fit(x, y)
    return {"found": selector.found_, "reason": selector.reason_}


def cells(args: argparse.Namespace) -> list[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]:
    """What a command asks for: the key of each row, and how to get it."""
    if args.kind == "wide":
        keys = [{"inputs": p, "method": m, "seed": s} for s in args.seeds for p in args.inputs for m in args.methods]
        return [(k, lambda k=k: wide(k["inputs"], PENALTIES[k["method"]], k["seed"])) for k in keys]
    if args.kind == "random":
        keys = [{"data": kind, "seed": s} for s in args.seeds for kind in args.data]
        return [(k, lambda k=k: random_labels(k["data"], k["seed"])) for k in keys]
    keys = [{"data": d, "method": m, "seed": s} for s in args.seeds for d in args.data for m in args.methods]
    if args.kind == "tables":
        return [(k, lambda k=k: tables(**k, data_dir=args.data_dir)) for k in keys]
    keys = [k | {"sigma": sigma} for k in keys for sigma in args.sigmas]
    return [(k, lambda k=k: planted(**k)) for k in keys]


PENALTIES = {"ours": "l1", "ours group": "group"}


def summarise(rows: Rows) -> dict[str, Any]:
    """Means over the seeds, by command, data, noise and method; and how alike the sets of different seeds are."""
    groups: dict[str, Rows] = {}
    for row in rows:
        parts = (row[key] for key in ("kind", "data", "inputs", "sigma", "method") if key in row)
        groups.setdefault(" | ".join(map(str, parts)), []).append(row)
    summary: dict[str, Any] = {}
    for name, own in groups.items():
        numbers = {
            k
            for row in own
            for k, v in row.items()
            if isinstance(v, int | float) and k not in ("seed", "sigma", "inputs")
        }
        means = {key: np.mean([row[key] for row in own if key in row]) for key in sorted(numbers)}
        summary[name] = {key: round(float(mean), 4) for key, mean in means.items()}
        summary[name]["seeds"] = len(own)
        if "kept" in own[0] and len(own) > 1:
            sets = [set(row["kept"]) for row in own]
            alike = [len(a & b) / len(a | b) for i, a in enumerate(sets) for b in sets[:i]]
            summary[name]["jaccard_over_seeds"] = round(float(np.mean(alike)), 4)
    return summary


def draw(rows: Rows, path: Path) -> None:
    """Relevant inputs found and others kept, by noise, for all methods."""
    rows = [row for row in rows if row["kind"] == "planted"]
    sets = [data for data in PLANTED if any(row["data"] == data for row in rows)]
    methods = [method for method in METHODS if any(row["method"] == method for row in rows)]
    counts = {"true_positives": "relevant inputs found", "false_positives": "others kept"}
    if not sets:
        return
    with drawn(path, (4.0 * len(sets) + 2.0, 6.0)) as figure:
        panels = figure.subplots(2, len(sets), sharex=True, squeeze=False)
        for (line, (key, label)), (column, data) in itertools.product(enumerate(counts.items()), enumerate(sets)):
            panel = panels[line][column]
            for method, colour in zip(methods, COLOURS, strict=False):
                own = [row for row in rows if (row["data"], row["method"]) == (data, method)]
                sigmas = sorted({row["sigma"] for row in own})
                means = [np.mean([row[key] for row in own if row["sigma"] == sigma]) for sigma in sigmas]
                panel.plot(sigmas, means, marker="o", color=colour, lw=2.5 if "ours" in method else 1.2, label=method)
            panel.set_title(data if line == 0 else "")
            panel.set_xlabel("noise σ" if line else "")
            panel.set_ylabel(label if column == 0 else "")
            panel.grid(alpha=0.3)
            if key == "false_positives":
                panel.set_yscale("symlog", linthresh=1.0)
                panel.set_ylim(bottom=0)
        panels[0][-1].legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    for name, data, methods in (
        ("planted", list(PLANTED), list(METHODS)),
        ("tables", ["mice_protein", "isolet", "mnist"], list(TOPS)),
        ("wide", None, list(PENALTIES)),
        ("random", ["numbers", "classes"], None),
    ):
        command = kinds.add_parser(name)
        if data:
            command.add_argument("--data", nargs="+", choices=data, default=data)
        if methods:
            command.add_argument("--methods", nargs="+", choices=methods, default=methods)
        command.add_argument("--seeds", nargs="+", type=int, default=[0] if name == "wide" else list(range(20)))
        command.add_argument("--out", default=str(RESULTS / "selection.json"))
    kinds.choices["planted"].add_argument("--sigmas", nargs="+", type=float, default=[0.0, 0.5, 1.0, 5.0])
    kinds.choices["tables"].add_argument("--data_dir", required=True, help="folder with one data set a folder")
    kinds.choices["wide"].add_argument("--inputs", nargs="+", type=int, default=[1000, 10000])
    return parser.parse_args()


def main() -> None:
    args = parse()
    warnings.simplefilter("ignore")  # what is not found is in the rows
    out = Path(args.out)
    rows: Rows = json.loads(out.read_text())["rows"] if out.exists() else []
    for part, run in cells(args):
        key = {"kind": args.kind, **part}
        if any(all(row.get(k) == v for k, v in key.items()) for row in rows):
            continue
        start = time.process_time()
        result = run()
        rows.append({**key, **result, "seconds": round(time.process_time() - start, 2)})
        head = header("python benchmarks/selection.py {planted,tables --data_dir DATA,wide,random}")
        record = {**head, "summary": summarise(rows), "rows": rows}
        out.write_text(json.dumps(record, indent=1) + "\n")
        print(key, {k: v for k, v in rows[-1].items() if k not in (*key, "kept")}, flush=True)
    draw(rows, out.with_suffix(".png"))


if __name__ == "__main__":
    main()
