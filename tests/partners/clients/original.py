"""The original's frontend against a door: its own test programs, and a program of more. Runs where `sglang` is installed, without this
project: `python original.py URL TOKEN` prints a JSON object, what came of each.
"""

import json
import sys

import sglang as sgl
from sglang.lang.backend.runtime_endpoint import RuntimeEndpoint
from sglang.test import test_programs as own

OWN = {
    "select": lambda: own.test_select(check_answer=False),
    "decode_json_regex": own.test_decode_json_regex,
    "decode_json": own.test_decode_json,
    "expert_answer": lambda: own.test_expert_answer(check_answer=False),
    "parallel_decoding": own.test_parallel_decoding,
    "stream": own.test_stream,
    "regex": own.test_regex,
    "dtype_gen": own.test_dtype_gen,
}
"""Those whose result does not depend on how much the model knows, and that need no network. Not `test_parallel_encoding`: it posts to
a path that SGLang's own server no longer has, and then never returns."""


@sgl.function
def chat(s, number):
    s += sgl.system("Be short.") + sgl.user(f"Say {number}.") + sgl.assistant(sgl.gen("x", max_tokens=5, temperature=0))


@sgl.function
def forked(s):
    s += "The capital of France is" + sgl.gen("a", max_tokens=4, temperature=0)
    forks = s.fork(2)
    for number, fork in enumerate(forks):
        fork += f" {number}" + sgl.gen("b", max_tokens=3, temperature=0)
    forks.join()
    s += " The sky is" + sgl.select("c", [" blue", " made of iron"])


def batch():
    states = chat.run_batch([{"number": number} for number in range(4)])
    assert all(state["x"] for state in states)


def forks():
    state = forked.run()
    assert state["c"] in (" blue", " made of iron")
    assert "".join(forked.run(stream=True).text_iter())


def info(backend):
    assert backend.get_server_info()["model_path"] == backend.get_model_name()
    backend.flush_cache()


def main():
    url, key = sys.argv[1:]
    backend = RuntimeEndpoint(url, api_key=key)
    sgl.set_default_backend(backend)
    found = {}
    for name, test in {**OWN, "batch": batch, "forks": forks, "info": lambda: info(backend)}.items():
        try:
            test()
            found[name] = "ok"
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"[:300]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
