"""The eviction policies by name."""

from __future__ import annotations

from collections.abc import Mapping

from .policy import Fifo, Lfu, Lru, Policy
from .programs import Program

POLICIES: Mapping[str, type[Policy]] = {"lru": Lru, "lfu": Lfu, "fifo": Fifo, "program": Program}
