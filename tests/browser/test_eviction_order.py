"""The eviction position on a node's card, compared with the cache itself."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser, Page

from sgl_lab.contracts.events import Entry, Event, NodeEvicted
from sgl_lab.contracts.policies import RANKED
from sgl_lab.engine.serving.cache.policies import POLICIES
from sgl_lab.engine.serving.cache.pool import PagePool
from sgl_lab.engine.serving.cache.tree import RadixTree
from sgl_lab.viz.bundle import STATIC
from sgl_lab.viz.views import TreeView

SPACES = (("model", "1"), ("model", "2"))
ORDER = "([rows, evict]) => Store.prototype.evictionOrder.call({ options: { evict }, nodes: new Map(rows.map((row) => [row.id, row])) })"
SEQUENCE = st.tuples(st.sampled_from(SPACES), st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple))
STEPS = st.lists(st.tuples(st.sampled_from(["keep", "ask", "hold", "room"]), SEQUENCE), min_size=1, max_size=40)


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """A blank page that has the class which knows the order."""
    page = browser.new_page()
    source = (STATIC / "store.js").read_text(encoding="utf-8")
    page.add_script_tag(content=source.replace("export class", "class") + "\nwindow.Store = Store;", type="text/javascript")
    yield page
    page.close()


@pytest.mark.parametrize("evict", RANKED)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, page_size=st.sampled_from([1, 2]))
def test_the_view_ranks_nodes_as_the_cache_evicts_them(
    page: Page, evict: str, steps: list[tuple[str, tuple[tuple[str, ...], tuple[int, ...]]]], page_size: int
) -> None:
    view, emitted = TreeView(str), list[Event]()

    def tell(event: Event) -> None:
        emitted.append(event)
        view.fold(Entry(len(emitted), len(emitted), event))

    pool = PagePool(1000, page_size)
    tree = RadixTree(pool, POLICIES[evict](), tell)
    for kind, (space, tokens) in steps:
        match kind:
            case "keep":
                tree.insert(space, tokens, pool.take(len(tokens) // page_size, "somebody"), "somebody")
            case "ask" | "hold":
                lease = tree.acquire(space, tokens)
                if kind == "ask":
                    tree.release(lease)
            case "room":
                tree.evict(1)
    tree.report_locks()
    late = TreeView(str)
    late.load(tree.snapshot(len(emitted)))
    ranked, ranked_late = (page.evaluate(ORDER, [shown.full()["nodes"], evict]) for shown in (view, late))
    emitted.clear()
    tree.flush()
    gone = [event.node for event in emitted if isinstance(event, NodeEvicted)]
    assert ranked == ranked_late == gone
