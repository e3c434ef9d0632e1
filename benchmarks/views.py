"""Measures the live views and the size of what is saved: frames per second in real Chromium,
messages, saved cells, pages.

    python benchmarks/views.py [--nodes 500 2000 5000] [--seconds 4]

A real engine on a runner without a model serves 64 forks at 600 tokens per second in total. Its
tree has the given number of nodes when the measurement begins, and continues to grow. Messages are
sent to the page as the pump would send them.

    follow      the tree as it opens
    whole       the whole tree
    moving      the tree while it is dragged all the time
    all         with tokens and timeline open, too
    ms a frame  CPU time of the page's main thread, which depends less on other load than frames per
                second (of 16.7 ms per frame the compositor needs some, too)
    late        a page that opens when all of that exists: what it receives at once, before the
                texts of nodes

The messages are built by the pump, which `benchmarks/pump.py` measures alone. Needs the browser of
the tests. Targets: 50 frames per second at 2,000 nodes, at most 10 messages
per second with the tree, none over 64 KiB, a saved cell under 256 KB.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import random
import re
import statistics
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from playwright.sync_api import Browser, CDPSession

from sgl_lab.contracts.events import CellStarted, ForkOpened, RequestQueued, StreamExtended
from sgl_lab.contracts.ids import ExprId, ForkId, RunId
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.contracts.port import GenJob, GenOutput
from sgl_lab.engine.plan import Draw, Plan, RowOutput
from sgl_lab.engine.serving.config import EngineConfig
from sgl_lab.engine.serving.engine import Engine
from sgl_lab.engine.tools.fake import ByteTokenizer
from sgl_lab.magics.commands.keep import exported
from sgl_lab.magics.folded import Folded
from sgl_lab.magics.session import Session
from sgl_lab.trace import Record, Ring
from sgl_lab.viz import bundle
from sgl_lab.viz.draw import page as page_of
from sgl_lab.viz.sender import Message, Sender, Views
from sgl_lab.viz.views import views_of
from tests.browser.bare import WidgetPage
from tests.browser.harness import chromium
from tests.pure.story import decoded, poll

RUN = RunId(1)
FORKS = 64
TOKENS_A_SECOND = 600
TICK_S = 1 / 30

FRAMES = """
window.gaps = [];
let last = performance.now();
requestAnimationFrame(function tick(now) { gaps.push(now - last); last = now; requestAnimationFrame(tick); });
"""
MOVE = """
const stage = document.querySelector('.sgl-stage');
let x = 600, way = 1;
stage.dispatchEvent(new PointerEvent('pointerdown', { button: 0, clientX: x, clientY: 500, pointerId: 1 }));
stage.setPointerCapture = () => {};
setInterval(() => {
  x += 9 * way;
  if (x > 900 || x < 300) way = -way;
  stage.dispatchEvent(new PointerEvent('pointermove', { clientX: x, clientY: 500 + (x % 90), pointerId: 1 }));
}, 16);
"""


class Words:
    """A runner that answers at once with random words and alternatives."""

    is_exact = True

    def __init__(self) -> None:
        self._random = random.Random(3)

    def run(self, plan: Plan) -> tuple[RowOutput, ...]:
        plan.before_draws()
        return tuple(RowOutput((self._draw(),) if row.sample else ()) for row in plan.rows)

    def _draw(self) -> Draw:
        token = self._random.choice(b"abcdefghijklmnopqrstuvwxyz     ")
        return Draw(token, -1.0, tuple((other, -1.0 - n) for n, other in enumerate((token, 101, 97, 111, 110))))

    def copy_page(self, source: int, target: int) -> None: ...

    def close(self) -> None: ...


class Crowd:
    """Forks that send a new request after each answer."""

    def __init__(self) -> None:
        self.ring = Ring(capacity=1 << 20)
        self.engine = Engine(
            EngineConfig(n_pages=400_000, draft_tokens=0), Words(), ByteTokenizer(), context=4096, namespace=("words",), emit=self.ring.emit
        )
        self.spell = chr
        self.n_tokens = 0
        self._random = random.Random(4)
        self._exprs = count(1)
        self._streams: dict[ForkId, tuple[int, ...]] = {}
        self.ring.emit(CellStarted(RUN, "crowd", ""))
        for number in range(1, FORKS + 1):
            fork = ForkId(number)
            self.ring.emit(ForkOpened(RUN, fork, None if number == 1 else ForkId(1), number, f"fork {number}"))
            self._streams[fork] = tuple(b"One of many who ask at once. ")
            self.ring.emit(StreamExtended(fork, 0, self._streams[fork], "text", ""))
            self.ask(fork)

    def ask(self, fork: ForkId) -> None:
        crowd = self

        class Listener:
            def on_progress(self, index: int, text: str, ids: tuple[int, ...]) -> None:
                crowd.n_tokens += len(ids)

            def on_done(self, outputs: tuple[GenOutput, ...]) -> None:
                start = len(crowd._streams[fork])
                # cut back, to continue differently
                crowd._streams[fork] = crowd._streams[fork][: 60 + 30 * crowd._random.randrange(3)]
                crowd.ring.emit(StreamExtended(fork, start, outputs[0].ids, "generated", ""))
                crowd.ask(fork)

            def on_error(self, error: Exception) -> None:
                raise error

        content = tuple(self._random.choices(b"etaoinshrdlu ", k=12))
        stream = self._streams[fork]
        self.ring.emit(StreamExtended(fork, len(stream), content, "text", ""))
        self._streams[fork] = prompt = stream + content
        job = GenJob(prompt, SamplingParams(max_tokens=24, ignore_eos=True, top_logprobs=5), fork, ExprId(next(self._exprs)))
        group = self.engine.gen(job, Listener())
        for request in group.requests:
            self.ring.emit(RequestQueued(request.id, fork, job.expr, "gen", prompt, 24, group.id))
        self.engine.add(group)

    def grow(self, n_nodes: int) -> None:
        while len(self.engine.snapshot(0).nodes) < n_nodes:
            for _ in range(20):
                self.engine.step()


def measure(crowd: Crowd, browser: Browser, seconds: float, how: str) -> dict[str, Any]:
    page = WidgetPage(browser)
    page.open(views=["tokens", "tree", "timeline"] if how == "all" else ["tree"])
    sender = Sender(Views(*views_of(RUN, crowd.spell)))
    sender.fold(crowd.ring.read(0).entries)
    cursor = crowd.ring.cursor
    sender.status("running", "", None)
    sender.hello()
    late = poll(sender, 0)
    tell(page, late + poll(sender, 0, flush=True))
    page.painted()
    if how == "whole":
        page.page.get_by_role("button", name="Show the whole tree").click()
    elif how == "moving":
        page.page.evaluate(MOVE)
    page.page.wait_for_timeout(800)
    meter = page.context.new_cdp_session(page.page)
    meter.send("Performance.enable", {"timeDomain": "threadTicks"})
    busy = busy_s(meter)
    page.page.evaluate(FRAMES)
    began, sent, spent = time.perf_counter(), list[Message](), 0.0
    n_before = crowd.n_tokens
    while (now := time.perf_counter() - began) < seconds:
        while crowd.n_tokens - n_before < TOKENS_A_SECOND * now:
            crowd.engine.step()
        started = time.perf_counter()
        batch = crowd.ring.read(cursor)
        cursor = batch.cursor
        sender.fold(batch.entries)
        packets = sender.poll(int(1e9 * (10 + now)))
        spent += time.perf_counter() - started
        messages = [decoded(packet) for packet in packets]
        sent += messages
        tell(page, messages)
        time.sleep(max(0.0, TICK_S - (time.perf_counter() - began - now)))
    gaps: list[float] = page.page.evaluate("() => gaps")
    busy = busy_s(meter) - busy
    page.context.close()
    trees = [size(message["tree"]) for message in sent if "tree" in message]
    return {
        "late": [size(message) for message in late],
        "busy": 1000 * busy / len(gaps),
        "largest": max(map(size, late + sent)),
        "fps": 1000 * len(gaps) / sum(gaps),
        "slow": sorted(gaps)[int(0.95 * len(gaps))],
        "trees": trees,
        "tokens": [size(message["tokens"]) for message in sent if "tokens" in message],
        "share": spent / seconds,
        "errors": page.errors,
    }


def busy_s(meter: CDPSession) -> float:
    """Seconds of work of the page's main thread."""
    return float(next(each["value"] for each in meter.send("Performance.getMetrics")["metrics"] if each["name"] == "TaskDuration"))


