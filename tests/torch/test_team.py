"""Nothing that the native step's threads throw, or that starting them throws, ends the process."""

from __future__ import annotations

import resource
import subprocess
from pathlib import Path

import pytest

from sgl_lab.contracts.errors import BadArgument
from sgl_lab.engine.compute.kernels.native import build
from sgl_lab.session import Lab

GXX = build.compiler()


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if GXX is None:
        pytest.skip("there is no C++ compiler")
    target = tmp_path_factory.mktemp("team") / "faults"
    source = Path(__file__).parent / "team_faults.cpp"
    subprocess.run([GXX, "-std=c++20", "-O1", "-pthread", "-I", str(build.SOURCES), str(source), "-o", str(target)], check=True)
    return target


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_piece_that_throws_ends_its_job_and_nothing_else(program: Path, n_threads: int) -> None:
    done = subprocess.run([program, str(n_threads)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "all rounds\n")


def test_threads_that_cannot_be_had_are_an_exception_after_those_there_were_have_ended(program: Path) -> None:
    def little_memory() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    done = subprocess.run([program, "20000"], capture_output=True, text=True, timeout=60, check=False, preexec_fn=little_memory)
    assert (done.returncode, done.stdout) == (0, "no more threads\n")


def test_more_threads_than_a_machine_has_any_use_for_are_refused(tiny_folder: Path) -> None:
    with pytest.raises(BadArgument, match="threads must be at most"):
        Lab(tiny_folder, threads=20_000)


def test_what_one_compiler_built_is_found_by_another_and_by_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build.built(tmp_path) is None
    target = build.library_path(tmp_path)
    target.parent.mkdir()
    other = target.with_name(f"{target.stem.rpartition('-')[0]}-00000000.so")
    other.touch()
    target.with_name("step-0123456789abcdef-00000000.so").touch()  # of other sources
    assert build.built(tmp_path) == other
    target.touch()
    assert build.built(tmp_path) == target
    target.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert build.compiler() is None
    assert build.built(tmp_path) == other
