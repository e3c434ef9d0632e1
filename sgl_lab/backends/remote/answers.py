"""Answers on disk, so that a notebook runs again without paying: opt-in, and keyed by everything
that decides an answer.

A key is the hash of the server, the model, the vendor's class and mode, the prompt with its images,
the sampling parameters, the tools or choices, and how many times the same was asked before: five
samples drawn by five equal calls stay five. `rewind` begins that count again; the magics do so at
each cell, a script at its start.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path

from ...contracts.conversation import ChatJob, ChatOutput, DecisionJob, DecisionOutput, TextLogprob, ToolCallPart
from ...contracts.errors import BadArgument
from ...contracts.port import Usage

VERSION = 1
NOT_DECISIVE = ("fork", "expr", "shown", "shared")
"""fields of a job that its answer does not depend on"""


class Answers:
    """A folder of answers. Several backends and processes may share it."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser()
        self.n_found = self.n_missed = 0
        self._lock = threading.Lock()
        self._n_calls: Counter[str] = Counter()
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise BadArgument(f"answers cannot be kept in {self.folder}: {error.strerror}", hint="cache= takes a folder") from None

    def __repr__(self) -> str:
        return f"<answers in {self.folder}: {self.n_found} found, {self.n_missed} missed>"

    def rewind(self) -> None:
        """Equal calls count from one again."""
        with self._lock:
            self._n_calls.clear()

    def key(self, job: ChatJob | DecisionJob, about: Mapping[str, object]) -> str:
        """Of this job's next answer; `about` is all that decides it and is not in the job."""
        plain = {"version": VERSION, "kind": type(job).__name__, **about} | {
            field.name: _plain(getattr(job, field.name)) for field in fields(job) if field.name not in NOT_DECISIVE
        }
        digest = hashlib.sha256(json.dumps(plain, sort_keys=True, default=str).encode("utf-8", "surrogatepass")).hexdigest()
        with self._lock:
            self._n_calls[digest] += 1
            return f"{digest}-{self._n_calls[digest]}"

    def find(self, key: str) -> tuple[ChatOutput, ...] | DecisionOutput | None:
        """What was kept; None where there is nothing, or nothing that can be read."""
        found = None
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = _read(json.loads(self._path(key).read_text("utf-8")))
        with self._lock:
            self.n_found += found is not None
            self.n_missed += found is None
        return found

    def keep(self, key: str, outcome: tuple[ChatOutput, ...] | DecisionOutput) -> None:
        """A disk that is full, or read-only, keeps nothing; the answer is not lost."""
        data = asdict(outcome) if isinstance(outcome, DecisionOutput) else [asdict(output) for output in outcome]
        path = self._path(key)
        with contextlib.suppress(OSError):
            path.parent.mkdir(exist_ok=True, mode=0o700)
            descriptor, name = tempfile.mkstemp(dir=path.parent)
            try:
                with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
                    json.dump(data, file)
                os.replace(name, path)
            except BaseException:
                os.unlink(name)
                raise

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {"is": type(value).__name__} | {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value


def _read(data: object) -> tuple[ChatOutput, ...] | DecisionOutput:
    if isinstance(data, dict):
        return DecisionOutput(tuple(map(float, data["probabilities"])), Usage(**data["usage"]))
    if not isinstance(data, list):
        raise ValueError
    return tuple(map(_output, data))


def _output(data: object) -> ChatOutput:
    if not isinstance(data, dict):
        raise ValueError
    calls = tuple(ToolCallPart(**call) for call in data.pop("tool_calls"))
    logprobs = tuple(
        TextLogprob(each["text"], each["logprob"], tuple((text, logprob) for text, logprob in each["top"])) for each in data.pop("logprobs")
    )
    return ChatOutput(usage=Usage(**data.pop("usage")), tool_calls=calls, logprobs=logprobs, **data)
