"""The page's code and style: one ES module out of the files in `static/`, and the forms in which saved cells and pages carry both.

The files import each other by name only, so that joining them in order and leaving out the import lines is all it
takes; names at their top level are distinct (a test holds them to that).
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
MODULES = ("legible", "page", "store", "temper", "tokens", "tree", "lanes", "session", "view", "replay", "live")

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
const { css, replay } = await globalThis[key];
replay(home, css, META, async () => JSON.parse(await unpack("DATA")));
})(document.currentScript.parentNode);"""
"""Where anything of this is missing, the pictures stay as they are. A page with many cells takes the code once."""

_START_ALL = """
const unpacked = async (text) => {
const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
return JSON.parse(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text());
};
for (const data of document.querySelectorAll("script[data-sgl-recording]"))
replay(data.parentNode, css, JSON.parse(data.dataset.sglRecording), () => unpacked(data.textContent));
"""


@cache
def esm() -> str:
    """One module with anywidget's door as its default."""
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", (STATIC / f"{name}.js").read_text(encoding="utf-8"))) for name in MODULES)


@cache
def css() -> str:
    return (STATIC / "live.css").read_text(encoding="utf-8")


def packed(text: str) -> str:
    """gzip in base64: letters, digits, + and / only, whatever the text."""
    return base64.b64encode(gzip.compress(text.encode(), 7, mtime=0)).decode()


@cache
def _code() -> str:
    """Code with style, without remarks and indents."""
    return _INDENT.sub("", _REMARK.sub("", esm())) + f"export const css = {json.dumps(_INDENT.sub('', css()))};\n"


@cache
def _packed_code() -> tuple[str, str]:
    """(key, packed)."""
    return f"sgl_lab {hashlib.sha256(_code().encode()).hexdigest()[:16]}", packed(_code())


def players() -> str:
    """A module for a page of its own: a player for every recording in it. The same text for every page, which so can allow it alone."""
    return _code() + _START_ALL


def player(recording: str, meta: dict[str, float | str]) -> str:
    """The script that puts a player before its siblings. `recording` is packed; `meta` is told without unpacking it."""
    key, code = _packed_code()
    values = {"KEY": key, "CODE": code, "META": json.dumps(meta), "DATA": recording}
    return re.sub("KEY|CODE|META|DATA", lambda found: values[found[0]], _START)
