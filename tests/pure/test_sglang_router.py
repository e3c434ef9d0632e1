"""What sglang-router 0.3.2 says of its workers, and a worker that dies in the middle of an answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import sgl_lab as sgl
from sgl_lab.backends.sglang import RuntimeEndpoint
from sgl_lab.backends.sglang.router import Worker, workers_of
from sgl_lab.contracts.errors import ConnectionFailed
from sgl_lab.contracts.events import CellStarted, Entry, ForkOpened
from sgl_lab.contracts.ids import ForkId, RunId
from sgl_lab.magics.commands.backends import worker_rows
from sgl_lab.viz.draw import workers

WORKERS = {
    "workers": [
        {"id": "5b", "url": "http://127.0.0.1:31601", "model_id": "smollm2", "is_healthy": True, "load": 2, "worker_type": "regular"},
        {"id": "b8", "url": "http://127.0.0.1:31602", "model_id": "smollm2", "is_healthy": False, "load": 0},
    ],
    "total": 2,
}
METRICS = """# TYPE sgl_lab_prompt_tokens counter
sgl_lab_prompt_tokens_total{worker_addr="http://127.0.0.1:31601"} 400
sgl_lab_cached_prompt_tokens_total{worker_addr="http://127.0.0.1:31601"} 300
sgl_lab_requests_total{reason="stop",worker_addr="http://127.0.0.1:31601"} 3
sgl_lab_requests_total{reason="length",worker_addr="http://127.0.0.1:31601"} 2
sgl_lab_hit_ratio{worker_addr="http://127.0.0.1:31601"} NaN
"""


def test_workers_are_told_with_health_load_and_hits() -> None:
    first, second = workers_of(WORKERS, METRICS)
    assert first == Worker("http://127.0.0.1:31601", True, "smollm2", 2, 5, 400, 300)
    assert first.hit_rate == 0.75
    assert (second.is_healthy, second.n_prompt, second.hit_rate) == (False, None, None)
    assert workers_of({}, "") == ()


def test_counts_of_sglang_servers_have_other_names() -> None:
    metrics = 'sglang:prompt_tokens_total{model_name="m",worker_addr="http://127.0.0.1:31601"} 1.0e2\n'
    metrics += 'sglang:cached_tokens_total{model_name="m",worker_addr="http://127.0.0.1:31601"} 50.0\n'
    assert workers_of(WORKERS, metrics)[0].hit_rate == 0.5


def test_a_routers_workers_are_a_table_with_the_forks_that_each_served() -> None:
    run, main = RunId(1), ForkId(1)
    events = [CellStarted(run, "In[3]", ""), *(ForkOpened(run, ForkId(n), None if n == 1 else main, n - 2, "") for n in range(1, 10))]
    names = workers.fork_names(Entry(n, n, event) for n, event in enumerate(events))
    served = {ForkId(n): {"127.0.0.1:31601": n} for n in range(1, 10)} | {ForkId(77): {"127.0.0.1:31602": 1}}
    rows = worker_rows(workers_of(WORKERS, METRICS), served, names)
    assert rows[0].forks[0] == ("In[3] fork 8", 9)
    assert rows[1].forks == (("fork 77", 1),)
    (_, first, second) = workers.table(rows)
    assert first[:5] == ("127.0.0.1:31601", "● healthy", "2", "5", "75 %  (300 of 400)")
    assert first[5].startswith("In[3] fork 8 × 9, In[3] fork 7 × 8")
    assert first[5].endswith("and 3 more forks")
    assert second == ("127.0.0.1:31602", "✕ not healthy", "0", "–", "not published", "fork 77")
    page = workers.html(rows).source
    assert all(cell in page for row in (first, second) for cell in row)
    assert "width:75%" in page


class Cutting(BaseHTTPRequestHandler):
    """Generates bytes of `text`, two at a time; the first request breaks off after four."""

    text = "a long answer"
    bodies: list[dict[str, Any]]

    def do_GET(self) -> None:
        found: Any = {"model_path": "toy", "tokenizer_path": "toy", "is_generation": True, "context_length": 1000}
        data = json.dumps(found if self.path in ("/get_model_info", "/get_server_info") else {}).encode()
        self.send_response(200 if self.path.startswith("/get") else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.bodies.append(body)
        begun = bytes(body["input_ids"]).decode().partition(":")[2]
        rest = self.text.removeprefix(begun)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for at in range(0, len(rest), 2):
            if at == 4 and len(self.bodies) == 1:
                return
            is_last = at + 2 >= len(rest)
            meta = {
                "finish_reason": {"type": "length"} if is_last else None,
                "completion_tokens": min(at + 2, len(rest)),
                "prompt_tokens": len(body["input_ids"]),
                "cached_tokens": 3,
            }
            self.wfile.write(
                b"data: " + json.dumps({"text": "", "output_ids": [*rest[at : at + 2].encode()], "meta_info": meta}).encode() + b"\n\n"
            )
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *args: Any) -> None:
        """Silent."""


@pytest.fixture
def cutting(tmp_path: Path) -> Iterator[tuple[RuntimeEndpoint, list[dict[str, Any]]]]:
    vocab = {chr(256 + byte) if not (33 <= byte < 127) else chr(byte): byte for byte in range(128)}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    bodies: list[dict[str, Any]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Cutting,), {"bodies": bodies}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield RuntimeEndpoint(f"http://127.0.0.1:{server.server_address[1]}", tokenizer=str(tmp_path)), bodies
    server.shutdown()
    server.server_close()


def test_an_answer_goes_on_after_its_worker_died(cutting: tuple[RuntimeEndpoint, list[dict[str, Any]]]) -> None:
    endpoint, bodies = cutting
    state = sgl.start(endpoint)
    state += "Say:" + sgl.gen("answer", max_tokens=13, temperature=0)
    assert state["answer"] == "a long answer"
    first, second = bodies
    assert bytes(second["input_ids"]) == b"Say:a lo"
    assert second["sampling_params"]["max_new_tokens"] == 13 - 4
    assert first["rid"] != second["rid"]
    meta = state.get_meta_info("answer")
    assert (meta["prompt_tokens"], meta["completion_tokens"], meta["cached_tokens"]) == (4, 13, 3)


def test_an_answer_under_a_constraint_fails_and_keeps_its_text(cutting: tuple[RuntimeEndpoint, list[dict[str, Any]]]) -> None:
    endpoint, bodies = cutting
    state = sgl.start(endpoint)
    state += "Say:" + sgl.gen("answer", max_tokens=13, regex="[a-z ]+")
    with pytest.raises(ConnectionFailed) as failed:
        state["answer"]
    assert failed.value.partial == ("a lo",)
    assert len(bodies) == 1, "nothing is asked again after its first byte"
