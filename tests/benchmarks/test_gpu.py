"""What runs where there is a GPU: its record, its parts in tiny shapes on a CPU, and the wheels that travel."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from zipfile import ZipFile

import gpu
import gpu_wheels
import pytest
import random_encoder
import torch
import training

BENCHMARKS = Path(gpu.__file__).parent
# What a script does between noting that it runs and writing its result.
BODIES = {
    "random_encoder": "",
    "first": "",
    "broken": "raise ValueError('no such thing')",
    "slow": "write({'summary': 'a part of it'}); time.sleep(60)",
    "waiting": "Path('../started').write_text(str(os.getpid()))\nif not Path('../go').exists(): time.sleep(60)",
    "last": "",
}
SCRIPT = """
import json, os, sys, time
from pathlib import Path
def write(result): Path(sys.argv[-1]).write_text(json.dumps(result))
os.chdir(Path(__file__).parent / "out")
with open("../runs", "a") as runs: runs.write("{name} ")
{body}
if "{name}" != "random_encoder": write({{"summary": "all"}})
"""
DRIVER = """
import pathlib, sys
sys.path.insert(0, {benchmarks!r})
import gpu
gpu.HERE = pathlib.Path({folder!r})
gpu.PARTS = tuple(gpu.Part(name, seconds, (), (), needs) for name, seconds, needs in {parts!r})
gpu.main()
"""


class Scripts:
    """Parts of a moment in a folder, driven as the real ones are."""

    def __init__(self, folder, *parts):
        self.folder, self.record = folder, folder / "out" / "gpu.json"
        for name, body in BODIES.items():
            (folder / f"{name}.py").write_text(SCRIPT.format(name=name, body=body))
        table = [(name, *rest, *(20, None)[len(rest) :]) for name, *rest in parts]
        (folder / "driver.py").write_text(DRIVER.format(benchmarks=str(BENCHMARKS), folder=str(folder), parts=table))

    def start(self, *options):
        command = [sys.executable, str(self.folder / "driver.py"), "--tiny", *options, str(self.record.parent)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def run(self, *options):
        """Returns the exit status, the output, the rows by part, and the parts that ran."""
        (self.folder / "runs").write_text("")
        process = self.start(*options)
        output = process.communicate()[0]
        return process.returncode, output, self.rows(), (self.folder / "runs").read_text().split()[1:]

    def rows(self):
        return {row["part"]: row for row in json.loads(self.record.read_text())["parts"]}


def test_a_part_that_fails_stops_no_other_and_runs_again(tmp_path):
    scripts = Scripts(tmp_path, ["first"], ["broken"], ["slow", 3], ["absent", 20, "no_such_package"], ["last"])
    code, output, rows, ran = scripts.run()
    assert code == 1 and ran == ["first", "broken", "slow", "last"] and "broken: ValueError: no such thing" in output
    assert list(rows) == ["first", "broken", "slow", "absent", "last"]
    assert rows["first"]["result"] == rows["last"]["result"] == {"summary": "all"}
    assert rows["broken"]["error"] == "ValueError: no such thing" and "result" not in rows["broken"]
    assert rows["slow"]["error"] == "stopped after 3 s" and rows["slow"]["result"] == {"summary": "a part of it"}
    assert rows["absent"] == {"part": "absent", "skipped": "no_such_package is not installed"}
    (tmp_path / "broken.py").write_text((tmp_path / "last.py").read_text())
    _, _, again, ran = scripts.run()
    assert ran == ["last", "slow"]  # of the script that was broken, and of the one without time
    assert again["first"] == rows["first"] and again["last"] == rows["last"] and "error" not in again["broken"]


def test_what_a_killed_part_had_measured_is_kept(tmp_path):
    scripts = Scripts(tmp_path, ["first"], ["last"])
    (tmp_path / "first.py").write_text((tmp_path / "slow.py").read_text().replace("sleep(60)", "sleep(0); 1 / 0"))
    assert scripts.run()[2]["first"]["result"] == {"summary": "a part of it"}
    for written in ('{"summary": ', '{"summary": 1}'):  # half of a file, and less than was there
        (tmp_path / "first.py").write_text(f"import sys\nopen(sys.argv[-1], 'w').write('{written}')\n1 / 0")
        code, _, rows, _ = scripts.run()
        assert code == 1 and rows["first"]["error"].startswith("ZeroDivisionError")
        assert rows["first"]["result"] == {"summary": "a part of it"} and "error" not in rows["last"]
    assert json.loads(scripts.record.read_text()).keys() >= {"date", "hardware", "versions"}


def test_a_killed_run_keeps_what_is_done_and_ends_what_runs(tmp_path):
    scripts = Scripts(tmp_path, ["first"], ["waiting"], ["last"])
    process, started = scripts.start(), tmp_path / "started"
    end = time.monotonic() + 60
    while not (started.exists() and started.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    process.terminate()
    process.communicate()
    assert list(scripts.rows()) == ["first"]
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
    (tmp_path / "go").touch()
    code, _, rows, ran = scripts.run()
    assert code == 0 and ran == ["waiting", "last"] and list(rows) == ["first", "waiting", "last"]
    code, output, _, ran = scripts.run()
    assert code == 1 and ran == [] and "has every part" in output


def test_the_whole_has_a_limit_too(tmp_path):
    code, _, rows, ran = Scripts(tmp_path, ["first"], ["waiting"], ["last"]).run("--seconds", "5")
    assert code == 1 and ran == ["first", "waiting"] and rows["last"] == {"part": "last", "error": "no time was left"}
    assert rows["waiting"]["error"].startswith("stopped after")


def test_tiny_shapes_are_not_mixed_with_full_ones(tmp_path):
    record = gpu.Record(tmp_path / "gpu.json", tiny=False)
    record.put({"part": "memory", "result": {}})
    assert gpu.Record(tmp_path / "gpu.json", tiny=False).done(gpu.PARTS[0])
    with pytest.raises(SystemExit, match="was made without --tiny"):
        gpu.Record(tmp_path / "gpu.json", tiny=True)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases") / gpu.MODEL
    random_encoder.save(str(folder), random_encoder.TINY)
    return folder


class OneSide:
    """The end of a pipe whose other side answers at once."""

    def send(self, found):
        self.found = found

    def recv(self):
        return None


def learn_here(setting):
    pipes = {method: OneSide() for method in training.METHODS}
    for method, pipe in pipes.items():
        training.learn(pipe, method, setting)
    return {method: pipe.found for method, pipe in pipes.items()}


@pytest.mark.parametrize("part", gpu.PARTS, ids=lambda part: part.name)
def test_every_part_runs_in_tiny_shapes(part, encoder, tmp_path, monkeypatch):
    if part.needs:
        pytest.importorskip(part.needs)
    out = tmp_path / "out.json"
    monkeypatch.chdir(encoder.parent)
    monkeypatch.setattr(sys, "argv", [part.name, *part.tiny, "--out", str(out)])
    monkeypatch.setattr(training, "in_turns", learn_here)
    importlib.import_module(part.name).main()
    result = json.loads(out.read_text())
    assert result["name"] == part.name and result["hardware"] and result["rows"]
    of_a_gpu = {"memory": "worst_relative_error_cuda", "gpu_8b": "ours_train_peak_gib"}
    others = {
        "training": "step_time_ratio_full",
        "answering": "signature_ratio_to_base_10",
        "compiled": "speedup_1x32",
    }
    if part.name in others:
        assert result["summary"][others[part.name]] > 0
    elif not torch.cuda.is_available():
        assert result["summary"][of_a_gpu[part.name]] is None


def make_wheel(folder, name, files):
    wheel = folder / f"{name}-1.0-py3-none-any.whl"
    about = f"{name}-1.0.dist-info"
    tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = files | {
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{about}/WHEEL": tags,
    }
    with ZipFile(wheel, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
        archive.writestr(f"{about}/RECORD", "".join(f"{path},,\n" for path in (*files, f"{about}/RECORD")))
    return wheel


def test_the_shell_script_installs_the_wheels_without_an_index(tmp_path):
    """Also a wheel from which files were left out that its RECORD names."""
    folder = tmp_path / "a folder" / "benchmarks"
    folder.mkdir(parents=True)
    (folder / "gpu.sh").write_text((BENCHMARKS / "gpu.sh").read_text())
    (folder / "gpu.py").write_text("import sys, bitsandbytes; print(bitsandbytes.WHERE, sys.argv[1:])")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    libraries = [f"bitsandbytes/libbitsandbytes_{name}.so" for name in ("cuda130", "cuda118", "cpu", "rocm64")]
    made = make_wheel(
        wheels, "bitsandbytes", {"bitsandbytes/__init__.py": "WHERE = 'here'", **dict.fromkeys(libraries, "")}
    )
    with pytest.raises(SystemExit, match="has no libbitsandbytes_cuda999"):
        gpu_wheels.slim(made, "99.9")
    made.with_suffix(".part").unlink()
    gpu_wheels.slim(made, "13.0")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "GPU_WHEELS": str(wheels), "PIP_INDEX_URL": "http://127.0.0.1:9"}
    command = ["bash", str(folder / "gpu.sh"), "--tiny", "some folder"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert done.startswith("here ['--seconds', '5") and done.endswith("'--tiny', 'some folder']\n")
    installed = folder.parent / "build" / "gpu_site" / "bitsandbytes"
    assert {file.name for file in installed.glob("*.so")} == {"libbitsandbytes_cuda130.so", "libbitsandbytes_cpu.so"}


def test_only_what_the_machine_lacks_travels(monkeypatch):
    found = {"torch": "2.11", "nvidia-cudnn-cu13": "9", "sympy": "1.14", "scikit_learn": "1.9", "PyYAML": "6.0"}
    report = {"install": [{"metadata": {"name": name, "version": version}} for name, version in found.items()]}
    asked = []
    monkeypatch.setattr(gpu_wheels, "pip", lambda *arguments: asked.extend(arguments) or json.dumps(report))
    assert gpu_wheels.needed("3.12", list(gpu_wheels.HAVE)) == ["pyyaml==6.0"]
    assert gpu_wheels.needed("3.12", ["torch"]) == ["scikit-learn==1.9", "pyyaml==6.0"]
    assert "--only-binary=:all:" in asked and any(name.startswith("transformers>=") for name in asked)


def test_more_than_fits_is_refused_with_every_size(tmp_path):
    (tmp_path / "large-1.0-py3-none-any.whl").write_bytes(b"0" * 1_500_000)
    if not (gpu_wheels.ROOT / ".git").exists():
        pytest.skip("no git repository")
    assert gpu_wheels.check(tmp_path, 10**9).startswith("1.5 MB of wheels and a working tree of ")
    with pytest.raises(SystemExit, match=r"are more than 1 MB:(.|\n)*1\.5 MB  large-1\.0"):
        gpu_wheels.check(tmp_path, 10**6)