def size(part: Any) -> int:
    return len(json.dumps(part, separators=(",", ":")))


def tell(page: WidgetPage, messages: list[Message]) -> None:
    if messages:
        page.page.evaluate("(messages) => JSON.parse(messages).forEach((message) => model.receive(message))", json.dumps(messages))


COLUMNS = ("frames/s", "95 % in ms", "ms a frame", "tree msgs/s", "KB each", "token msgs/s", "KB each", "largest KB", "of a core")


def views(browser: Browser, sizes: list[int], seconds: float) -> None:
    print(f"{FORKS} forks, {TOKENS_A_SECOND} tokens/s, 1280 x 900")
    print(f"{'nodes':>6} {'view':<8}" + "".join(f"{name:>14}" for name in COLUMNS))
    for n_nodes in sizes:
        crowd = Crowd()
        crowd.grow(n_nodes)
        for how in ("follow", "whole", "moving", "all"):
            found = measure(crowd, browser, seconds, how)
            trees, tokens = found["trees"], found["tokens"]
            figures = [found["fps"], found["slow"], found["busy"], len(trees) / seconds, statistics.mean(trees) / 1e3]
            figures += [len(tokens) / seconds, statistics.mean(tokens) / 1e3, found["largest"] / 1e3, found["share"]]
            print(f"{n_nodes:>6,} {how:<8}" + "".join(f"{figure:>14.2f}" for figure in figures), *found["errors"], flush=True)
        late = found["late"]
        print(f"{n_nodes:>6,} late    {sum(late) / 1e3:.0f} KB in {len(late)} messages, the largest {max(late) / 1e3:.1f} KB", flush=True)


