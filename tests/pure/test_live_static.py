"""The widget's one ESM and one CSS, read as text."""

from __future__ import annotations

import re

from sgl_lab.viz.draw.palette import INKS
from sgl_lab.viz.live import STATIC

ESM = (STATIC / "live.js").read_text()
CSS = (STATIC / "live.css").read_text()


def test_text_cannot_become_markup_or_code() -> None:
    assert (
        re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|\beval\b|new Function", ESM)
        == []
    )


def test_nothing_is_fetched_but_the_interrupt() -> None:
    assert re.findall(r"https?://[^\s\"'`]+", ESM + CSS) == ["http://www.w3.org/2000/svg"]
    assert ESM.count("fetch(") == 1
    assert re.findall(r"^import\b|\bimport\(|@import|url\((?!#)", ESM + CSS, re.MULTILINE) == []


def test_the_page_has_the_colours_of_the_palette() -> None:
    found = dict(re.findall(r"--sgl-(\w+): light-dark\((#\w+, #\w+)\)", CSS))
    assert {name: found[name] for name in INKS} == {name: f"{ink.light}, {ink.dark}" for name, ink in INKS.items()}


def test_the_glyphs_are_those_of_the_palette() -> None:
    said = dict(re.findall(r"(\w+): \"(.)\"", "".join(re.findall(r"const (?:TOKEN_STATES|NODE_GLYPH) = .*", ESM))))
    assert {name: said[name] for name in ("cached", "computed", "generated", "forced", "choice", "locked", "gone")} == {
        "gone" if name == "evicted" else name: ink.glyph for name, ink in INKS.items()
    }


def test_every_rule_is_scoped_to_the_widget() -> None:
    css = re.sub(r"/\*.*?\*/|@keyframes \w[\w-]* \{(?:[^{}]*\{[^{}]*\})*\s*\}", "", CSS, flags=re.DOTALL)
    rules = [rule for rule in re.findall(r"([^{};]+)\{", css) if not rule.strip().startswith("@")]
    selectors = [part.strip() for rule in rules for part in re.split(r",(?![^(]*\))", rule)]
    assert len(selectors) > 100
    assert [selector for selector in selectors if ".sgl-live" not in selector] == []
