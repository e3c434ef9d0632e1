"""Foreign servers on loopback, and our own door in another process: started, waited for, ended."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .environments import PLACE, missing, python, version

ROOT = Path(__file__).parents[2]
START_S = 400.0
NAME = "smollm2"
THREADS = int(os.environ.get("PARTNERS_THREADS", "1"))
"""of a foreign server; more of them wait for each other on a busy machine"""
TORCH = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(THREADS)}
KEY = "sk-partners-0123456789abcdef"

LLAMA_CPP = """
import sys, time
import xllamacpp as llama
params = llama.CommonParams()
params.model.path, params.port = sys.argv[1], int(sys.argv[2])
params.hostnames = ["127.0.0.1"]
params.n_ctx, params.n_parallel = 8192, 4
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[3])
params.model_alias = {"smollm2"}
server = llama.Server(params)
while True:
    time.sleep(1)
"""


class Running(NamedTuple):
    url: str
    key: str
    about: str
    """its name and version"""
    model: str = "default"


class Models(NamedTuple):
    gguf: Path
    folder: Path
    """the same weights as a folder of transformers"""


def models() -> Models:
    """The built-in model, fetched and converted if necessary."""
    from sgl_lab.engine.compute.models.convert import convert
    from sgl_lab.engine.files import store
    from sgl_lab.engine.files.fetch import unseen

    gguf = store.resolve(NAME)
    return Models(gguf, convert(gguf, NAME, store.cache_dir(), unseen))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def process(name: str, command: Sequence[str | Path], url: str, env: Mapping[str, str] | None = None) -> Iterator[None]:
    """A server from when its /health answers until the end of the block. Its output is in build/partners/NAME.log."""
    PLACE.mkdir(parents=True, exist_ok=True)
    log = PLACE / f"{name}.log"
    with log.open("w") as out:
        server = subprocess.Popen(list(map(str, command)), stdout=out, stderr=subprocess.STDOUT, env=os.environ | dict(env or {}))
    try:
        end = time.monotonic() + START_S
        while not _answers(f"{url}/health"):
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{name} did not start: see {log}\n{log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        return error.code in (401, 403, 404, 405)  # it is up, whatever it says to this
    except OSError:
        return False


@contextmanager
def door(model: str = NAME, *options: str, tokens: Path | None = None) -> Iterator[Running]:
    """`sgl-lab serve` in a process of its own."""
    place = tokens or PLACE
    place.mkdir(parents=True, exist_ok=True)
    file = place / "door.token"
    file.touch(0o600)
    file.write_text(KEY)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "sgl_lab.cli", "serve", model, "--port", str(port), "--token-file", str(file), *options]
    with process("door", command, url, env={"PYTHONPATH": str(ROOT)}):
        yield Running(url, KEY, "sgl-lab serve")


@contextmanager
def llama_cpp() -> Iterator[Running]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with process("llama.cpp", [python("llama.cpp"), "-c", LLAMA_CPP, models().gguf, str(port), str(THREADS)], url):
        build = json.load(urllib.request.urlopen(f"{url}/props")).get("build_info", "")
        yield Running(url, "", f"llama.cpp's server {build} (xllamacpp {version('llama.cpp', 'xllamacpp')})")


@contextmanager
def transformers() -> Iterator[Running]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words = ["serve", models().folder, "--port", str(port), "--host", "127.0.0.1", "--device", "cpu"]
    command = [python("transformers"), "-c", "from transformers.cli.transformers import main; main()", *words]
    with process("transformers", command, url, env=TORCH):
        yield Running(url, "", f"transformers serve {version('transformers', 'transformers')}", str(models().folder))


@contextmanager
def katan() -> Iterator[Running]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words = ["-m", models().folder, "-n", NAME, "-b", "transformers", "-d", "cpu", "--no-quantize", "-p", str(port), "-h", "127.0.0.1"]
    command = [python("llm-katan"), "-m", "llm_katan.cli", *words, "--providers", "openai,anthropic,vertexai"]
    with process("llm-katan", command, url, env=TORCH):
        yield Running(url, KEY, f"llm-katan {version('llm-katan', 'llm-katan')}")


@contextmanager
def vllm() -> Iterator[Running]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words = ["-m", "vllm.entrypoints.openai.api_server", "--model", models().folder, "--served-model-name", NAME]
    words += ["--port", str(port), "--host", "127.0.0.1"]
    words += ["--max-model-len", "2048", "--dtype", "float32", "--enforce-eager"]
    words += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--enable-prompt-tokens-details"]
    command = [python("vllm"), *words]
    env = TORCH | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    with process("vllm", command, url, env=env):
        yield Running(url, "", f"vLLM {version('vllm', 'vllm-cpu')} (CPU build)")


SERVERS = {"door": door, "llama.cpp": llama_cpp, "transformers": transformers, "llm-katan": katan, "vllm": vllm}
"""By name; each but the door needs the environment of that name."""


def obstacle(server: str) -> str:
    """Why it cannot run here; empty if it can."""
    return "" if server == "door" else missing(server)
