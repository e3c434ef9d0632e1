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
const { css, replay } = await globalThis[key];
replay(home, css, META, async () => JSON.parse(await unpack("DATA")));
})(document.currentScript.parentNode);"""
"""If any of this is missing, the still pictures stay as they are. A page with many cells unpacks
the code once.
"""

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
    """One ES module whose default export is the anywidget entry point."""
    return "\n".join(_EXPORT.sub("", _IMPORT.sub("", (STATIC / f"{name}.js").read_text(encoding="utf-8"))) for name in MODULES)


@cache
def css() -> str:
    return (STATIC / "live.css").read_text(encoding="utf-8")


def packed(text: str) -> str:
    """`text` as gzip in base64, which contains only letters, digits, +, / and =."""
    return base64.b64encode(gzip.compress(text.encode(), 7, mtime=0)).decode()


@cache
def _code() -> str:
    """Code and style, without comments and indentation."""
    return _INDENT.sub("", _REMARK.sub("", esm())) + f"export const css = {json.dumps(_INDENT.sub('', css()))};\n"


@cache
def _packed_code() -> tuple[str, str]:
    """Returns (key, packed code)."""
    return f"sgl_lab {hashlib.sha256(_code().encode()).hexdigest()[:16]}", packed(_code())


def players() -> str:
    """A module for a standalone page: it starts a player for every recording in the page.

    The text is the same for every page, so a content security policy can allow it by its hash.
    """
    return _code() + _START_ALL


def player(recording: str, meta: dict[str, float | str]) -> str:
    """The script that inserts a player before its siblings.

    recording  the packed recording
    meta       data that the player reads without unpacking the recording
    """
    key, code = _packed_code()
    values = {"KEY": key, "CODE": code, "META": json.dumps(meta), "DATA": recording}
    return re.sub("KEY|CODE|META|DATA", lambda found: values[found[0]], _START)
