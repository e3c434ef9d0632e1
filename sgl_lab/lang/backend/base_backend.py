"""What a backend author needs: the port, under the name that the original gives it, with its nouns.

The interface is this project's own: `contracts/port.py` says what a backend has to do.
"""

from __future__ import annotations

from ...contracts.params import Constraint, SamplingParams
from ...contracts.port import (
    Backend,
    GenJob,
    GenListener,
    GenOutput,
    Message,
    ModelCard,
    ScoreJob,
    ScoreListener,
    ScoreOutput,
    Segment,
    TokenLogprob,
    Usage,
    WarmJob,
    WarmListener,
)

__all__ = [
    "BaseBackend",
    "Constraint",
    "GenJob",
    "GenListener",
    "GenOutput",
    "Message",
    "ModelCard",
    "SamplingParams",
    "ScoreJob",
    "ScoreListener",
    "ScoreOutput",
    "Segment",
    "TokenLogprob",
    "Usage",
    "WarmJob",
    "WarmListener",
]

BaseBackend = Backend
