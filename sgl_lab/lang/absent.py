"""Names of the original that are not available yet: what each one needs, and what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

HERE = 'sgl.Runtime(model_path="smollm2") runs a model in this process'
_GRAPHS = "a graph has no classes of its own for nodes; prog.trace() returns it, and graph.flatten_nodes() its nodes"

NOT_YET = {
    "ServerArgs": f"there is no server, so servers and their arguments are not available yet; {HERE}",
    "GenConfig": "settings outside a gen are not available yet; pass them to gen(...), or to run(...) for all gens",
}
"""Missing names of the package."""

NOT_YET_INSIDE = (
    NOT_YET
    | dict.fromkeys(("SglArgument", "SglVariable", "SglFork", "SglGetForkItem", "TracingScope", "trace_program", "compile_func"), _GRAPHS)
    | {"SglVideo": "a video is a concatenation of images here, which is not available yet under this name; video(...) makes it"}
    | dict.fromkeys(("Runtime", "Engine"), "they start a model; import them from sgl_lab")
    | dict.fromkeys(
        ("OpenAI", "RuntimeEndpoint", "Anthropic", "Gemini", "VertexAI", "LiteLLM"),
        "backends are outside the language; import them from sgl_lab",
    )
)
"""Missing names of the modules below."""


def asked_of(module: str) -> Callable[[str], NoReturn]:
    """A `__getattr__` for `module` that explains missing names. An import shows the message too."""

    def missing(name: str) -> NoReturn:
        if name in NOT_YET_INSIDE:
            raise ImportError(f"{module} has no {name!r}: {NOT_YET_INSIDE[name]}")
        raise AttributeError(f"{module} has no {name!r}")

    return missing
