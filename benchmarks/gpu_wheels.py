"""Fills a folder with what `gpu.sh` installs on a machine that has a GPU and PyTorch but no package index.

    python benchmarks/gpu_wheels.py                             # for Python 3.12 and CUDA 13.0
    python benchmarks/gpu_wheels.py --python 3.11 --cuda 12.8

Wheels for Linux on x86-64: what this package and bitsandbytes need, less what the machine has (`--have`), and of
bitsandbytes only the library for the given CUDA. The folder and the working tree that goes with it have at most 64 MB.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

ROOT = Path(__file__).parents[1]
LIMIT = 64_000_000
# Scientific packages that images with PyTorch bring; pyarrow and scipy alone have more than 80 MB.
HAVE = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "pyarrow")
# Only PyTorch and downloads need these. Small packages travel in any case: those on the machine may be too old.
LEFT_OUT = re.compile(r"nvidia-.*|cuda-.*|triton|sympy|mpmath|networkx|setuptools|hf-xet")


def target(python: str) -> list[str]:
    """Options of pip for wheels of another machine; pip takes each `manylinux` by its own name only."""
    names = ["manylinux1", "manylinux2010", "manylinux2014", *(f"manylinux_2_{minor}" for minor in range(5, 36))]
    platforms = [part for name in names for part in ("--platform", f"{name}_x86_64")]
    return ["--python-version", python, "--only-binary=:all:", *platforms]


def pip(*arguments: str) -> str:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def needed(python: str, have: list[str]) -> list[str]:
    """`name==version` of what the machine lacks."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["quantization"]
    aside = ["--dry-run", "--ignore-installed", "--target", str(ROOT / "build"), "--report", "-"]
    found = json.loads(pip("install", *aside, *target(python), *wanted))["install"]
    packages = {re.sub(r"[-_.]+", "-", one["metadata"]["name"]).lower(): one["metadata"]["version"] for one in found}
    return [f"{n}=={v}" for n, v in packages.items() if n not in have and not LEFT_OUT.fullmatch(n)]


def slim(wheel: Path, cuda: str) -> None:
    """Leaves out of a wheel of bitsandbytes the libraries of other GPUs and of other versions of CUDA.

    Raises:
        SystemExit: If it has none for this version.
    """
    kept = f"libbitsandbytes_cuda{cuda.replace('.', '')}.so"
    smaller = wheel.with_suffix(".part")
    with ZipFile(wheel) as old, ZipFile(smaller, "w", ZIP_DEFLATED) as new:
        libraries = {entry: Path(entry).name for entry in old.namelist() if entry.endswith(".so")}
        if kept not in libraries.values():
            raise SystemExit(f"`{wheel.name}` has no {kept}, but {', '.join(sorted(libraries.values()))}.")
        for entry in old.infolist():
            if libraries.get(entry.filename, kept) in (kept, "libbitsandbytes_cpu.so"):
                new.writestr(entry, old.read(entry))
    smaller.replace(wheel)


def check(folder: Path, limit: int = LIMIT) -> str:
    """What travels, in megabytes: the working tree without what git ignores, and the wheels.

    Raises:
        SystemExit: If it is more than `limit` bytes, with the size of each wheel.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    sizes = {"working tree": sum(file.stat().st_size for file in files if file.is_file())}
    sizes |= {wheel.name: wheel.stat().st_size for wheel in folder.glob("*.whl")}
    total, tree = sum(sizes.values()), sizes["working tree"]
    if total <= limit:
        return f"{(total - tree) / 1e6:.1f} MB of wheels and a working tree of {tree / 1e6:.1f} MB"
    lines = [f"{size / 1e6:8.1f} MB  {name}" for name, size in sorted(sizes.items(), key=lambda item: -item[1])]
    raise SystemExit("\n".join([f"{total / 1e6:.1f} MB are more than {limit / 1e6:.0f} MB:", *lines]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default="3.12", help="version of Python on the machine; default: 3.12")
    parser.add_argument("--cuda", default="13.0", help="version of CUDA that its PyTorch has; default: 13.0")
    parser.add_argument("--have", nargs="*", default=list(HAVE), help=f"what it has; default: {' '.join(HAVE)}")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "gpu_wheels", help="default: build/gpu_wheels")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for wheel in args.folder.glob("*.whl"):
        wheel.unlink()  # two versions of one package cannot be installed
    pip("download", "--no-deps", "--dest", str(args.folder), *target(args.python), *needed(args.python, args.have))
    for wheel in args.folder.glob("bitsandbytes-*.whl"):
        slim(wheel, args.cuda)
    print(f"{args.folder}: {check(args.folder)}")


if __name__ == "__main__":
    main()
