"""Programs as dataflow graphs: traced, printed and saved.

values    a graph: nodes in the program's order, with what each reads
symbols   stand-ins for text that does not exist while a program is traced
tracer    the executor that records; tracing runs a program's body on it
printing  a graph as text and as DOT;  saved: as JSON, and back
flow      `cond`, `loop` and `unordered`, which a graph can contain
"""
