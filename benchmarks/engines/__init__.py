"""Engines side by side on the same token ids; `benchmarks/peers.py` is the command.

prose.py     text of our own, as much as is wanted
loads.py     what every engine is asked to do, and how that is timed (standard library only: runs in the peers' environments)
worker.py    one engine in a process of its own, JSON lines in and out
drive.py     the other end: starts workers, asks, gives up on those that die or hang
roster.py    which engines there are, in which environment, and how that is made
report.py    the table and the targets
the others   one adapter an engine: a class `Engine` with `gen`, `select` and `reset` (see loads.Engine)
"""
