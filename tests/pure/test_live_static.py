"""The page's one ESM and one CSS, read as text."""

from __future__ import annotations

import re

from sgl_lab.viz import bundle
from sgl_lab.viz.draw.palette import INKS

ESM = bundle.esm()
CSS = bundle.css()


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


def test_the_files_are_joined_whole_and_share_no_name() -> None:
    files = {path.stem for path in bundle.STATIC.glob("*.js")}
    assert files == set(bundle.MODULES)
    assert re.findall(r"^import .*|^export (?!default|\{ replay \}).*", ESM, re.MULTILINE) == []
    names = re.findall(r"^(?:async )?(?:function\*?|class|const|let) (\w+)", ESM, re.MULTILINE)
    assert len(names) > 60
    assert [name for name in names if names.count(name) > 1] == []


def test_what_a_file_takes_from_another_is_there() -> None:
    for name in bundle.MODULES:
        text = (bundle.STATIC / f"{name}.js").read_text()
        for names, other in re.findall(r'^import \{([^}]*)\} from "\./(\w+)\.js";', text, re.MULTILINE):
            there = re.findall(
                r"^export (?:async )?(?:function\*?|class|const) (\w+)", (bundle.STATIC / f"{other}.js").read_text(), re.MULTILINE
            )
            wanted = [part.strip() for part in names.split(",") if part.strip()]
            assert set(wanted) <= set(there), (name, other)
            assert [one for one in wanted if len(re.findall(rf"\b{one}\b", text)) < 2] == [], (name, "imports what it does not use")
