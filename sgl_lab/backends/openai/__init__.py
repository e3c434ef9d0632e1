"""OpenAI's API, and every server that speaks it: vLLM, SGLang, llama.cpp, TGI, Ollama,
transformers, this project's own.

`backend.py` has the class; `servers.py` what each server can do, as data; `chat.py`,
`responses.py`, `completions.py` and `decisions.py` one API each, as two functions without a socket:
a job to a request, a stream to an output.
"""

from .backend import OpenAI

__all__ = ["OpenAI"]
