"""The live widget's ESM and CSS in a bare page: a model that records what the page sends, and no kernel.

The page is served from memory under `http://lab.test/`; every other request is refused and noted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Self, TypeVar

from playwright.sync_api import Browser, Page, Route

from sgl_lab.viz import bundle, sender
from sgl_lab.viz.views import views_of
from tests.pure.story import Stage, poll

T = TypeVar("T")
HOME = "http://lab.test/lab"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
]

MODEL = """
window.model = {
  traits: {}, listeners: {}, sent: [],
  get(name) { return this.traits[name]; },
  set(name, value) { this.traits[name] = value; (this.listeners['change:' + name] ?? []).forEach((listen) => listen()); },
  on(name, listen) { (this.listeners[name] ??= []).push(listen); },
  send(message) { this.sent.push(message); },
  receive({ seq, kind, ...body }) {
    const buffers = Object.keys(body).length ? [new DataView(new TextEncoder().encode(JSON.stringify(body)).buffer)] : [];
    (this.listeners['msg:custom'] ?? []).forEach((listen) => listen({ seq, kind }, buffers));
  },
};
window.open_view = async () => {
  window.widget ??= (await import('/live.js')).default();
  if (!window.started) { widget.initialize({ model }); window.started = true; }
  const el = document.createElement('div');
  document.getElementById('cell').append(el);
  (window.closers ??= []).push(widget.render({ model, el }));
};
"""


class Shown:
    """What both kinds of page have."""

    page: Page

    def comes_to_show(self, read: Callable[[Self], T], expected: T, seconds: float = 10) -> None:
        """Cards of a run are painted a few per frame, later on a busy machine: read again until the
        expected value appears.
        """
        end = time.monotonic() + seconds
        while (found := read(self)) != expected and time.monotonic() < end:
            self.page.wait_for_timeout(50)
        assert found == expected

    def shows(self, selector: str, texts: list[str]) -> None:
        """The texts of these elements, now or as soon as they are painted."""
        self.comes_to_show(lambda page: page.texts(selector), texts)

    def painted(self) -> None:
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_text_contents()


class WidgetPage(Shown):
    """One page with the widget's door on it. `requests` are those that were not for the page itself; `reply` is the status they get."""

    def __init__(self, browser: Browser, *, config: dict[str, Any] | None = None, reply: int = 204, **options: Any) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.errors: list[str] = []
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options)
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        html = f"""<!doctype html><meta charset=utf-8><title>widget</title><link rel=icon href=data:,>
        <script id=jupyter-config-data type=application/json>{json.dumps(config or {})}</script>
        <style>:root {{ color-scheme: light dark }} body {{ margin: 16px }}</style>
        <link rel=stylesheet href=/live.css><div id=cell></div>
        <script>{MODEL}</script>"""
        served = {
            "/lab": ("text/html", html),
            "/live.js": ("text/javascript", bundle.esm()),
            "/live.css": ("text/css", bundle.css()),
        }

        def answer(route: Route) -> None:
            request = route.request
            path = request.url.removeprefix("http://lab.test")
            if request.method == "GET" and path in served:
                kind, body = served[path]
                route.fulfill(status=200, content_type=f"{kind}; charset=utf-8", body=body)
            else:
                self.requests.append((request.method, request.url, request.headers))
                route.fulfill(status=reply)

        self.page.route("**/*", answer)
        self.page.goto(HOME)

    def open(self, **options: object) -> None:
        """One more view of the model."""
        self.page.evaluate("(options) => { model.traits.options = options; return open_view(); }", {"title": "lisbon", **options})

    def receive(self, *messages: sender.Message) -> None:
        """Messages from the kernel; returns when they are painted."""
        self.page.evaluate("(messages) => messages.forEach((message) => model.receive(message))", list(messages))
        self.painted()

    def sent(self) -> list[sender.Message]:
        found: list[sender.Message] = self.page.evaluate("() => model.sent")
        return found


def new_sender(stage: Stage) -> sender.Sender:
    return sender.Sender(sender.Views(*views_of(stage.run, stage.spell)))


def deltas(stage: Stage) -> Iterator[tuple[int, sender.Message]]:
    """(time in ns, message) as they would go to the page in life."""
    out = new_sender(stage)
    out.status("running", "", None)
    for entry in stage.entries:
        out.fold([entry])
        for message in poll(out, entry.t_ns):
            yield entry.t_ns, message
    for message in poll(out, stage.entries[-1].t_ns, flush=True):
        yield stage.entries[-1].t_ns, message


def full(stage: Stage) -> sender.Message:
    """All of it at once, as a page gets that comes late."""
    out = new_sender(stage)
    out.status("running", "", None)
    out.fold(stage.entries)
    out.hello()
    (message,) = poll(out, 0, flush=True)
    return message


class SavedPage(Shown):
    """A frozen cell in a page of its own; every request is refused and noted."""

    def __init__(self, browser: Browser, html: str, **options: Any) -> None:
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.context = browser.new_context(**{"viewport": {"width": 1000, "height": 1000}, "reduced_motion": "reduce"} | options)
        self.page: Page = self.context.new_page()
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

        def answer(route: Route) -> None:
            if route.request.url == HOME:
                body = (
                    f"<!doctype html><html lang=en><meta charset=utf-8><title>saved</title><link rel=icon href=data:,><main>{html}</main>"
                )
                route.fulfill(status=200, content_type="text/html; charset=utf-8", body=body)
            else:
                self.requests.append(route.request.url)
                route.abort()

        self.page.route("**/*", answer)
        self.page.goto(HOME)
