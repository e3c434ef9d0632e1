"""The language: expressions, states, streams, chat templates, choices, batches.

Knows backends only as the port in `contracts`. Imports nothing heavy, and nothing at all until asked.
"""
