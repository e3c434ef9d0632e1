"""Carries events: a bounded, numbered ring for live readers and a JSONL record for later ones."""

from .record import Record, read_jsonl, write_jsonl
from .ring import Batch, Follower, Ring

__all__ = ["Batch", "Follower", "Record", "Ring", "read_jsonl", "write_jsonl"]
