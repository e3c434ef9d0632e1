"""What RadixView draws of a server: `python radixview_tree.py URL TOKEN` reads a line, and answers it with the blocks of its tree as JSON.

Runs where `radixview` is installed, without this project. The page itself, which listens on every interface, is not opened.
"""

import json
import sys
import threading

from radixview.discover import load_publishers
from radixview.subscribe import listen
from radixview.text import Detokenizer
from radixview.tree import CacheTree

url, key = sys.argv[1:]
tree = CacheTree()
publishers = load_publishers(url, key)
threading.Thread(target=listen, args=(publishers, threading.Event(), Detokenizer(url, key), tree), daemon=True).start()
print("ready", flush=True)


def texts(view):
    """The text up to the end of each block."""
    parents = {node["id"]: node["parent"] for node in view.nodes}
    found = {None: ""}

    def up_to(node):
        if node not in found:
            text = up_to(parents[node])
            for block in view.runs.get(node, ()):
                text += block.text
                ends.add(text)
            found[node] = text
        return found[node]

    ends = set()
    for node in parents:
        up_to(node)
    return sorted(ends)


for _line in sys.stdin:
    view = tree.view()
    print(json.dumps({"texts": texts(view), **view.stats}), flush=True)
