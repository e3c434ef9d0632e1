"""The door against calling the engine directly: throughput at 32 clients, and time to the first
token.

    python benchmarks/door.py [--model smollm2] [--clients 32] [--tokens 64] [--rounds 3] [--first]

Both ways run the same chat prompts with the same number of tokens, in turn, round by round. Clients
of the door are a process of their own (a client has its own computer, or its own process), stream
over one connection each, and read every token: on a machine with few cores they take some of the
engine's time, which the CPU seconds of this process (the second line) leave out. The direct way
submits the same jobs to the lab's backend. The time to the first token is that of one client alone
with a cached prompt: what the way adds. `--first` measures that only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from statistics import median

from sgl_lab.contracts.json_values import Json
from sgl_lab.contracts.params import SamplingParams
from sgl_lab.contracts.port import GenJob, GenOutput
from sgl_lab.serve import Door, serve
from sgl_lab.serve.messages import read
from sgl_lab.serve.parsed import Model
from sgl_lab.session import Lab

SYSTEM = "You are a helpful assistant that answers shortly. " * 8


def messages(number: int, salt: int) -> list[Json]:
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"Round {salt}: tell me about the number {number}."}]


class Timed:
    """A listener that knows when its first token and its end came."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.first = self.ended = 0.0
        self.n = 0

    def on_progress(self, index: int, text: str, ids: tuple[int, ...]) -> None:
        self.first = self.first or time.perf_counter()

    def on_done(self, outputs: tuple[GenOutput, ...]) -> None:
        self.first = self.first or time.perf_counter()
        self.n = outputs[0].usage.completion_tokens
        self.ended = time.perf_counter()

    def on_error(self, error: Exception) -> None:
        raise error


def directly(lab: Lab, model: Model, jobs: list[list[Json]], n_tokens: int) -> list[Timed]:
    params = SamplingParams(max_tokens=n_tokens, temperature=0, ignore_eos=True)
    listeners = []
    for job in jobs:
        listener = Timed()
        lab.backend.submit(GenJob(model.encode_chat(read(job, model.card.tool_style)), params), listener)
        listeners.append(listener)
    while not all(listener.ended for listener in listeners):
        time.sleep(0.001)
    return listeners


CLIENT = """
import asyncio, json, sys, time
import httpx2

async def main(url, token, jobs, n_tokens, n_warm):
    key = {"authorization": f"Bearer {token}"}
    limits = httpx2.Limits(max_connections=len(jobs))
    async with httpx2.AsyncClient(base_url=url, headers=key, timeout=600, limits=limits) as client:
        async def one(messages):
            began, first, n = time.perf_counter(), 0.0, 0
            body = {"messages": messages, "max_tokens": n_tokens, "temperature": 0, "ignore_eos": True, "stream": True,
                    "stream_options": {"include_usage": True}}
            async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("data: {"):
                        first = first or time.perf_counter()
                        if '"usage":{' in line:
                            n = json.loads(line[6:])["usage"]["completion_tokens"]
            return began, first, time.perf_counter(), n
        await asyncio.gather(*(client.get("/health") for _ in jobs))  # the connections
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps(await asyncio.gather(*map(one, jobs))), flush=True)

asyncio.run(main(*json.loads(sys.stdin.readline())))
"""


