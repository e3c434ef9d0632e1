"""Programs as dataflow graphs: traced, printed, saved, optimised and executed.

values    a graph: nodes in the program's order, with what each reads
symbols   stand-ins for text that does not exist while a program is traced
tracer    the executor that records; tracing runs a program's body on it
printing  a graph as text and as DOT;  saved: as JSON, and back
flow      `cond`, `loop` and `unordered`, which a graph can contain
feeder    feeds the nodes of a graph to streams;  compiled: `run`, `run_batch`, `stream`, coroutines
progress  the events by which views follow a graph that runs
waves     a batch node by node: the order, and what it saves;  tuning: settings chosen by measuring
passes/   the optimiser, a file a pass;  edit: nodes in a new order;  plan: what a run would compute
"""
