"""The page's code and style: one ES module joined from the files in `static/`, in the forms that
saved cells and pages embed.

The files import each other by name only. Joining them in order and dropping the import lines is
therefore enough. Top-level names are distinct; a test checks this.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from functools import cache
from pathlib import Path

STATIC = Path(__file__).parent / "static"
MODULES = ("legible", "page", "store", "temper", "tokens", "tree", "lanes", "graph", "session", "explore", "view", "replay", "live")

_IMPORT = re.compile(r'^import \{[^}]*\} from "\./\w+\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=const |function|class |async )", re.MULTILINE)
_REMARK = re.compile(r"^\s*(?://.*|/\*(?:[^*]|\*(?!/))*\*/)\n", re.MULTILINE)
_INDENT = re.compile(r"^[ \t]+", re.MULTILINE)

_START = """(async (home) => {
const unpack = async (text) => {
const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};
const key = Symbol.for("KEY");
globalThis[key] ??= unpack("CODE").then((code) => import(URL.createObjectURL(new Blob([code], { type: "text/javascript" }))));
const { css, START } = await globalThis[key];
BEGIN
})(document.currentScript.parentNode);"""
"""If any of this is missing, the still pictures stay as they are. A page with many cells unpacks
the code once.
"""
_REPLAY = ("replay", """replay(home, css, META, async () => JSON.parse(await unpack("DATA")));""")
_SHEET = ("sheet", """sheet(home, css, async () => JSON.parse(await unpack("DATA")));""")

_START_ALL = """
const unpacked = async (text) => {
const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
return JSON.parse(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text());
};
for (const data of document.querySelectorAll("script[data-sgl-recording]"))
replay(data.parentNode, css, JSON.parse(data.dataset.sglRecording), () => unpacked(data.textContent));
"""


_START_SHEETS = """
const unpacked = async (text) => {
const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
return JSON.parse(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text());
};
for (const data of document.querySelectorAll("script[data-sgl-grid]"))
sheet(data.parentNode, css, () => unpacked(data.textContent));
"""
GRID = ("legible", "page", "grid")
"""modules of a grid, which needs none of the views"""
DOOR = ("legible", "page", "door")
"""modules of the buttons on saved pictures"""


@cache
def esm(modules: tuple[str, ...] = MODULES) -> str:
    """One ES module; that of all views has the anywidget entry point as its default export."""
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", (STATIC / f"{name}.js").read_text(encoding="utf-8"))) for name in modules)


@cache
def css(name: str = "live") -> str:
    return (STATIC / f"{name}.css").read_text(encoding="utf-8")


def packed(text: str) -> str:
    """`text` as gzip in base64, which contains only letters, digits, +, / and =."""
    return base64.b64encode(gzip.compress(text.encode(), 7, mtime=0)).decode()


@cache
def _code(modules: tuple[str, ...] = MODULES, style: str = "live", entry: str = "") -> str:
    """Code and style, without comments and indentation. `entry` is a function to export."""
    source = _INDENT.sub("", _REMARK.sub("", esm(modules))) + f"export const css = {json.dumps(_INDENT.sub('', css(style)))};\n"
    return source + (f"export {{ {entry} }};\n" if entry else "")


@cache
def _packed_code(modules: tuple[str, ...] = MODULES, style: str = "live", entry: str = "") -> tuple[str, str]:
    """Returns (key, packed code)."""
    code = _code(modules, style, entry)
    return f"sgl_lab {hashlib.sha256(code.encode()).hexdigest()[:16]}", packed(code)


def players() -> str:
    """A module for a standalone page: it starts a player for every recording in the page.

    The text is the same for every page, so a content security policy can allow it by its hash.
    """
    return _code() + _START_ALL


def sheets() -> str:
    """The same for a page with grids."""
    return _code(GRID, "grid") + _START_SHEETS


def player(recording: str, meta: dict[str, float | str]) -> str:
    """The script that inserts a player before its siblings.

    recording  the packed recording
    meta       data that the player reads without unpacking the recording
    """
    return _script(_packed_code(), _REPLAY, recording, meta)


def sheet(data: str) -> str:
    """The script that inserts a grid of packed data before its siblings."""
    return _script(_packed_code(GRID, "grid", "sheet"), _SHEET, data, {})


def _script(packed_code: tuple[str, str], start: tuple[str, str], data: str, meta: dict[str, float | str]) -> str:
    key, code = packed_code
    values = {"KEY": key, "CODE": code, "META": json.dumps(meta), "DATA": data}
    source = _START.replace("START", start[0]).replace("BEGIN", start[1])
    return re.sub("KEY|CODE|META|DATA", lambda found: values[found[0]], source)
