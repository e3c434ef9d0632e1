"""The `sgl-lab` command, as a shell sees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from sgl_lab import cli
from sgl_lab import notebook as nb
from sgl_lab.engine.compute.kernels.native import build
from sgl_lab.trace.files import check_ours


def sgl_lab(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sgl_lab.cli", *map(str, args)]
    environment = os.environ | {"SGL_LAB_CACHE": str(cwd / "cache"), "IPYTHONDIR": str(cwd / "ipython")}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def exit_code(*args: str) -> int:
    try:
        return cli.main(args)
    except SystemExit as stop:
        return int(str(stop.code))


def notebook(path: Path, *sources: str) -> Path:
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources]), path)  # type: ignore[no-untyped-call]
    return path


def test_a_notebook_is_run_where_it_lies_and_its_outputs_are_saved_in_it(tmp_path: Path) -> None:
    file = notebook(tmp_path / "sums.ipynb", "n = 20", "n + 22")
    done = sgl_lab("run", file, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"wrote {file}\n")
    (output,) = nbformat.read(file, as_version=4).cells[1].outputs  # type: ignore[no-untyped-call]
    assert output.data["text/plain"] == "42"


def test_a_cell_that_raises_is_one_line_and_what_ran_is_kept(tmp_path: Path) -> None:
    source = notebook(tmp_path / "bad.ipynb", "print('before')", "1 / 0", "print('after')")
    done = sgl_lab("run", source, "-o", tmp_path / "out.ipynb", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"sgl-lab: {source}, cell 2: ZeroDivisionError: division by zero"
    first, second, third = nbformat.read(tmp_path / "out.ipynb", as_version=4).cells  # type: ignore[no-untyped-call]
    assert first.outputs[0].text == "before\n"
    assert second.outputs[0].ename == "ZeroDivisionError"
    assert third.outputs == []


def test_output_goes_through_links_and_into_devices_and_never_over_a_foreign_file(tmp_path: Path) -> None:
    source = notebook(tmp_path / "sums.ipynb", "20 + 22")
    text = source.read_text(encoding="utf-8")
    out, link, other = tmp_path / "out.ipynb", tmp_path / "link.ipynb", tmp_path / "notes.txt"
    link.symlink_to("out.ipynb")
    other.write_text("my thesis")
    for target in (link, link, "/dev/null"):
        assert exit_code("run", str(source), "-o", str(target)) == 0
    assert exit_code("run", str(source), "-o", str(other)) == 2
    assert (link.is_symlink(), other.read_text(), source.read_text(encoding="utf-8")) == (True, "my thesis", text)
    assert Path("/dev/null").is_char_device()
    edited = out.read_text(encoding="utf-8").replace("20 + 22", "20 + 23")
    out.write_text(edited, encoding="utf-8")  # by hand since: it is no longer what was written
    assert exit_code("run", str(source), "-o", str(out)) == 2
    assert out.read_text(encoding="utf-8") == edited


def test_a_page_of_the_tour_replaces_one_of_its_own_alone(tmp_path: Path) -> None:
    page = nb.as_html(nb.read(notebook(tmp_path / "a.ipynb", "1")), "a")
    (tmp_path / "ours.html").write_text(page)
    (tmp_path / "other.html").write_text("<!doctype html><title>mine</title>")
    check_ours(tmp_path / "ours.html", nb.MARK)
    assert exit_code("tour", str(tmp_path / "a.ipynb"), "-o", str(tmp_path / "other.html")) == 2


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_a_notebook_with_a_byte_order_mark_is_read(tmp_path: Path, encoding: str) -> None:
    file = notebook(tmp_path / "a.ipynb", "'é'")
    file.write_text(file.read_text(encoding="utf-8"), encoding=encoding)
    assert nb.read(file).cells[0].source == "'é'"


def test_long_lines_are_joined_and_what_is_overwritten_is_left_out() -> None:
    def stream(text: str, name: str = "stdout") -> nbformat.NotebookNode:
        return nbformat.NotebookNode(output_type="stream", name=name, text=text)

    bars = "".join(f"{n} %\r" for n in range(300_000))
    texts = ["x" * 3_000_000, bars, "done\r\n", "y" * 3_000_000 + "\r", "z\n"]
    outputs = [stream("warned\n", "stderr"), *map(stream, texts)]
    out, err = nb.joined_streams(outputs)
    assert (out.name, out.text, err.text) == ("stdout", "done\nz\n", "warned\n")
    (whole,) = nb.joined_streams([stream("x") for _ in range(100_000)])
    assert len(whole.text) == 100_000


def test_one_line_of_millions_of_characters_is_no_trouble(tmp_path: Path) -> None:
    file = notebook(tmp_path / "long.ipynb", "print('x' * 3_000_000)", "raise ValueError('y' * 3_000_000)")
    done = sgl_lab("run", file, cwd=tmp_path)
    assert done.returncode == 1
    assert max(map(len, done.stderr.splitlines())) < 5_000
    assert len(nb.read(file).cells[0].outputs[0].text) == 3_000_001


def test_a_signal_ends_the_run_and_its_kernel_and_keeps_what_ran(tmp_path: Path) -> None:
    started = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        (folder := tmp_path / number.name).mkdir()
        file = notebook(folder / "slow.ipynb", "import os; os.getpid()", "open('begun', 'w').close()\nwhile True: pass")
        command = [sys.executable, "-m", "sgl_lab.cli", "run", str(file)]
        started[file] = number, subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"IPYTHONDIR": str(folder)})
    for file, (number, process) in started.items():
        with process:
            while not (file.parent / "begun").exists():
                assert process.poll() is None
                time.sleep(0.05)
            process.send_signal(number)
            printed = process.communicate(timeout=30)[1]
        assert process.returncode == 128 + number, printed
        assert f"{file}: stopped in cell 2" in printed
        kernel = int(nb.read(file).cells[0].outputs[0].data["text/plain"])
        assert not Path(f"/proc/{kernel}").exists()


def test_a_script_sees_its_own_arguments_folder_and_sgl_lab(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("answer = 42")
    (tmp_path / "script.py").write_text("import sys, beside, sgl_lab\nprint(__name__, sys.argv[1:], beside.answer)")
    done = sgl_lab("run", "script.py", "-n", "--flag", "x", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "__main__ ['-n', '--flag', 'x'] 42\n")


def test_a_script_that_raises_shows_its_own_lines_only(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("def f():\n    raise ValueError('mine')\n\nf()\n")
    done = sgl_lab("run", "script.py", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ValueError: mine"
    assert 'File "script.py", line 4' in done.stderr
    assert "cli.py" not in done.stderr


def test_a_script_may_choose_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("raise SystemExit(7)")
    assert sgl_lab("run", "script.py", cwd=tmp_path).returncode == 7


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["run", "none.py"], "no script at none.py"),
        (["run", "none.ipynb"], "no notebook at none.ipynb"),
        (["run", "broken.ipynb"], "cannot be read as a notebook"),
        (["run", "notes.txt"], "neither a notebook (.ipynb) nor a script (.py)"),
        (["tour", "none.ipynb"], "no notebook at none.ipynb"),
        (["tuor"], "invalid choice: 'tuor'"),
        ([], "required: COMMAND"),
        (["model"], "required: list|pull|rm"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_code_2(
    args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.ipynb").write_text("{")
    monkeypatch.chdir(tmp_path)
    assert exit_code(*args) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert printed.out == ""
    assert line.startswith("sgl-lab")
    assert message in line


def test_models_are_listed_and_removed_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SGL_LAB_CACHE", str(tmp_path))
    fetched = tmp_path / "models" / "smollm2"
    fetched.mkdir(parents=True)
    (fetched / "model.gguf").write_bytes(bytes(2**20))
    assert [exit_code("model", word, *rest) for word, *rest in (["list"], ["rm", "smollm2"], ["list"], ["rm", "smollm2"])] == [0, 0, 0, 1]
    printed = capsys.readouterr()
    here, looking, other, removed, still_looking, same, gone = printed.out.splitlines()
    assert (other, looking) == (same, still_looking)
    assert looking.split()[0] == "shapes"  # it comes with the package
    assert other.split()[0] == "qwen2.5-coder-0.5b"
    assert here.split()[:3] == ["smollm2", "1.0", "MiB"]
    assert removed == "removed smollm2: 1.0 MiB freed"
    assert gone.endswith("not fetched yet: sgl-lab model pull smollm2")
    assert printed.err.startswith("sgl-lab: smollm2 is not in the model cache")


def test_the_doctor_says_what_is_here_and_what_to_do_about_what_is_not(tmp_path: Path) -> None:
    done = sgl_lab("doctor", cwd=tmp_path)
    lines = {line[8:22].strip(): line for line in done.stdout.splitlines()}
    assert done.returncode == 0, done.stdout
    assert {"python", "torch", "cpu", "gpu", "triton", "jupyterlab", "anywidget", "browser", "graphviz", "model cache"} <= lines.keys()
    assert lines["smollm2"].startswith("-")
    assert "sgl-lab model pull smollm2" in lines["smollm2"]
    assert lines["python"].startswith("ok")
    assert lines["native step"].startswith("-")  # this cache has none
    assert "torch in float32" in lines["models run"]
    if build.advice() is not None:
        assert "`sgl-lab native`" in lines["native step"]