def saved(lengths: list[int]) -> None:
    columns = (
        f"{'cell KB':>9}{'pictures':>10}{'code':>7}{'recording':>11}{'moments, without':>30}{'made in':>10}{'page KB':>9}{'recording':>11}"
    )
    print(f"\n{'tokens':>7}{'nodes':>7}{columns}{'made in':>10}")
    code = len(bundle.player("", {}))
    for n_tokens in lengths:
        crowd = Crowd()
        while crowd.n_tokens < n_tokens:
            crowd.engine.step()
        record = Record(RUN)
        for entry in crowd.ring.read(0).entries:
            record.append(entry)
        started = time.perf_counter()
        cell = Folded(record, crowd.spell).bundle(("tokens", "tree", "timeline"), "crowd")
        seconds = time.perf_counter() - started
        whole, page_s = exported_page(record)
        page = cell["text/html"]
        script = "".join(re.findall(r"<script>.*?</script>", page, re.DOTALL))
        kept = moments(script) if script else "no player"
        kb = [len(part.encode()) / 1024 for part in (page + cell["text/plain"], page.replace(script, "") + cell["text/plain"])]
        recording = max(0, len(script) - code) / 1024
        print(
            f"{n_tokens:>7,}{len(crowd.engine.snapshot(0).nodes):>7,}{kb[0]:>9.0f}{kb[1]:>10.0f}{code / 1024:>7.0f}{recording:>11.0f}"
            f"{kept:>30}{seconds:>8.2f} s{len(whole.encode()) / 1024:>9,.0f}"
            f"{len(re.findall(RECORDING, whole)[0]) / 1024:>11,.0f}{page_s:>8.2f} s",
            flush=True,
        )


def moments(script: str) -> str:
    """How many moments are kept, and which details are dropped."""
    meta = json.loads(re.findall(r"replay\(home, css, (\{.*?\})", script)[0])
    frames = json.loads(gzip.decompress(base64.b64decode(re.findall(r'await unpack\("([\w+/=]+)"\)', script)[0])))["frames"]
    return f"{len(frames)} of {meta['n_moments']}{', ' + meta['dropped'].replace(' and other nodes', ', nodes') if meta['dropped'] else ''}"


RECORDING = r"data-sgl-recording=[^>]*>([^<]*)<"


def exported_page(record: Record) -> tuple[str, float]:
    """The page that `%sgl export` writes, and the seconds to create it."""
    record.end(chr)
    started = time.perf_counter()
    return page_of.page("crowd", exported(Session(), record), bundle.players()), time.perf_counter() - started


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="*", default=[500, 2_000, 5_000])
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    if options.nodes:
        with chromium() as browser:
            views(browser, options.nodes, options.seconds)
    saved([200, 1_000, 5_000, 20_000])
