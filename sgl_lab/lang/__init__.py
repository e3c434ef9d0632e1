"""The language: expressions, states, streams, chat templates, choices, batches.

Knows backends only through the port in `contracts`. Imports nothing heavy, and nothing at all
before it is used.

Layers, the lowest first. A module imports from its own layer and from those before it:

    what all need       location (the user's line), keywords, chat_template, default (the default
                        backend), interrupts, ids, usage, finish, global_config, absent
    what a program says expressions: the intermediate representation; serial (as JSON, and back);
                        form (what a text has to be and means) out of schemas, types, regex_of;
                        choices, images (with fetched and videos), sampling, reasoning,
                        tools
    history             history (turns and text), shared (where others begin alike), transcript (the
                        same as token ids), variable, ahead
    a run               run: what its strands share, and the `Strand` protocol; strand: the half that
                        all executors have in common; loop (waiting in coroutines)
    a request           work and generation, whatever the port; tokens and conversation, a port each
    an executor         stream: a queue advanced by the completion of requests; streams: one for each
                        port
    one strand          access (append, fork, read, wait), shown (summaries, rows, Markdown), tail,
                        group, executor
    a state             state: `s`, and `start`, which makes the first of a run
    programs            beginning (settings), execution (how a body runs), batch, prefix, program;
                        graph/: a program as a dataflow graph, its executor and its passes
    the surface         surface: the names that a program is written with; expect: checks of values
    the original's      api, ir, interpreter, backend/
"""
