"""Measures an exploration: how soon a branch appears, what it computes, and how smoothly its panel is
painted.

    python benchmarks/explore.py [--branches 30] [--nodes 2000] [--seconds 4]

    branch  the built-in model: from the choice of an alternative to the first new token of its branch,
            as the events have it, and the tokens of the prompt that were computed before it
    panel   real Chromium: a page with 40 branches and a tree of `--nodes` nodes, while another branch
            grows by a token every 33 ms and the focus moves

Targets: a branch after 150 ms (median), 1 token computed; 50 frames per second. Needs the built-in
model and the browser of the tests.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from views import FRAMES, TICK_S, busy_s, tell

import sgl_lab as sgl
from sgl_lab.contracts.events import (
    BranchChanged,
    CellStarted,
    Event,
    ExplorationOpened,
    ForkOpened,
    NodeInserted,
    PromptPiece,
    RequestQueued,
    Sample,
    StreamExtended,
    TokensSampled,
)
from sgl_lab.contracts.ids import ForkId, NodeId, RequestId, RunId
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.explore.exploration import Exploration
from sgl_lab.lang.state import start
from sgl_lab.trace import Ring
from sgl_lab.viz.sender import Sender, Views
from sgl_lab.viz.views import views_of
from sgl_lab.viz.views.explore import ExploreView
from sgl_lab.viz.views.inspection import inspections
from tests.browser.bare import WidgetPage
from tests.browser.harness import chromium
from tests.pure.story import decoded, poll

RUN = RunId(1)
PROMPT = tuple(b"One prompt for all of them. ")
N_TOKENS = 60
N_BRANCHES = 40


def branches(n: int) -> None:
    with sgl.Lab() as lab:
        with lab.record("In[1]") as record:
            state = start(lab.backend, lab.emit, record.run, SamplingParams(logprobs=True, top_logprobs=8))
            state += sgl.system("You are a terse travel guide.") + sgl.user("Describe a day in Lisbon.")
            state += sgl.assistant(sgl.gen("day", max_tokens=48, temperature=0, ignore_eos=True))
            state.finish()
        exploration = Exploration(lab, record, inspections(record.entries)[-1], max_tokens=16)
        cells = exploration.cells(0)
        places = [(at, token) for at, cell in enumerate(cells[:40]) for token, _ in cell.top if token != cell.token]
        for at, token in places[:: max(1, len(places) // n)][:n]:
            exploration.branch(0, at, token)
        rows = exploration.picture()["branches"][1:]
        exploration.close()
    times = sorted(row["ms"] or 0.0 for row in rows)
    most, late = statistics.median(times), times[int(0.9 * len(times))]
    computed = sorted({row["computed"] for row in rows})
    print(f"{len(rows)} branches: first new token after {most:.0f} ms (median), {late:.0f} ms (90 %)")
    print(f"tokens of the prompt that were computed: {', '.join(map(str, computed))}")


def story(n_nodes: int) -> list[Event]:
    """An exploration with 40 branches, in a tree of that many nodes."""
    events: list[Event] = [CellStarted(RUN, "explore In[1]", "")]
    events.append(NodeInserted(NodeId(1), None, (), ("test",)))
    events += [NodeInserted(NodeId(n), NodeId(max(1, n // 3)), tuple(b"a node %d" % n), ("test",)) for n in range(2, n_nodes)]
    answer = tuple(_sample(0, n) for n in range(N_TOKENS))
    events.append(ExplorationOpened(RUN, "In[1]", "day", PROMPT, (PromptPiece(0, len(PROMPT), "user", "text"),), answer))
    for number in range(1, N_BRANCHES + 1):
        events += branch(number, N_TOKENS)
    return events


def branch(number: int, n_tokens: int) -> list[Event]:
    fork, request = ForkId(number), RequestId(number)
    forced = (*(_sample(0, n).token for n in range(number % 20)), 120)
    found: list[Event] = [
        ForkOpened(RUN, fork, None, 0, f"branch {number}"),
        BranchChanged(RUN, number, fork, 0, "more" if number % 4 else "token", forced, f"branch {number}", False, False, 1.0, 1, None, ""),
        StreamExtended(fork, 0, PROMPT + forced, "text", "user"),
        RequestQueued(request, fork, None, "gen", PROMPT + forced, 64, request),
    ]
    found += [TokensSampled(n, (_sample(number, n),)) for n in range(n_tokens)]
    return found


def _sample(number: int, n: int) -> Sample:
    token = b"etaoin shrdlu "[(number * 7 + n * (1 + number % 3)) % 14]
    return Sample(RequestId(number), token, -1.0, ((token, -1.0), (120, -1.3), (121, -2.0), (122, -2.5)), None, False)


def panel(n_nodes: int, seconds: float) -> None:
    ring = Ring(capacity=1 << 18)
    for event in story(n_nodes):
        ring.emit(event)
    sender = Sender(Views(*views_of(RUN, chr), ExploreView(chr, RUN)), n_texts=None)
    sender.fold(ring.read(0).entries)
    sender.status("running", "", None)
    sender.hello()
    growing = branch(N_BRANCHES + 1, 0)
    with chromium() as browser:
        page = WidgetPage(browser)
        page.open(views=["tree", "timeline"], explore=True)
        tell(page, poll(sender, 0, flush=True))
        page.page.locator(".sgl-x-tok").first.focus()
        page.page.wait_for_timeout(1_500)
        shown = page.page.locator(".sgl-x-branch").count(), page.page.locator(".sgl-x-tok").count()
        meter = page.context.new_cdp_session(page.page)
        meter.send("Performance.enable", {"timeDomain": "threadTicks"})
        busy = busy_s(meter)
        page.page.evaluate(FRAMES)
        for n in range(int(seconds / TICK_S)):
            for event in growing[n : n + 1] if n < len(growing) else [TokensSampled(n, (_sample(N_BRANCHES + 1, n),))]:
                ring.emit(event)
            sender.fold(ring.read(ring.cursor - 1).entries)
            tell(page, [decoded(packet) for packet in sender.poll(int(1e9 * (10 + n * TICK_S)))])
            page.page.keyboard.press("ArrowRight" if n % 8 else "ArrowDown")
            page.page.wait_for_timeout(1000 * TICK_S)
        gaps: list[float] = page.page.evaluate("() => gaps")
        busy = busy_s(meter) - busy
        errors = page.errors
        page.context.close()
    slow, fps = sorted(gaps)[int(0.95 * len(gaps))], 1000 * len(gaps) / sum(gaps)
    print(f"panel with {shown[0]} branches, {shown[1]:,} tokens and {n_nodes:,} nodes: {fps:.0f} frames/s, 95 % within {slow:.0f} ms")
    print(f"{1000 * busy / len(gaps):.1f} ms a frame on the page's thread; errors: {json.dumps(errors)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--branches", type=int, default=30)
    parser.add_argument("--nodes", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args()
    branches(given.branches)
    panel(given.nodes, given.seconds)


if __name__ == "__main__":
    main()
