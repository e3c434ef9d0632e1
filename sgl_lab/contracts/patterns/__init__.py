"""Regular expressions as a tree of texts, which generation and validation share.

`python.read` reads Python's `re`; `ecma.read` reads the patterns of JSON schemas. `watching`
searches a growing text for any pattern of Python's `re`, in bounded time. It uses instructions
(`programs`) instead of the tree.
"""
