"""S1 in real Chromium: the whole corpus live, played again, frozen, exported, converted; pointed at, clicked, focused. It stays text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from playwright.sync_api import Browser, Page

from sgl_lab.contracts.legible import legible
from sgl_lab.magics.commands.keep import exported as parts_to_export
from sgl_lab.magics.folded import Folded
from sgl_lab.magics.output import Output
from sgl_lab.magics.session import Session
from sgl_lab.trace import Record
from sgl_lab.viz import bundle
from sgl_lab.viz.draw import html, page, still
from sgl_lab.viz.draw import inspection as draw_inspection
from sgl_lab.viz.draw import why as draw_why
from sgl_lab.viz.explain.why import why
from sgl_lab.viz.views.inspection import inspections
from sgl_lab.viz.views.tok import MAX_TEXT
from tests.hostile_text import PAYLOADS
from tests.pure.driving import SOAK
from tests.pure.poisoned import poisoned
from tests.pure.story import Stage, record_of
from tests.pure.test_hostile_text import FEW, Shown

from .bare import SavedPage, WidgetPage
from .harness import exported

TEXTS = [payload.text for payload in PAYLOADS if payload.family != "large"]
CALM = {"reduced_motion": "reduce"}
OURS = re.compile(
    "html|head|body|main|meta|title|style|link|script|section|div|span|p|h4|b|i|em|code|pre|dl|dt|dd|button|input|select|option|label|output"
    "|table|tbody|tr|td|th|details|summary|img|svg|g|path|rect|circle|text|line|defs|pattern"
)

TOUCH = """(within) => {
  const parts = [...document.querySelectorAll(within)].flatMap((part) => [part, ...part.querySelectorAll('*')]);
  const inner = parts.flatMap((part) => part.shadowRoot ? [...part.shadowRoot.querySelectorAll('*')] : []);
  const all = [...parts, ...inner];
  const kinds = ['pointerover', 'mouseover', 'focus', 'toggle', 'load', 'error', 'animationstart', 'begin'];
  for (const part of all) for (const kind of kinds) part.dispatchEvent(new Event(kind, { bubbles: kind === 'pointerover' }));
  const names = [...new Set(all.map((part) => part.localName))];
  const attributes = all.flatMap((part) => [...part.attributes]);
  const addresses = attributes.filter(({ name }) => /^(href|src|action|formaction|srcset|poster|data)$/.test(name));
  return {
    n: all.length,
    names,
    ids: all.map((part) => part.id).filter(Boolean),
    running: attributes.filter(({ name }) => name.startsWith('on') || name.startsWith('data-commandlinker')).map(({ name }) => name),
    leading: addresses.map(({ value }) => value).filter((value) => !value.startsWith('data:')),
    seen: all.flatMap((part) => [part.shadowRoot || part.children.length ? '' : part.textContent, part.title ?? '', part.ariaLabel ?? '']),
    pwned: window.__pwned ?? null,
  };
}"""


def assert_only_text(page: Page, within: str = "main, .sgl-live", least: int = 50) -> None:
    """Point at everything and focus it; then nothing has run, and there is no element, attribute or sign but ours."""
    found = page.evaluate(TOUCH, within)
    assert found["pwned"] is None
    assert found["n"] >= least
    assert [name for name in found["names"] if not OURS.fullmatch(name)] == []
    assert found["running"] == found["leading"] == []
    assert [one for one in found["ids"] if not re.fullmatch(r"sgl\d+-[\w-]+", one)] == []
    assert [words for words in found["seen"] if words != legible(words)] == []


# ---------------------------------------------------------------- the page's own rules


def test_the_page_makes_text_legible_as_python_does(browser: Browser) -> None:
    code = (bundle.STATIC / "legible.js").read_text().replace("export ", "")
    tab = browser.new_page()
    assert tab.evaluate(f"(texts) => {{ {code} return texts.map(legible); }}", TEXTS) == [legible(text) for text in TEXTS]
    changed = tab.evaluate(
        f"""() => {{ {code}
          const found = {{}};
          for (let code = 0; code < 0x110000; code++) {{
            const letter = String.fromCodePoint(code);
            if (legible(letter) !== letter) found[code] = legible(letter);
          }}
          return found; }}"""
    )
    assert changed == {str(code): shown for code in range(0x110000) if (shown := legible(chr(code))) != chr(code)}
    tab.close()


# ---------------------------------------------------------------- live

ROOT = {"id": 1, "parent": None, "label": "root", "n": 0, "refs": 0, "hits": 0, "used": 0, "state": "root", "fresh": False, "by": []}
CHUNK = 40

WALK = """async () => {
  const painted = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  const press = (target, key) => target.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true }));
  const seen = { cards: [], details: [], bars: [] };
  const read = (selector) => document.querySelector(selector).textContent;
  for (const token of document.querySelectorAll('.sgl-text .t')) {
    token.dispatchEvent(new PointerEvent('pointerover', { bubbles: true }));
    seen.cards.push(read('.sgl-card'));
    token.dispatchEvent(new MouseEvent('click', { bubbles: true }));
  }
  const stage = document.querySelector('.sgl-stage');
  press(stage, 'Home');
  for (let n = 0; n < CHUNK + 2; n++) {
    press(stage, 'ArrowDown');
    press(stage, 'Enter');
    await painted();
    seen.details.push(read('.sgl-details'));
  }
  const plot = document.querySelector('.sgl-plot');
  press(plot, 'Escape');
  for (let n = 0; n < CHUNK + 2; n++) {
    press(plot, 'ArrowDown');
    seen.bars.push(read('.sgl-voice'));
  }
  await painted();
  return seen;
}""".replace("CHUNK", str(CHUNK))


def message_of(texts: list[str]) -> dict[str, Any]:
    """Messages of a kernel with these words in every output, unescaped."""
    lanes = [{"lane": f"f{n}", "parent": None, "label": text, "kind": "fork"} for n, text in enumerate(texts)]
    bar = {"kind": "decode", "t0": 0, "t1": 900, "n": 3, "request": 1, "at": 0, "wrong": 0}
    tokens = [[text, "generated", -1.0, text[:40], [[text, -1.0], ["x", -2.0]], n, {"t": 1.0, "ms": 1.0}] for n, text in enumerate(texts)]
    nodes = [ROOT | {"id": n, "parent": 1, "label": text, "n": 2, "state": "cached", "by": [n]} for n, text in enumerate(texts, 2)]
    return {
        "seq": 0,
        "kind": "full",
        "status": {"phase": "running", "text": texts[0], "progress": None},
        "tokens": {
            "forks": [{"fork": n, "parent": n and 0 if n else None, "index": n, "label": texts[n], "run": 1, "base": 0} for n in range(3)],
            "ops": [{"fork": 0, "start": 0, "toks": tokens}],
        },
        "tree": {
            "nodes": [ROOT | {"label": texts[-1]}, *nodes],
            "texts": [{"id": node["id"], "text": node["label"], "ids": [1, 2]} for node in nodes],
            "ends": [],
            "gone": [],
            "clock": 1,
            "tails": [{"request": 9, "node": 2, "n": 1, "label": texts[1]}],
        },
        "lanes": {
            "lanes": lanes,
            "bars": [bar | {"id": n, "lane": f"f{n}", "name": text} for n, text in enumerate(texts)],
            "now": 900,
            "queue": texts[:3],
        },
        "metrics": None,
    }


def test_live_in_every_panel_and_card(browser: Browser) -> None:
    live = WidgetPage(browser, **CALM)
    values = [{"text": text, "number": False} for text in TEXTS]
    live.open(title=TEXTS[0], controls=[{"name": "x", "index": 0, "values": values}])
    assert live.page.locator(".sgl-controls option").all_text_contents() == [legible(text) for text in TEXTS]
    for start in range(0, len(TEXTS), CHUNK):
        texts = TEXTS[start : start + CHUNK]
        live.page.evaluate("(title) => (model.traits.options.title = title)", texts[0])
        live.receive(message_of(texts))
        seen = live.page.evaluate(WALK)
        shown = [legible(text.replace("\t", "⇥").replace(" ", "\u00a0").replace("\n", "↵")) for text in texts]
        if not any("\\x" in text for text in texts):
            live.shows(".sgl-text .t", [legible(text) for text in texts])
            assert all(words in card for words, card in zip(shown, seen["cards"], strict=True))
        for panel in ("details", "bars"):
            assert [text for text in texts if not any(legible(text) in words for words in seen[panel])] == [], panel
        live.shows(".sgl-title", [legible(texts[0])])
        live.page.get_by_role("searchbox").fill(texts[0].replace("\n", " "))
        live.painted()
        assert_only_text(live.page)
    assert (live.errors, live.requests) == ([], [])
    live.context.close()


def test_an_interrupt_goes_to_the_own_server_whatever_address_the_page_has(browser: Browser) -> None:
    for address in ("//outside.test/", "https://outside.test/", "\\\\outside.test\\", "javascript:window.__pwned=1//"):
        live = WidgetPage(browser, config={"baseUrl": address, "token": "secret"})
        live.open(kernel_id="k1")
        live.receive({"seq": 0, "kind": "delta", "status": {"phase": "running", "text": "running", "progress": None}})
        live.page.locator(".sgl-stop").click()
        live.page.wait_for_function("document.querySelector('.sgl-stop').textContent !== 'Stopping…'")
        assert [request for request in live.requests if "lab.test" not in request[1]] == []
        assert live.page.evaluate("() => window.__pwned ?? null") is None
        live.context.close()


# ---------------------------------------------------------------- played again


def a_run_of_everything() -> tuple[Record, Any]:
    """One run whose tokens are the corpus, one per payload, with a fork named by the worst payload."""
    stage = Stage(4_000)
    texts = dict(enumerate(TEXTS))
    stage.encode("".join(f"<|{n}|>" for n in texts))
    main = stage.open(label=TEXTS[0])
    half = len(TEXTS) // 2
    stage.extend(main, tuple(range(half)), "text", "user")
    fork = stage.open(main, 0, TEXTS[40])
    stage.gen((fork, TEXTS[30], "".join(f"<|{n}|>" for n in range(half, len(TEXTS)))))
    return record_of(stage), lambda token: texts.get(token, "?")


def test_replayed_in_a_saved_page(browser: Browser) -> None:
    record, spell = a_run_of_everything()
    made = Folded(record, spell, {"vocab": 49_152, "evict": "lru"}).bundle(("tokens", "tree", "timeline"), TEXTS[0], "error", TEXTS[1])
    saved = SavedPage(browser, made["text/html"])
    assert_only_text(saved.page, "main")
    saved.page.get_by_role("tree").wait_for()
    saved.page.locator(".sgl-node").last.click()
    shown = saved.page.locator(".sgl-text .t").all_text_contents()
    plain = [(text, words) for text, words in zip((spell(n) for n in range(len(shown))), shown, strict=False) if "\\x" not in text]
    assert len(plain) > 400
    assert [text for text, words in plain if words != legible(text[:MAX_TEXT])] == []
    assert_only_text(saved.page, "main", 900)
    for key in ("Home", "PageUp", "PageUp", "End"):
        saved.page.get_by_role("slider", name="Moment of the run").press(key)
        assert_only_text(saved.page, "main")
    assert (saved.errors, saved.requests) == ([], [])
    saved.context.close()


# ---------------------------------------------------------------- frozen, exported, converted


def outputs(texts: list[str]) -> Iterator[str]:
    for text in texts:
        first, last = poisoned(text)
        listed = [draw_inspection.html(one, last.spell) for one in inspections(last.entries)]
        parts = [*listed, draw_why.html(why(last, [first]), last.spell)]
        parts += [
            still.tokens(Folded(last).tokens.full()),
            html.plain(text),
            html.grid([(text, "x"), ("y", text)]),
            html.progress(text, 0.5),
        ]
        yield html.output(html.panel(text, "error", text, parts)).source


def test_frozen_in_the_page_of_a_real_parser(browser: Browser) -> None:
    texts = TEXTS if SOAK > 1 else TEXTS[::3]
    saved = SavedPage(browser, "".join(outputs(texts)))
    shown = saved.page.locator("main > div").evaluate_all("(all) => all.map((part) => part.textContent)")
    assert len(shown) == len(texts)
    assert [text for text, words in zip(texts, shown, strict=True) if legible(text) not in words] == []
    assert_only_text(saved.page, "main", 7_000)
    assert (saved.errors, saved.requests) == ([], [])
    saved.context.close()


def test_exported_and_played_there(browser: Browser, tmp_path: Path) -> None:
    record, spell = a_run_of_everything()
    record.vocab = {n: spell(n) for n in range(len(TEXTS))}
    session = Session()
    session.last = record
    (tmp_path / "run.html").write_text(page.page(TEXTS[0], parts_to_export(session, record), bundle.players()), encoding="utf-8")
    tab = browser.new_page()
    requested: list[str] = []
    complaints: list[str] = []
    tab.on("request", lambda request: requested.append(request.url))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("dialog", lambda dialog: complaints.append(dialog.message))
    tab.goto((tmp_path / "run.html").as_uri())
    assert_only_text(tab, "html", 1_000)
    tab.get_by_role("tree").wait_for()
    tab.locator(".sgl-node").last.click()
    assert_only_text(tab, "html", 1_000)
    assert [url for url in requested if not url.startswith("data:image/svg+xml")] == [tab.url]
    assert complaints == []
    tab.close()


def test_converted_by_nbconvert_and_kept_from_its_formulas(browser: Browser, tmp_path: Path) -> None:
    notebook = nbformat.v4.new_notebook()  # type: ignore[no-untyped-call]
    for text in FEW:
        shown = Shown()
        Output(shown.shell).show(Folded(poisoned(text)[1]).bundle(("tokens", "tree"), text, "error", text))
        cell = nbformat.v4.new_code_cell("%sgl tree")  # type: ignore[no-untyped-call]
        plain = nbformat.v4.new_output("display_data", {"text/plain": shown.data[0]["text/plain"]})  # type: ignore[no-untyped-call]
        cell.outputs = [nbformat.v4.new_output("display_data", shown.data[0]), plain]  # type: ignore[no-untyped-call]
        notebook.cells.append(cell)
    nbformat.write(notebook, tmp_path / "hostile.ipynb")  # type: ignore[no-untyped-call]
    tab = browser.new_page(offline=True)
    tab.goto(exported(tmp_path / "hostile.ipynb").as_uri())
    rendered = tab.locator(".jp-RenderedHTMLCommon:has(> .tex2jax_ignore)")
    assert rendered.count() == len(FEW)
    assert_only_text(tab, ".tex2jax_ignore, .jp-RenderedText", 5_000)
    tab.close()
