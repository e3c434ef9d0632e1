"""Backends that answer from a script: for tests, for teaching, and for pictures of programs without
a model.

`ScriptedBackend` takes token ids, `ScriptedConversation` takes messages. Each implements its whole
port, on a thread of its own.
"""

from .conversation import ScriptedConversation
from .served import Answer, Answers
from .tokens import ScriptedBackend, ToyTokenizer

__all__ = ["Answer", "Answers", "ScriptedBackend", "ScriptedConversation", "ToyTokenizer"]
