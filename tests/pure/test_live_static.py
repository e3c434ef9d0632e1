"""The page's one ESM and one CSS, read as text."""

from __future__ import annotations

import re

from sgl_lab.contracts.policies import RANKED
from sgl_lab.viz import bundle
from sgl_lab.viz.draw import plan, still
from sgl_lab.viz.draw.palette import BARS, ELSEWHERE, HEALED, HERE, INKS, NODES, TOKENS

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
    glyphs = dict(re.findall(r"(\w+): \"(.)\"", "".join(re.findall(r"const (?:TOKEN_STATES|NODE_GLYPH) = .*", ESM))))
    names = ["gone" if name == "evicted" else name for name in INKS]
    assert {name: glyphs[name] for name in names} == dict(zip(names, (ink.glyph for ink in INKS.values()), strict=True))


def exported(name: str) -> dict[str, str]:
    """A table of words of the page."""
    table = re.findall(rf"const {name} = \{{(.*?)\}};", ESM, re.DOTALL)[0]
    return dict(re.findall(r"(\w+): \"([^\"]+)\"", table))


def test_the_page_and_the_still_picture_speak_with_the_same_words() -> None:
    assert exported("TOKEN_WORDS") == {state: INKS[state].word for state in TOKENS}
    assert {state: exported("TOKEN_MEANING")[state] for state in TOKENS} == {state: INKS[state].meaning for state in TOKENS}
    healed = re.findall(r'const HEALED = \{ mark: "(.)", word: "(\w+)", meaning: "([^"]+)" \};', ESM)
    assert healed == [HEALED]
    assert exported("BAR_WORDS") == {kind: word for kind, (_, word) in BARS.items()}
    assert list(exported("NODE_WORDS").values()) == [word for _, word in NODES.values()]
    assert exported("ELSEWHERE") == ELSEWHERE._asdict()
    assert exported("HERE") | HERE._asdict() == HERE._asdict()


def test_the_page_ranks_nodes_by_every_eviction_policy_that_counts_at_nodes_alone() -> None:
    (keys,) = re.findall(r"const key = \{(.*)\}\[evict\]", ESM)
    assert re.findall(r"(\w+): \(node\)", keys) == list(RANKED)


def test_the_page_and_the_still_picture_have_the_same_measures() -> None:
    node = dict(re.findall(r"(\w+): ([\d.]+)", re.findall(r"const NODE = \{(.*?)\}", ESM)[0]))
    assert [float(node[name]) for name in ("height", "pitch", "gap", "font", "small", "pad", "mark", "space", "letters")] == [
        plan.HEIGHT,
        plan.PITCH,
        plan.GAP,
        plan.LETTER,
        plan.SMALL,
        plan.PAD,
        plan.MARK,
        plan.SPACE,
        plan.LETTERS,
    ]
    lane = dict(re.findall(r"(\w+): ([\d.]+)", re.findall(r"const LANE = \{(.*?)\}", ESM)[0]))
    assert (float(lane["height"]), float(lane["axis"])) == (still.LANE, still.AXIS)


def test_every_rule_is_scoped_to_the_widget() -> None:
    css = re.sub(r"/\*.*?\*/|@keyframes \w[\w-]* \{(?:[^{}]*\{[^{}]*\})*\s*\}", "", CSS, flags=re.DOTALL)
    rules = [rule for rule in re.findall(r"([^{};]+)\{", css) if not rule.strip().startswith("@")]
    selectors = [part.strip() for rule in rules for part in re.split(r",(?![^(]*\))", rule)]
    assert len(selectors) > 100
    assert [selector for selector in selectors if not re.search(r"\.sgl-live|\[data-sgl-place\]", selector)] == []


def test_the_files_are_joined_whole_and_share_no_name() -> None:
    files = {path.stem for path in bundle.STATIC.glob("*.js")}
    assert files == {*bundle.MODULES, *bundle.GRID, *bundle.DOOR}
    for joined, least in ((ESM, 60), (bundle.esm(bundle.GRID), 20), (bundle.esm(bundle.DOOR), 15)):
        assert re.findall(r"^import .*|^export (?!default|\{ \w+ \}).*", joined, re.MULTILINE) == []
        names = re.findall(r"^(?:async )?(?:function\*?|class|const|let) (\w+)", joined, re.MULTILINE)
        assert len(names) > least
        assert [name for name in names if names.count(name) > 1] == []


def test_what_a_file_takes_from_another_is_there() -> None:
    for name in {*bundle.MODULES, *bundle.GRID, *bundle.DOOR}:
        text = (bundle.STATIC / f"{name}.js").read_text()
        for names, other in re.findall(r'^import \{([^}]*)\} from "\./(\w+)\.js";', text, re.MULTILINE):
            there = re.findall(
                r"^export (?:async )?(?:function\*?|class|const) (\w+)", (bundle.STATIC / f"{other}.js").read_text(), re.MULTILINE
            )
            wanted = [part.strip() for part in names.split(",") if part.strip()]
            assert set(wanted) <= set(there), (name, other)
            assert [one for one in wanted if len(re.findall(rf"\b{one}\b", text)) < 2] == [], (name, "imports what it does not use")
