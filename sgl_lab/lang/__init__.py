"""The language: expressions, states, streams, chat templates, choices, batches.

Knows backends only through the port in `contracts`. Imports nothing heavy, and nothing at all
before it is used.
"""
