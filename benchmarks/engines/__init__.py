"""Runs engines side by side on the same token ids; `benchmarks/peers.py` is the command.

prose.py     generated text, in any amount
loads.py     the loads and their timing (standard library only: it runs in the peers' environments)
worker.py    one engine in a process of its own, with JSON lines as input and output
drive.py     the other side: starts workers, sends loads, and gives up on workers that die or hang
roster.py    the engines, their environments, and how these are created
report.py    the table and the targets
the others   one adapter per engine: a class `Engine` with `gen`, `select` and `reset` (see
             loads.Engine)
"""