def through(door: Door, jobs: list[list[Json]], n_tokens: int) -> list[tuple[float, float, float, int]]:
    with subprocess.Popen([sys.executable, "-c", CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as clients:
        assert clients.stdin is not None
        assert clients.stdout is not None
        clients.stdin.write(json.dumps([door.url, door.token, jobs, n_tokens, 0]) + "\n")
        clients.stdin.flush()
        assert clients.stdout.readline() == "ready\n"
        clients.stdin.write("go\n")
        clients.stdin.flush()
        found: list[tuple[float, float, float, int]] = json.loads(clients.stdout.readline())
        return found


FIRST = """
import http.client, json, sys, time

port, token, job = json.loads(sys.stdin.readline())
line = http.client.HTTPConnection("127.0.0.1", port)
body = json.dumps({"messages": job, "max_tokens": 1, "temperature": 0, "stream": True})
headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
for n in sys.stdin:
    times = []
    for _ in range(int(n)):
        began = time.perf_counter()
        line.request("POST", "/v1/chat/completions", body, headers)
        answer = line.getresponse()
        while not answer.readline().startswith(b"data: {"):
            pass
        times.append(time.perf_counter() - began)
        answer.read()
    print(json.dumps(times), flush=True)
"""


class FirstTokens:
    """A client in a process of its own, on one connection: as little of a client as there can be,
    so that its time is the door's.
    """

    def __init__(self, door: Door, job: list[Json]) -> None:
        self._client = subprocess.Popen([sys.executable, "-c", FIRST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._say([int(door.url.rpartition(":")[2]), door.token, job])

    def _say(self, value: object) -> None:
        assert self._client.stdin is not None
        self._client.stdin.write(json.dumps(value) + "\n")
        self._client.stdin.flush()

    def times(self, n: int) -> list[float]:
        """Seconds to the first token, one request after the other."""
        self._say(n)
        assert self._client.stdout is not None
        found: list[float] = json.loads(self._client.stdout.readline())
        return found

    def close(self) -> None:
        self._client.communicate()


def first_tokens(lab: Lab, door: Door, model: Model, rounds: int) -> dict[str, list[float]]:
    """Of both ways in turn, in seconds."""
    job = messages(0, 0)
    client = FirstTokens(door, job)
    client.times(10)
    firsts: dict[str, list[float]] = {"direct": [], "door": []}
    for _ in range(rounds):
        for _ in range(5):
            (one,) = directly(lab, model, [job], 1)
            firsts["direct"].append(one.first - one.began)
        firsts["door"] += client.times(5)
    client.close()
    return firsts


def throughput(lab: Lab, door: Door, model: Model, options: argparse.Namespace) -> None:
    rates: dict[str, list[float]] = {"direct": [], "door": []}
    costs: dict[str, list[float]] = {"direct": [], "door": []}
    directly(lab, model, [messages(0, -1)], 4)
    for round in range(options.rounds):
        lab.flush()
        jobs = [messages(number, round) for number in range(options.clients)]
        began, cpu = time.perf_counter(), time.process_time()
        direct = directly(lab, model, jobs, options.tokens)
        rates["direct"].append(sum(one.n for one in direct) / (max(one.ended for one in direct) - began))
        costs["direct"].append((time.process_time() - cpu) / sum(one.n for one in direct))
        lab.flush()
        cpu = time.process_time()
        found = through(door, jobs, options.tokens)
        n = sum(one[3] for one in found)
        costs["door"].append((time.process_time() - cpu) / n)
        rates["door"].append(n / (max(one[2] for one in found) - min(one[0] for one in found)))
        print(f"round {round}: direct {rates['direct'][-1]:,.1f} tokens/s, door {rates['door'][-1]:,.1f}", flush=True)
    share = median(rates["door"]) / median(rates["direct"])
    print(f"{options.clients} clients: direct {median(rates['direct']):,.1f}, door {median(rates['door']):,.1f} tokens/s: {share:.1%}")
    direct_cost, door_cost = (1000 * median(costs[way]) for way in ("direct", "door"))
    print(f"CPU of this process: direct {direct_cost:.2f} ms a token, door {door_cost:.2f} ms: {direct_cost / door_cost:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--first", action="store_true", help="only the time to the first token")
    options = parser.parse_args()
    with Lab(options.model, cache_tokens=32_000, draft_tokens=0) as lab, serve(lab) as door:
        model = Model(lab.backend)
        if not options.first:
            throughput(lab, door, model, options)
        firsts = first_tokens(lab, door, model, 20)
        direct_ms, door_ms = (1000 * median(firsts[way]) for way in ("direct", "door"))
        print(f"first token, cached prompt: direct {direct_ms:.2f} ms, door {door_ms:.2f} ms, difference {door_ms - direct_ms:.2f} ms")


if __name__ == "__main__":
    main()
