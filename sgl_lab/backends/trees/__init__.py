"""Radix trees of engines that are elsewhere: `inferred` from counts that come back, or seen through
KV events (`blocks`, `listen`)."""
