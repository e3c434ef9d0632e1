"""Regular expressions, read once for all who follow them: a tree that says which texts are meant.

`python.read` reads Python's `re`, `ecma.read` the patterns of JSON schemas. Who generates and who checks read the same tree.
`watching` follows all of Python's `re` over a text that grows, in bounded time, by instructions (`programs`) in the tree's place.
"""
