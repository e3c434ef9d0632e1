"""Programs that other people wrote, against our door, and our backends against their servers. `make partners` sets them up; a test
whose partner is not set up is skipped and says so. `python -m tests.partners` runs the whole language on each server.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sgl_lab.contracts.tree import TreeSnapshot
from sgl_lab.serve import Door, serve
from sgl_lab.session import Lab

from ..serve.calls import call, until
from . import environments, servers
from .__main__ import COLUMNS
from .environments import python
from .surface import FEATURES, tried

CLIENTS = Path(__file__).with_name("clients")
ROOT = Path(__file__).parents[2]


def needs(name: str) -> pytest.MarkDecorator:
    missing = environments.missing(name)
    return pytest.mark.skipif(bool(missing), reason=missing)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(servers.NAME, cache_tokens=20_000) as lab:
        yield lab


@pytest.fixture
def door(lab: Lab) -> Iterator[Door]:
    with serve(lab, kv_events=True) as door:
        yield door


@needs("sglang-frontend")
def test_the_originals_frontend_runs_its_own_tests(door: Door) -> None:
    command = [python("sglang-frontend"), CLIENTS / "original.py", door.url, door.token]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert {name: outcome for name, outcome in found.items() if outcome != "ok"} == {}


def texts_of(snapshot: TreeSnapshot, lab: Lab) -> list[str]:
    """The text up to the end of each node."""
    paths: dict[int, tuple[int, ...]] = {}
    for node in snapshot.nodes:
        paths[node.node] = (paths.get(node.parent, ()) if node.parent is not None else ()) + node.tokens
    return sorted("".join(map(lab.spell, path)) for path in paths.values() if path)


@needs("radixview")
def test_radixview_draws_the_tree_of_the_engine(lab: Lab, door: Door) -> None:
    command = [str(python("radixview")), str(CLIENTS / "radixview_tree.py"), door.url, door.token]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as viewer:
        assert viewer.stdin is not None
        assert viewer.stdout is not None
        assert viewer.stdout.readline() == "ready\n"

        def drawn() -> Any:
            viewer.stdin.write("tree\n")  # type: ignore[union-attr]  # asserted above
            viewer.stdin.flush()  # type: ignore[union-attr]
            return json.loads(viewer.stdout.readline())  # type: ignore[union-attr]

        for text in ("One fine day a fox", "One fine day a hen", "Two ships"):
            assert call(door, "/generate", {"text": text, "sampling_params": {"max_new_tokens": 4, "temperature": 0}})[0] == 200
        assert until(lambda: sum(node.n_tokens if hasattr(node, "n_tokens") else len(node.tokens) for node in lab.snapshot().nodes) > 0)
        wanted = {text for text in texts_of(lab.snapshot(), lab) if text}
        assert until(lambda: wanted <= set(drawn()["texts"])), (sorted(wanted), drawn()["texts"])
        viewer.stdin.close()


@needs("dspy")
def test_dspys_rag_finds_its_prefix_in_the_tree() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "dspy_rag.py", "--questions", "3", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(found["answers"]) == 3
    assert all(found["answers"])
    _, *later = found["requests"]
    assert all(cached > 100 for _, cached in later), found["requests"]


SOME = (
    *("system, user and assistant turns", "fork and join", "streamed text", "json_schema", "regex", "select", "image"),
    "cached tokens counted",
)
WITHOUT = {"llm-katan": ("streamed text",)}
"""what a server does not do, and does not say: it sends a stream of one piece"""


@pytest.mark.parametrize("column", ["llama.cpp", "transformers", "llm-katan", "vllm"])
def test_a_foreign_server_does_what_the_backend_declares(column: str) -> None:
    """A few features; `python -m tests.partners` runs all."""
    if obstacle := servers.obstacle(column):
        pytest.skip(obstacle)
    with servers.SERVERS[column]() as at:
        backend = COLUMNS[column](at)
        some = [feature for feature in FEATURES if feature.name in SOME and feature.name not in WITHOUT.get(column, ())]
        found = {feature.name: tried(feature, backend) for feature in some}
    assert {name: (str(verdict), verdict.reason) for name, verdict in found.items() if not verdict.agrees} == {}
