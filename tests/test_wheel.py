"""The wheel: it holds what the package needs, and nothing else."""

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "README.md", "LICENSE")


def test_the_wheel_holds_every_file_of_the_package(tmp_path):
    try:
        if int(version("setuptools").split(".")[0]) < 77:
            pytest.skip("setuptools is older than what builds the package")
    except PackageNotFoundError:
        pytest.skip("setuptools is not installed, which builds the package")
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "hf_lifelong", tmp_path / "hf_lifelong", ignore=ignore)
    for name in SOURCES:
        shutil.copyfile(ROOT / name, tmp_path / name)
    code = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = next(name for name in names if name.endswith("/METADATA"))
        scripts = archive.read(about.replace("METADATA", "entry_points.txt")).decode()
        assert "# hf_lifelong" in archive.read(about).decode()
    package = {
        path.relative_to(tmp_path).as_posix() for path in (tmp_path / "hf_lifelong").rglob("*") if path.is_file()
    }
    assert {name for name in names if ".dist-info/" not in name} == package
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "hf-lifelong = hf_lifelong.cli:main" in scripts
