"""What HTTP costs: a server with 32 clients against the pipeline on the same texts in batches.

    python benchmarks/serving.py --model MODEL            # MODEL: an encoder; add --tiny for a run of seconds

Texts of 8 to 60 words, ten groups with random members. The pipeline gets all texts at once and sorts them by length;
the server gets them from 32 threads of another process, and batches what waits. Rounds of both take turns. Ratios are
those of CPU seconds of this process, which the clients do not share; wall-clock ratios beside them hold only on a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CLIENTS, GROUPS, BAR = 32, 10, 0.9


def ask_all(url: str, bodies: list[bytes]) -> tuple[float, list[Any]]:
    """Asks from `CLIENTS` threads, each over one connection; the seconds that it took, and the answers."""
    here = threading.local()

    def ask(body: bytes) -> Any:
        if not hasattr(here, "connection"):
            here.connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=300)
        here.connection.request("POST", "/answer", body, {"Content-Type": "application/json"})
        return json.load(here.connection.getresponse())["answers"]

    start = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(ask, bodies))
    return time.perf_counter() - start, answers


def client(url: str, file: str) -> None:
    """The other process: asks what is in a file, and prints its seconds and the answers."""
    bodies = [line.encode() for line in Path(file).read_text().splitlines()]
    print(json.dumps(ask_all(url, bodies)))


def make_adapter(model: str, folder: Path, texts: list[str]) -> None:
    """An adapter of random members whose signatures lie at the first texts."""
    import torch
    from banks import fill, make_base
    from peft import get_peft_model
    from transformers import AutoTokenizer

    from hf_lifelong import DriftAdapterConfig
    from hf_lifelong.adapter import trunk_features

    tokenizer = AutoTokenizer.from_pretrained(model)
    adapter = get_peft_model(make_base(model), DriftAdapterConfig(r=8, members=5))
    features = trunk_features(adapter, dict(tokenizer(texts[:GROUPS], return_tensors="pt", padding=True)))
    fill(adapter, features, torch.full((features.shape[1],), float(features.var()) * 0.01 + 1e-6))
    adapter.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))


def measure(engine: Any, url: str, texts: list[str], per_request: int, rounds: int, batch_size: int) -> dict[str, Any]:
    """CPU and wall seconds of both, the rounds in turn; the first round warms up."""
    requests = [texts[i : i + per_request] for i in range(0, len(texts), per_request)]
    taken: dict[str, list[float]] = {name: [] for name in ("server", "pipeline", "server_wall", "pipeline_wall")}
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps({"inputs": inputs}) + "\n" for inputs in requests)
        file.flush()
        for i in range(rounds + 1):
            cpu, wall = time.process_time(), time.perf_counter()
            expected = engine.served.pipe(texts, batch_size=batch_size)
            cpu_pipeline, wall_pipeline = time.process_time() - cpu, time.perf_counter() - wall
            cpu = time.process_time()
            command = [sys.executable, __file__, "--client", url, file.name]
            done = subprocess.run(command, capture_output=True, check=True, text=True)
            cpu_server = time.process_time() - cpu
            wall_server, answers = json.loads(done.stdout)
            found = [answer for of_request in answers for answer in of_request]
            wrong = sum(
                (one["task"], one["answer"]) != (other["task"], other["answer"])
                for one, other in zip(found, expected, strict=True)
            )
            if wrong:
                raise ValueError(f"{wrong} of {len(texts)} answers differ from those of the pipeline.")
            if i:
                values = (cpu_server, cpu_pipeline, wall_server, wall_pipeline)
                for name, value in zip(taken, values, strict=True):
                    taken[name].append(value)
    row: dict[str, Any] = {"inputs_per_request": per_request, "inputs": len(texts), "batch_size": batch_size}
    ratios = [pipeline / server for server, pipeline in zip(taken["server"], taken["pipeline"], strict=True)]
    row["cpu_ratio"] = round(statistics.median(ratios), 4)
    row |= {f"seconds_{name}": [round(value, 3) for value in values] for name, values in taken.items()}
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder or Hub id of an encoder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--inputs", type=int, default=500, help="texts of a round")
    parser.add_argument("--tiny", action="store_true", help="few texts and rounds, to see that it runs")
    parser.add_argument("--out", help="file for the results, if not in `benchmarks/results`")
    parser.add_argument("--client", nargs=2, metavar=("URL", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.client:
        client(*args.client)
        return
    from record import RESULTS, header

    from hf_lifelong.serving import Engine, create_app, listen, make_server

    draw = random.Random(0)
    words = Path(__file__).read_text().split()
    texts = [" ".join(draw.choices(words, k=draw.randint(8, 60))) for _ in range(64 if args.tiny else args.inputs)]
    with tempfile.TemporaryDirectory() as folder, listen("127.0.0.1", 0) as listening:
        make_adapter(args.model, Path(folder) / "adapter", texts)
        engine = Engine(Path(folder) / "adapter")
        runner = make_server(create_app(engine))
        thread = threading.Thread(target=runner.run, args=([listening],))
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        rounds = 1 if args.tiny else args.rounds
        rows = [measure(engine, url, texts, size, rounds, engine.limits.batch_size) for size in (1, 8)]
        runner.should_exit = True
        thread.join()
    command = f"python benchmarks/serving.py --model MODEL --inputs {args.inputs} --rounds {args.rounds}"
    result = {
        **header(command, args.model),
        "settings": {"clients": CLIENTS, "groups": GROUPS, "rounds": rounds, "bar": BAR},
        "load": [round(load, 1) for load in os.getloadavg()],
        "summary": {f"throughput_ratio_{row['inputs_per_request']}_per_request": row["cpu_ratio"] for row in rows},
        "rows": rows,
    }
    Path(args.out or RESULTS / "serving.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
