"""N4: 64 streams at 200 tokens a second. What a front end is sent, and how soon the kernel answers meanwhile."""

from __future__ import annotations

import json
import time
from typing import Any

from .conftest import Kernel

STREAMS, PER_SECOND, SECONDS = 64, 200, 4
ANSWER_S = 0.2

SETUP = """
import json, random, threading, time
from IPython.display import display
from sgl_lab.contracts.events import *
from sgl_lab.trace import Ring
from sgl_lab.viz.live import open_live
from sgl_lab.viz.sender import Views
from sgl_lab.viz.views import LanesView, MetricsView, TokensView, TreeView

ring, run = Ring(), 1
views = lambda: Views(TokensView(str, run), TreeView(str), LanesView(run), MetricsView(run))
entries = []
ring.listen(entries.append)
live = open_live(ring, views(), snapshot=lambda: None, options={"title": "busy"}, on_stop=lambda: None)
"""

SPEAK = f"""
def speak():
    ring.emit(ModelLoaded("fake", ("fake",), "cpu", "none", 100_000, 1, 10_000))
    ring.emit(NodeInserted(1, None, (), ("fake",)))
    ring.emit(CellStarted(run, "In[1]", ""))
    ring.emit(ForkOpened(run, 1000, None, 0, "s"))
    streams = range(1, {STREAMS} + 1)
    for n in streams:
        ring.emit(ForkOpened(run, n, 1000, n - 1, ""))
        ring.emit(StreamExtended(n, 0, (7, n), "text", "user"))
        ring.emit(RequestQueued(n, n, None, "gen", (7, n), {PER_SECOND * SECONDS}, n))
        ring.emit(PrefixMatched(n, 0, 2, 1))
    began, top = time.monotonic(), tuple((token, -1.0 - token) for token in range(5))
    for step in range({PER_SECOND * SECONDS}):
        ring.emit(TokensSampled(step, tuple(Sample(n, step, -0.5, top, None, False) for n in streams)))
        ring.emit(StepRan(step, (), tuple(streams), 0, 100_000 - {STREAMS} * step, 5.0))
        time.sleep(max(0.0, began + (step + 1) / {PER_SECOND} - time.monotonic()))
    for n in streams:
        ring.emit(NodeInserted(1 + n, 1, (7, n, *range({PER_SECOND * SECONDS} - 1)), ("fake",)))
        ring.emit(RequestFinished(n, "length", 2, {PER_SECOND * SECONDS}, 0, 2, {PER_SECOND * SECONDS}))
    ring.emit(CellFinished(run, "ok", ""))
    global took
    took = time.monotonic() - began
    live.status("done")
    live.close()

speaker = threading.Thread(target=speak)
display(live.widget)
speaker.start()
"""

FOLD = """
speaker.join()
whole = views()
whole.fold(entries)
print(json.dumps({name: view.full() for name, view in whole.named().items()}), flush=True)
live.error, round(took, 1)
"""


class Page:
    """What a page has of the run, and when it was told."""

    def __init__(self) -> None:
        self.seq: list[int] = []
        self.at: dict[str, list[float]] = {"tokens": [], "tree": []}
        self.tokens: dict[int, list[Any]] = {}
        self.nodes: dict[int, Any] = {}
        self.bars: dict[int, Any] = {}
        self.metrics: dict[str, Any] = {}

    def take(self, message: dict[str, Any], now: float) -> None:
        self.seq.append(message["seq"])
        for channel, times in self.at.items():
            if channel in message:
                times.append(now)
        for op in message.get("tokens", {}).get("ops", []):
            own = self.tokens.setdefault(op["fork"], [])
            start = op["start"]
            own[start:] = op["toks"]
        self.nodes |= {node["id"]: node for node in message.get("tree", {}).get("nodes", [])}
        self.bars |= {bar["id"]: bar for bar in message.get("lanes", {}).get("bars", [])}
        self.metrics = message.get("metrics") or self.metrics


def test_64_streams_at_200_tokens_a_second_leave_the_kernel_answering_and_lose_nothing(fresh_kernel: Kernel) -> None:
    kernel, page = fresh_kernel, Page()
    client = kernel.client
    assert kernel.run(SETUP).status == "ok"
    answer(kernel, SPEAK)
    answers = []
    began = time.monotonic()
    while time.monotonic() < began + SECONDS - 0.5:
        answers.append(answer(kernel, "1 + 1"))
        time.sleep(0.05)
    message, printed = client.execute(FOLD, allow_stdin=False), ""
    while True:
        heard = client.get_iopub_msg(timeout=60)
        content, kind = heard["content"], heard["msg_type"]
        if kind == "comm_msg" and content["data"].get("content", {}).get("kind") in ("delta", "full"):
            page.take(content["data"]["content"], heard["header"]["date"].timestamp())
        elif kind == "stream":
            printed += content["text"]
        elif kind == "execute_result" and heard["parent_header"]["msg_id"] == message:
            assert content["data"]["text/plain"].startswith("(None, 4."), content
            break
    whole = json.loads(printed)
    answers.sort()
    print(f"answers: median {answers[len(answers) // 2] * 1e3:.0f} ms, worst {answers[-1] * 1e3:.0f} ms of {len(answers)}")
    assert len(answers) > 10
    assert answers[int(0.9 * len(answers))] <= ANSWER_S, answers
    assert page.seq == list(range(len(page.seq)))
    assert most_in_a_second(page.at["tree"]) <= 10 + 1  # one more where a second begins with one
    assert most_in_a_second(page.at["tokens"][:-20]) <= 30 + 3  # the last flush may take several messages
    assert (len(page.at["tree"]) > 15, len(page.at["tokens"]) > 40) == (True, True)
    assert page.tokens == {op["fork"]: op["toks"] for op in whole["tokens"]["ops"]}
    assert {len(own) for own in page.tokens.values()} == {2 + PER_SECOND * SECONDS}
    assert len(page.tokens) == STREAMS
    assert page.nodes == {node["id"]: node for node in whole["tree"]["nodes"]}
    assert page.bars == {bar["id"]: bar for bar in whole["lanes"]["bars"]}
    assert page.metrics == whole["metrics"]


def answer(kernel: Kernel, code: str) -> float:
    """Seconds until the kernel has answered."""
    asked = time.monotonic()
    message = kernel.client.execute(code, allow_stdin=False)
    while kernel.client.get_shell_msg(timeout=30)["parent_header"]["msg_id"] != message:
        pass
    return time.monotonic() - asked


def most_in_a_second(times: list[float]) -> int:
    return max(sum(start <= other < start + 1 for other in times) for start in times)
