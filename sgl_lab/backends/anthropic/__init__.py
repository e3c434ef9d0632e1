"""Anthropic's API: `request.py` makes a job a request, `answer.py` a stream an answer; `models.py`
says what each model does."""

from .backend import Anthropic

__all__ = ["Anthropic"]
