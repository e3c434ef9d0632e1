"""Regular expressions, read once for all who follow them: a tree that says which texts are meant.

`python.read` reads Python's `re`, `ecma.read` the patterns of JSON schemas. Who generates and who checks read the same tree.
"""
