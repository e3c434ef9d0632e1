"""Where the language's ids come from. One counter a kind and process, so that no id is used twice."""

from __future__ import annotations

from ..contracts.ids import Counter

run_ids = Counter()
fork_ids = Counter()
expr_ids = Counter()
