"""Time what ranks exchange on this machine, beside MPI's own Allreduce, and check the estimate.

    python -m benchmarks.communication [--ranks 2 4] [--rounds 5] [--steps 0]
    python -m benchmarks.communication --rate 1gbit    over namespaces as hosts (Linux, root)
    python -m benchmarks.communication --rate 1gbit --steps 5 --pause 8
                                                       steps that sleep: overlap, without its cost

One thread for each rank, gradients and parameters of the 124M model. A time is that of the slowest
rank, and a figure the median of the rounds.

allreduce  seconds of MPI's Allreduce of the gradients, in place
exchange   seconds of the reduce-scatter of gradients and the all-gather of parameters
bfloat16   the same with gradients in bfloat16
bandwidth  bytes/s of each rank, which sends buckets to a neighbour and receives as many
latency    seconds of an exchange of 8 bytes
sum_rate   numbers/s that each rank adds to its own, while all do
estimate   seconds of the exchange by npgpt estimate's model, from these three
step       seconds of a training step of 2,048 tokens a rank, of one micro-batch
overlapped the same with the exchange of finished blocks during backward
ideal      seconds of its computation alone, on all ranks at once
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import harness
from npgpt.config import Config, TrainingConfig
from npgpt.distributed import scaling, sums, world
from npgpt.distributed.partition import Partition
from npgpt.model import params

LIMIT, STEP_LIMIT, ESTIMATE_LIMIT = 1.3, 1.10, 0.15
FOUND = "found.json"
SMALL = 1000  # messages
TOKENS = 2048  # of a step, for each rank
ENVIRONMENT = harness.on_threads(1) | {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}


# On each rank


def measure(here: world.World, rounds: int, steps: int, pause: float | None) -> dict:
    """Return the figures of these ranks."""
    from mpi4py import MPI

    comm, config = here.comm, Config()
    flat = np.ones(params.size(config), np.float32)
    buffers, halves = [], []
    bounds = Partition(params.shapes(config), here.size).bounds

    def slowest(function) -> float:
        comm.Barrier()
        return comm.allreduce(harness.once(function), MPI.MAX)

    def wide() -> None:
        sums.reduce(comm, flat, bounds, buffers)
        sums.all_gather(comm, flat, bounds)

    def half() -> None:
        sums.reduce_scatter_bfloat16(comm, flat, bounds, halves)
        sums.all_gather(comm, flat, bounds)

    after, before = (here.rank + 1) % here.size, (here.rank - 1) % here.size

    def send_large() -> None:
        requests, step = [], sums.BUCKET // flat.itemsize
        for i in range(0, half_size, step):
            own = slice(i, min(i + step, half_size))
            requests.append(comm.Irecv(flat[half_size:][own], before))
            requests.append(comm.Isend(flat[own], after))
            if len(requests) == 2 * sums.WINDOW:
                requests.pop(0).Wait(), requests.pop(0).Wait()
        for request in requests:
            request.Wait()

    def send_small() -> None:
        for _ in range(SMALL):
            comm.Sendrecv(byte, after, 0, other_byte, before, 0)

    def add() -> None:
        np.add(flat[:half_size], flat[-half_size:], out=flat[:half_size])

    half_size, byte, other_byte = len(flat) // 2, np.zeros(8, np.uint8), np.zeros(8, np.uint8)
    timed = {
        "allreduce": lambda: comm.Allreduce(MPI.IN_PLACE, flat),
        "exchange": wide,
        "bfloat16": half,
        "bandwidth": send_large,
        "latency": send_small,
        "sum_rate": add,
    }
    found: dict = {name: [] for name in timed}
    for i in range(rounds + 1):  # the first one touches memory, and is not counted
        for name, function in timed.items():
            flat.fill(1)
            seconds = slowest(function)
            if i:
                found[name].append(seconds)
    found["bandwidth"] = [4 * half_size / seconds for seconds in found["bandwidth"]]
    found["latency"] = [seconds / SMALL for seconds in found["latency"]]
    found["sum_rate"] = [half_size / seconds for seconds in found["sum_rate"]]
    if steps:
        found |= time_steps(here, steps, slowest, pause)
    return found


def time_steps(here: world.World, steps: int, slowest, pause: float | None) -> dict:
    """Return the seconds of complete steps, and of their computation alone.

    pause : seconds of sleep in place of forward and backward, or None
    """
    import npgpt
    from npgpt.distributed.overlap import Choice
    from npgpt.distributed.partition import flat_of
    from npgpt.distributed.trainer import DataParallelTrainer

    config = Config(dropout=0.0)
    windows = TOKENS // config.context_length * here.size
    training = TrainingConfig(batch_size=windows, grad_clip=1.0, eval_batches=1)
    rng = npgpt.Generator(1)
    tokens = np.arange(windows * config.context_length + 1) * 7919 % config.vocab_size
    model = npgpt.GPT(config, seed=rng)
    trainer = DataParallelTrainer(model, tokens, tokens[:2000], training, rng, world=here)
    batch = tokens[:-1].reshape(windows, -1), tokens[1:].reshape(windows, -1)

    def sleep(tokens, targets, rng, *, out, dloss, on_block) -> tuple[float, object]:
        time.sleep(pause / 3)  # forward takes about half as long as backward
        for _ in out.h:
            time.sleep(2 / 3 * pause / len(out.h))
            on_block()
        return 0.0, out

    if pause is not None:
        model.loss_and_gradients = sleep

    def step(overlap: str) -> None:
        trainer.overlap = Choice(overlap, True)
        trainer.update(*batch, 1e-4)

    def compute() -> None:
        trainer.overlap = Choice("off", True)
        _, flat = trainer.sum_of_own(*batch)
        trainer.optimizer.step(trainer.partition.views(flat, here.rank), lr=1e-4)
        flat_of(model.params)

    timed = {"step": partial(step, "off"), "overlapped": partial(step, "on"), "ideal": compute}
    found: dict = {name: [] for name in timed}
    for i in range(steps + 1):
        for name, function in timed.items():
            seconds = slowest(function)
            if i:
                found[name].append(seconds)
    return found


# The launcher


def launch(command: list[str], folder: str) -> dict:
    """Run a command that starts ranks. Return the figures that the first of them has written."""
    subprocess.run(command, env=os.environ | ENVIRONMENT, check=True)
    return json.loads(Path(folder, FOUND).read_text("utf-8"))


def rank_program(options: argparse.Namespace, folder: str) -> list[str]:
    """Return the command of a rank."""
    numbers = ["--rounds", str(options.rounds), "--steps", str(options.steps)]
    numbers += ["--pause", str(options.pause)] if options.pause is not None else []
    program = [sys.executable, "-W", "ignore", "-m", "benchmarks.communication"]
    return [*program, *numbers, "--serve", str(Path(folder, FOUND))]


def mpirun() -> str:
    """Return the path of the launcher, which may be beside Python."""
    beside = Path(sys.executable).with_name("mpirun")
    return str(beside) if beside.exists() else shutil.which("mpirun") or "mpirun"


AGENT = """#!/bin/bash
# AGENT HOST COMMAND ...: run a command in the network namespace of a host
host=$1; shift
name=npgpt-${host##*.}
exec ip netns exec $name unshare --uts bash -c "hostname $name; $*"
"""
SWITCH = "npgpt-switch"


def launch_between_namespaces(options: argparse.Namespace, folder: str, ranks: int) -> dict:
    """Run ranks on hosts of their own: network namespaces at a switch, with links of one rate."""
    hosts = {f"npgpt-{i}": f"10.77.0.{i}" for i in range(1, ranks + 1)}

    def run(command: str) -> None:
        subprocess.run(command.split(), check=True)

    try:
        run(f"ip netns add {SWITCH}")
        run(f"ip -n {SWITCH} link add bridge type bridge")
        run(f"ip -n {SWITCH} link set bridge up")
        for name, address in hosts.items():
            run(f"ip netns add {name}")
            run(f"ip link add port netns {name} type veth peer name {name} netns {SWITCH}")
            run(f"ip -n {SWITCH} link set {name} master bridge")
            run(f"ip -n {name} addr add {address}/24 dev port")
            run(f"ip -n {name} link set lo up")
            for space, link in ((name, "port"), (SWITCH, name)):
                run(f"ip -n {space} link set {link} up")
                limit = f"tbf rate {options.rate} burst 256kb latency 50ms"
                run(f"ip netns exec {space} tc qdisc add dev {link} root {limit}")
        agent = Path(folder, "agent")
        agent.write_text(AGENT)
        agent.chmod(0o755)
        network = "--mca pml ob1 --mca btl tcp,self --mca btl_tcp_if_include 10.77.0.0/24"
        first = next(iter(hosts))
        command = (
            f"hostname {first}; exec {mpirun()} -n {ranks} --bind-to none "
            f"--host {','.join(f'{address}:1' for address in hosts.values())} "
            f"--prtemca plm_ssh_agent {agent} {network} {' '.join(rank_program(options, folder))}"
        )
        start = ["ip", "netns", "exec", first, "unshare", "--uts", "bash", "-c", command]
        return launch(start, folder)
    finally:
        for name in (*hosts, SWITCH):
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL)


def summarise(found: dict, ranks: int) -> dict:
    """Return medians, ratios to their limits, and the estimates."""
    one = {name: statistics.median(values) for name, values in found.items()}
    measured = zip(found["bandwidth"], found["latency"], found["sum_rate"], strict=True)
    clusters = [scaling.Cluster(ranks, *figures) for figures in measured]
    estimates = [scaling.exchange(params.size(Config()), cluster) for cluster in clusters]
    one["estimate"] = statistics.median(estimates)
    one["estimate_error"] = harness.ratio(estimates, found["exchange"])["median"] - 1
    ratios = {"exchange": ("allreduce", LIMIT)}
    if "step" in one:
        ratios["step"] = ("ideal", STEP_LIMIT)
        one["overlapped_ratio"] = harness.ratio(found["overlapped"], found["step"])
        one["estimated_step"] = one["ideal"] + one["estimate"]
        one["estimated_step_error"] = one["estimated_step"] / one["step"] - 1
    for name, (other, limit) in ratios.items():
        one[f"{name}_ratio"] = harness.ratio(found[name], found[other]) | {"at_most": limit}
    return one


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=0, help="also time training steps")
    parser.add_argument("--pause", type=float, help="sleep for these seconds in place of computing")
    parser.add_argument("--rate", help="of the links of namespaces that are hosts: 1gbit")
    parser.add_argument("--serve", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:

        def program(here: world.World) -> int:
            found = measure(here, options.rounds, options.steps, options.pause)
            if here.is_first:
                Path(options.serve).write_text(json.dumps(found), "utf-8")
            return 0

        return world.run(program)

    results = {}
    for ranks in options.ranks:
        started = time.perf_counter()
        load = os.getloadavg()[0]  # before the ranks add theirs
        with tempfile.TemporaryDirectory() as folder:
            if options.rate:
                found = launch_between_namespaces(options, folder, ranks)
            else:
                start = [mpirun(), "-n", str(ranks), "--bind-to", "none"]
                found = launch([*start, *rank_program(options, folder)], folder)
        name = f"{ranks} ranks" + (f", {options.rate}" if options.rate else "")
        results[name] = {"load_before": load, **summarise(found, ranks)}
        print(name, json.dumps(results[name], indent=2))
        print(f"{time.perf_counter() - started:.0f} s")
    suffix = f"_{options.rate}" if options.rate else ""
    suffix += "_pause" if options.pause is not None else ""
    harness.write(f"communication{suffix}", {"limits": {
        "exchange": LIMIT, "step": STEP_LIMIT, "estimate": ESTIMATE_LIMIT,
    }, "results": results})  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
