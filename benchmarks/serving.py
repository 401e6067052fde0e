"""Measure the tokens per second of the clients of npgpt serve, beside the same batch by hand.

    python -m benchmarks.serving [--rounds 5] [--clients 32] [--new 48]

A random model of the 124M shape, float32. By hand: npgpt.Batch with all prompts in it from the
beginning. Served: as many clients at once, in a process of their own, over HTTP on this machine.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import threading
import time

import numpy as np

import npgpt
from benchmarks import harness
from npgpt.performance import precompile
from npgpt.serve import server

LONGEST = 64  # tokens of a prompt
END = 256  # the end of a text: the tokenizer is that of bytes, which has no file
NEVER = {END: -100.0}  # a bias, so that no text ends early
AT_LEAST = 0.9  # rate of the clients / rate by hand

CLIENTS = """
import json, sys, time
from concurrent.futures import ThreadPoolExecutor
import httpx

url, bodies = sys.argv[1], json.loads(sys.stdin.readline())
with httpx.Client(timeout=600, limits=httpx.Limits(max_connections=len(bodies))) as client:
    with ThreadPoolExecutor(len(bodies)) as pool:
        started = time.perf_counter()
        answers = list(pool.map(lambda body: client.post(url, json=body), bodies))
        seconds = time.perf_counter() - started
usage = [answer.raise_for_status().json()["usage"]["completion_tokens"] for answer in answers]
print(json.dumps([seconds, usage]))
"""


def prompts_of(count: int) -> list[list[int]]:
    """Return prompts of 1 to LONGEST tokens."""
    rng = np.random.default_rng(0)
    return [rng.integers(50257, size=rng.integers(1, LONGEST + 1)).tolist() for _ in range(count)]


def by_hand(model: npgpt.GPT, prompts: list[list[int]], new: int) -> float:
    """Return the seconds of one batch."""
    batch, started = npgpt.Batch(model), time.perf_counter()
    for prompt in prompts:
        batch.add(prompt, npgpt.Sampling(logit_bias=NEVER), max_new_tokens=new, eos_id=END)
    while batch:
        batch.step()
    return time.perf_counter() - started


def served(port: int, prompts: list[list[int]], new: int) -> float:
    """Return the seconds of as many clients. Exits if one got another number of tokens."""
    settings = {"max_tokens": new, "temperature": 0, "logit_bias": NEVER}
    bodies = [{"prompt": prompt, **settings} for prompt in prompts]
    command = [sys.executable, "-c", CLIENTS, f"http://127.0.0.1:{port}/v1/completions"]
    done = subprocess.run(
        command, input=json.dumps(bodies) + "\n", stdout=subprocess.PIPE, text=True, check=True
    )
    seconds, usage = json.loads(done.stdout)
    if usage != [new] * len(prompts):
        raise SystemExit(f"the clients got {usage} tokens, not {new} each")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--new", type=int, default=48)
    args = parser.parse_args()

    model, tokenizer = npgpt.GPT(npgpt.Config()), npgpt.tokenizer("byte")
    precompile.compile_kernels("batches", "float32")
    service = server.Service(model, tokenizer, "model", size=args.clients)
    listening = server.bind("127.0.0.1", 0)
    runs = server.Server(service)
    threading.Thread(target=lambda: asyncio.run(runs.serve([listening])), daemon=True).start()
    prompts, port = prompts_of(args.clients), listening.getsockname()[1]
    served(port, prompts, 2)
    pairs = []
    for number in range(args.rounds):
        pair = by_hand(model, prompts, args.new), served(port, prompts, args.new)
        pairs.append(pair)
        print(f"{number + 1}: by hand {pair[0]:.2f} s, served {pair[1]:.2f} s", flush=True)
    runs.should_exit = True
    service.engine.close()
    ratio = statistics.median(hand / clients for hand, clients in pairs)
    rate = args.clients * args.new / statistics.median(clients for _, clients in pairs)
    print(f"{rate:,.0f} tokens/s; clients' rate / rate by hand {ratio:.2f} (at least {AT_LEAST})")
    harness.write(
        "serving",
        {
            "clients": args.clients, "new": args.new, "tokens_per_second": rate, "ratio": ratio,
            "at_least": AT_LEAST, "pairs": pairs,
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
