"""The names of the policies, which the engine, a lab and the magics share. `engine/serving` has
what they do."""

from __future__ import annotations

SCHEDULES = ("lpm", "fcfs", "dfs-weight", "random")
"""which waiting request goes first"""
BY_PREFIX = ("lpm", "dfs-weight")
"""of these, those that look at what the cache has of a request"""
RANKED = ("lru", "lfu", "fifo")
"""evictions whose order follows from what a node counts itself: a view can show it"""
EVICTIONS = (*RANKED, "s3-fifo", "program")
"""which idle leaf of the tree goes first; program: what no program waits for"""
REUSES = ("prefix", "sequence", "none")
"""what of a prompt may come from the cache: all that matches; only whole earlier sequences; nothing"""
BELADY = "belady"
"""the optimum of all evictions, for recordings: it needs the future"""
