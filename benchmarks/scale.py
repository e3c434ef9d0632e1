"""One program on several machines: doors behind the real sglang-router, on this machine.

    python benchmarks/scale.py [--workers 4] [--policies cache_aware,round_robin,random] [--no-kill]

Opens four doors (`sgl_lab.serve`), each a process with an engine and a cache of its own, and starts
sglang-router in front of them. A program of several groups of few-shot questions then runs through
the router as one endpoint, in an order in which neighbours share nothing. For each policy it prints
the hit rate, the throughput and what each worker did. In a last run a worker is killed with SIGKILL
after a third of the answers; every answer must still come, and greedy answers must be those of the
first run.

The router is a program of its own with packages of its own: the command installs it into
build/sglang-router, once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

import sgl_lab as sgl
from sgl_lab.backends.sglang.router import Worker

ROOT = Path(__file__).resolve().parents[1]
ROUTER = ROOT / "build" / "sglang-router"
PINS = ("sglang-router==0.3.2", "setproctitle", "uvicorn", "fastapi", "aiohttp", "orjson")
POLICIES = ("cache_aware", "round_robin", "random")
TOPICS = ("harbours", "bridges", "lighthouses", "windmills", "orchards", "quarries", "observatories", "tramways", "reservoirs", "vineyards")
START_S = 300.0


@dataclass
class Result:
    policy: str
    answers: list[str] = field(default_factory=list)
    seconds: float = 0.0
    n_prompt: int = 0
    n_cached: int = 0
    n_generated: int = 0
    failed: list[str] = field(default_factory=list)
    workers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def hit_rate(self) -> float:
        return self.n_cached / max(1, self.n_prompt)


def questions(n_groups: int, n_each: int, n_shots: int) -> list[tuple[str, str]]:
    """(examples, question): groups with the same examples, shuffled so that neighbours share
    nothing but by chance.
    """
    asked = []
    for group in range(n_groups):
        topic = TOPICS[group % len(TOPICS)]
        draw = random.Random(group)
        shots = ""
        for _ in range(n_shots):
            no, a, b = draw.randint(100, 999), draw.randint(10, 99), draw.randint(10, 99)
            shots += f"Q: {topic} no. {no} has {a} gates and gets {b} more. How many?\nA: {a} + {b} = {a + b}\n\n"
        asked += [(shots, f"Q: {topic} no. {n + 1} has {10 + n} gates and gets {20 + group} more. How many?\nA:") for n in range(n_each)]
    random.Random(0).shuffle(asked)
    return asked


@sgl.function
def answered(s: Any, shots: str, question: str, n_tokens: int) -> None:
    s += shots + question + sgl.gen("answer", max_tokens=n_tokens, temperature=0, stop="\n")


# ---------------------------------------------------------------- processes


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def worker(port: int, token: str, model: str) -> None:
    """The process of one door."""
    lab = sgl.Lab(model, threads=1, cache_tokens=16_384)
    from sgl_lab.serve import serve

    with serve(lab, port=port, token=token):
        print("ready", flush=True)
        while os.getppid() != 1:
            time.sleep(0.5)


@contextmanager
def doors(n: int, token: str, model: str) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """By address."""
    with ExitStack() as stack:
        started = {}
        for _ in range(n):
            port = free_port()
            command = [sys.executable, __file__, "--worker", str(port), "--model", model]
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | {"SCALE_TOKEN": token}
            )
            stack.callback(end, process)
            started[f"http://127.0.0.1:{port}"] = process
        for url, process in started.items():
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise SystemExit(f"the door at {url} did not open")
        yield started


@contextmanager
def router(urls: Sequence[str], policy: str, token: str) -> Iterator[str]:
    port, metrics = free_port(), free_port()
    command = [
        *(str(ROUTER / "bin" / "python"), "-m", "sglang_router.launch_router", "--worker-urls", *urls),
        *("--policy", policy, "--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(metrics), f"--api-key={token}"),
        *("--log-level", "warn", "--health-check-interval-secs", "2", "--health-failure-threshold", "1"),
        *("--retry-max-retries", "5", "--cb-failure-threshold", "2"),
    ]
    log = ROOT / "build" / "sglang-router.log"
    with log.open("a") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url, process, log, len(urls), token)
        yield url
    finally:
        end(process)


def wait_for(url: str, process: subprocess.Popen[Any], log: Path, n_workers: int, token: str) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SystemExit(f"sglang-router ended with {process.returncode}: see {log}")
        try:
            found = httpx2.get(f"{url}/workers", headers={"authorization": f"Bearer {token}"}, timeout=5).json()
            if sum(bool(each.get("is_healthy")) for each in found.get("workers", ())) == n_workers:
                return
        except (httpx2.HTTPError, ValueError):
            pass
        time.sleep(0.2)
    raise SystemExit(f"sglang-router is not ready after {START_S:g} s: see {log}")


def end(process: subprocess.Popen[Any]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def set_up() -> None:
    """The router's own environment."""
    if (ROUTER / ".ready").exists():
        return
    print(f"installing {PINS[0]} into {ROUTER}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(ROUTER)], check=True)
    pip = [str(ROUTER / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-q", *PINS]
    subprocess.run(pip, check=True)
    (ROUTER / ".ready").touch()


# ---------------------------------------------------------------- a run


def run(options: argparse.Namespace, started: dict[str, subprocess.Popen[str]], policy: str, token: str, victim: str = "") -> Result:
    alive = {url: process for url, process in started.items() if process.poll() is None}
    for url in alive:
        httpx2.post(f"{url}/flush_cache", headers={"authorization": f"Bearer {token}"}, timeout=30)
    before = {url: counts(url, token) for url in alive}
    asked = questions(options.groups, options.each, options.shots)
    result = Result(policy)
    with router(list(alive), policy, token) as url:
        backend = sgl.RuntimeEndpoint(url, api_key=token, tokenizer=options.model)
        began = time.monotonic()
        places = threading.BoundedSemaphore(options.concurrency)
        states = []
        for shots, question in asked:
            places.acquire()
            state = answered.run(shots, question, options.tokens, backend=backend, stream=True)
            states.append(state)
            threading.Thread(target=followed, args=(state, places), daemon=True).start()
            if victim and len(states) == len(asked) // 3:
                alive[victim].send_signal(signal.SIGKILL)
        for state in states:
            try:
                result.answers.append(state["answer"])
                usage = state.get_meta_info("answer")
                result.n_prompt += usage["prompt_tokens"]
                result.n_cached += usage["cached_tokens"]
                result.n_generated += usage["completion_tokens"]
            except sgl.SglError as error:
                result.answers.append("")
                result.failed.append(str(error))
        result.seconds = time.monotonic() - began
        known = {each.url: each for each in backend.workers()}
        for name in alive:
            each = known.get(name, Worker(name, False))
            row = {"url": name, "healthy": each.is_healthy}
            if name != victim:
                now = counts(name, token)
                row |= {key: now[key] - before[name][key] for key in now}
            result.workers.append(row)
        backend.close()
    return result


def followed(state: Any, places: threading.BoundedSemaphore) -> None:
    try:
        state.sync()
    except sgl.SglError:
        pass  # the main thread reads it, too
    finally:
        places.release()


def counts(url: str, token: str) -> dict[str, int]:
    """Of one worker, since it began."""
    info = httpx2.get(f"{url}/get_server_info", headers={"authorization": f"Bearer {token}"}, timeout=30).json()
    stats = info["internal_states"][0]["stats"]
    n_requests = sum(stats.get(f"requests_{reason}", 0) for reason in ("stop", "length"))
    return {"requests": n_requests, "prompt": stats["prompt_tokens"], "cached": stats["cached_prompt_tokens"]}


def shown(result: Result, n: int) -> str:
    """A table of one run."""
    rate = result.n_generated / result.seconds
    speed = f"{n / result.seconds:>8.2f} requests/s{rate:>9.1f} tokens/s"
    head = f"{result.policy:<24}{result.hit_rate:>8.1%} hits{speed}{len(result.failed):>5} lost"
    lines = [
        f"    {each['url']}  "
        + (f"{each['requests']:>4} requests  {each['cached'] / max(1, each['prompt']):>6.1%} hits" if "requests" in each else "killed")
        + ("" if each["healthy"] else "  (the router calls it unhealthy)")
        for each in result.workers
    ]
    return "\n".join((head, *lines))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--groups", type=int, default=6, help="groups of questions with the same examples")
    parser.add_argument("--each", type=int, default=8, help="questions of each")
    parser.add_argument("--shots", type=int, default=4, help="examples before each question")
    parser.add_argument("--tokens", type=int, default=8, help="tokens of an answer")
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--no-kill", action="store_true", help="without the run in which a worker is killed")
    parser.add_argument("--json", help="write the results here, too")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, os.environ["SCALE_TOKEN"], options.model)
        return 0
    set_up()
    token, n = secrets.token_urlsafe(24), options.groups * options.each
    results = []
    with doors(options.workers, token, options.model) as started:
        print(
            f"{options.workers} doors of {options.model}, {n} questions in {options.groups} groups, {options.concurrency} at once",
            flush=True,
        )
        for policy in options.policies.split(","):
            results.append(run(options, started, policy, token))
            print(shown(results[-1], n), flush=True)
        if not options.no_kill:
            victim = max(results[0].workers, key=lambda each: each["requests"])["url"]
            killed = run(options, started, results[0].policy, token, victim)
            killed.policy += ", one killed"
            results.append(killed)
            print(shown(killed, n), flush=True)
            print(f"equal to the answers of the first run: {killed.answers == results[0].answers}")
            for reason in killed.failed[:3]:
                print(f"    lost: {reason}")
    if options.json:
        Path(options.json).write_text(json.dumps([vars(each) for each in results], indent=1))
    return 1 if any(each.failed for each in results) else 0


if __name__ == "__main__":
    sys.exit(main())
