"""The content of the built and installed wheel."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from .imports import PACKAGE

ROOT = PACKAGE.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy: the build leaves its own folders behind."""
    copy, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    shutil.copytree(PACKAGE, copy / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(copy)], check=True)
    return zipfile.ZipFile(next(target.glob("*.whl")))


def test_the_wheel_carries_all_sources_scripts_styles_and_the_typing_mark(wheel: zipfile.ZipFile) -> None:
    files = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {"sgl_lab/py.typed", "sgl_lab/__init__.py"} < files
    assert {Path(name).suffix for name in files} >= {".py", ".js", ".css"}
    assert {name for name in wheel.namelist() if name.startswith("sgl_lab/")} == files


def test_the_wheel_has_the_command_the_licence_and_nothing_beside_the_package(wheel: zipfile.ZipFile) -> None:
    info = next(name.partition("/")[0] for name in wheel.namelist() if ".dist-info/" in name)
    assert "sgl-lab = sgl_lab.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert "Apache License" in wheel.read(f"{info}/licenses/LICENSE").decode()
    assert {name.partition("/")[0] for name in wheel.namelist()} == {"sgl_lab", info}


def test_every_requirement_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    extra = [line for name, lines in extras.items() if name not in ("litellm", "dspy") for line in lines]
    wanted = {package(line) for line in [*project["dependencies"], *extra]}
    wanted.discard("sgl-lab")  # an extra that is made of others
    assert len(wanted) > 25
    assert wanted <= {package(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}


def package(requirement: str) -> str:
    """Its name, spelled as indexes compare names."""
    return re.split(r"[=<>;\[ ]", requirement)[0].lower().replace("_", "-")
