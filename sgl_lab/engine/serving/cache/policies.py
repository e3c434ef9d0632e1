"""The eviction policies by name."""

from __future__ import annotations

from collections.abc import Mapping

from ....contracts.policies import BY_PREFIX
from .policy import Fifo, Lfu, Lru, Policy
from .programs import Program
from .s3fifo import S3Fifo

POLICIES: Mapping[str, type[Policy]] = {"lru": Lru, "lfu": Lfu, "fifo": Fifo, "s3-fifo": S3Fifo, "program": Program}


def policy(evict: str, schedule: str) -> Policy:
    """A new one, for an engine that serves in that order."""
    made = POLICIES[evict]
    return Program(by_prefix=schedule in BY_PREFIX) if made is Program else made()
