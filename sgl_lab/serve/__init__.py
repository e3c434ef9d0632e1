"""The door: the resident engine behind the APIs of OpenAI, Anthropic and SGLang, on loopback.

It is off until `serve(lab)`, `%sgl serve` or `sgl-lab serve` opens it. It knows no IPython; starlette
and uvicorn are loaded when a door opens.
"""

from __future__ import annotations

from .door import Door, serve

__all__ = ["Door", "serve"]
