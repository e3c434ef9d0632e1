"""Google's API: `request.py` makes a job a request, `answer.py` chunks an answer; `models.py` says
what each model does."""

from .backend import Gemini, VertexAI

__all__ = ["Gemini", "VertexAI"]
