"""One engine in a process of its own: `python -m engines.worker ADAPTER '{"threads": 2, ...}'` in
the engine's environment.

It reads and writes one JSON line at a time. {"run": LOAD} times a load; {"call": NAME, "with":
{...}} calls a method that only some adapters have. The answer is {"result": ...}, which is null if
the engine does not support the load, or {"error": "..."}. The first line is the version, without a
request. Output of the engine itself goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from dataclasses import asdict
from typing import Any

from .loads import from_json


def answer(engine: Any, message: dict[str, Any]) -> Any:
    if "call" in message:
        return getattr(engine, message["call"])(**message["with"])
    load = from_json(message["run"])
    own_benchmark = getattr(engine, "sample", None)
    if own_benchmark is not None:
        return asdict(own_benchmark(load))
    engine.reset()
    return asdict(load.run(engine))


def main(adapter: str, options: dict[str, Any]) -> None:
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(result: dict[str, Any]) -> None:
        lines.write(json.dumps(result) + "\n")

    engine = importlib.import_module(f".{adapter}", __package__).Engine(**options)
    say({"result": engine.version})
    for line in sys.stdin:
        try:
            say({"result": answer(engine, json.loads(line))})
        except NotImplementedError:
            say({"result": None})
        except Exception as error:  # an engine may raise anything; the next load may succeed
            say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
