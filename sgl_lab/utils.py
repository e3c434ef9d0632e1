"""Small functions that programs for the original import from its `utils`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from .contracts.errors import BackendUnsupported, BadArgument
from .contracts.json_values import Json
from .lang.regex_of import build_regex_from_object
from .lang.state import ProgramState

__all__ = [
    "build_regex_from_object",
    "convert_json_schema_to_str",
    "download_and_cache_file",
    "dump_state_text",
    "print_highlight",
    "read_jsonl",
]

_OF_SERVERS = {
    "async_stream_and_merge",
    "execute_shell_command",
    "http_request",
    "launch_server_cmd",
    "release_port",
    "reserve_port",
    "stream_and_merge",
    "terminate_process",
    "wait_for_server",
}


def __getattr__(name: str) -> NoReturn:
    if name in _OF_SERVERS:
        hint = 'sgl.Runtime(model_path="smollm2") runs a model in this process'
        raise ImportError(f"sgl_lab.utils has no {name!r}: there is no server to start, wait for or ask; {hint}")
    raise AttributeError(f"sgl_lab.utils has no {name!r}: it has {', '.join(__all__)}")


def read_jsonl(filename: str | os.PathLike[str]) -> Iterator[Json]:
    """Yield the JSON value of each line, without empty lines and lines that begin with `#`.
    BadArgument names a line that is not JSON.
    """
    with open(filename, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.startswith("#"):
                continue
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise BadArgument(f"{filename}, line {number}: {error}") from None


def dump_state_text(filename: str | os.PathLike[str], states: Iterable[object], mode: str = "w") -> None:
    """Write the texts of states, or strings, to a file, each below its number."""
    with open(filename, mode, encoding="utf-8") as file:
        for number, state in enumerate(states):
            text = state.text() if isinstance(state, ProgramState) else str(state)
            file.write(f"{'=' * 40} {number} {'=' * 40}\n{text}\n{'=' * 80}\n\n")


def print_highlight(html_content: object) -> None:
    """Print it; in a notebook, as bold coloured text."""
    text = str(html_content)
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or not hasattr(shell, "kernel"):
        print(text)
        return
    from .viz.draw.escape import tag

    style = {"class": "tex2jax_ignore mathjax_ignore", "style": "white-space: pre-wrap; color: #1a5fb4"}
    shell.display_pub.publish({"text/html": tag("strong", style, text).source, "text/plain": text})


def convert_json_schema_to_str(json_schema: object) -> str:
    """The JSON text of a schema: of a dict or a pydantic model; a text is returned unchanged."""
    if isinstance(json_schema, str):
        return json_schema
    if isinstance(json_schema, dict):
        return json.dumps(json_schema)
    if callable(schema := getattr(json_schema, "model_json_schema", None)):
        return json.dumps(schema())
    raise BadArgument(f"json_schema cannot be {json_schema!r:.80}", hint="a dict, a JSON text or a pydantic model")


def download_and_cache_file(url: str, filename: str | None = None) -> str:
    """The path of an existing file: its name in the temporary folder, or `filename`. Nothing is
    downloaded.
    """
    import tempfile

    path = Path(filename) if filename else Path(tempfile.gettempdir()) / url.rsplit("/", 1)[-1]
    if not path.exists():
        raise BackendUnsupported(f"{path} does not exist, and nothing is downloaded", hint=f"download {url} and put it there")
    return str(path)
