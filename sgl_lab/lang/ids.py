"""Creates the language's ids. There is one counter per kind and process, so no id is used twice."""

from __future__ import annotations

from ..contracts.ids import Counter

run_ids = Counter()
fork_ids = Counter()
expr_ids = Counter()
execution_ids = Counter()
"""of graphs"""
