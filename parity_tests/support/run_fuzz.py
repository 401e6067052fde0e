"""Read forged files of every format in forked children, each file within limits.

    python -m parity_tests.support.run_fuzz 100000 --seed 0 safetensors llm.c

forges and reads 100,000 files of each format named (by default: all), each within one second of
CPU time and 100 MB of memory, and prints how often each outcome occurred. A file that ends in
anything but success, InputError or RunError is named by its seed; `1 --seed SEED FORMAT` shows it.
"""

import argparse
import json
import mmap
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import npgpt.fused  # noqa: F401 (imported before the memory is limited)
from npgpt.system import memory
from parity_tests.support import fuzz
from parity_tests.support.fuzz_formats import FORMATS

SECONDS, MEMORY = 1.0, 100_000_000  # for each file
BATCH = 1000  # files a child


class Child:
    """A fork that reads the files of some seeds."""

    def __init__(self, format_, seeds):
        self.format, self.seeds = format_, seeds
        self.now = mmap.mmap(-1, 8)  # shared: the seed that is being read
        self.outcomes, self.slowest, self.peak = Counter(), 0.0, 0

    def run(self):
        """Read the files and return the seed that failed, None if none did."""
        sys.stdout.flush()
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            status = 1
            try:
                os.close(reading)
                with open(writing, "w") as pipe:
                    json.dump(self.read(), pipe)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(writing)
        with open(reading) as pipe:
            text = pipe.read()
        _, status = os.waitpid(child, 0)
        if status:
            print(f"child ended with {os.waitstatus_to_exitcode(status)}", file=sys.stderr)
            return int.from_bytes(self.now[:], "little")
        outcomes, self.slowest, self.peak = json.loads(text)
        self.outcomes = Counter(outcomes)
        return None

    def read(self):
        """Return the outcomes, the longest time in seconds and the peak of memory in MB."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        limit = size + MEMORY + memory.TO_MULTIPLY  # which must be left before a backend is used
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        outcomes, slowest = Counter(), 0.0
        for seed in self.seeds:
            self.now[:] = seed.to_bytes(8, "little")
            self.format.forge(random.Random(seed))
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)  # its default action ends the process
            start = time.process_time()
            outcomes[fuzz.outcome(self.format.read, self.format.path)] += 1
            slowest = max(slowest, time.process_time() - start)
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        return outcomes, slowest, peak / 1024


def run(name, count, seed, *, details):
    """Read `count` forged files of a format, print a line, and return the number that failed."""
    outcomes, slowest, peak, failed, end = Counter(), 0.0, 0.0, [], seed + count
    with tempfile.TemporaryDirectory(prefix="fuzz") as directory:
        format_ = FORMATS[name](Path(directory))
        format_.forge(random.Random(seed))
        fuzz.outcome(format_.read, format_.path)  # everything is imported
        while seed < end and len(failed) < 20:
            child = Child(format_, range(seed, min(seed + BATCH, end)))
            wrong = child.run()
            seed = child.seeds.stop if wrong is None else wrong + 1
            failed += [] if wrong is None else [wrong]
            outcomes += child.outcomes
            slowest, peak = max(slowest, child.slowest), max(peak, child.peak)
    for outcome, times in outcomes.most_common() if details else ():
        print(f"{times:8,} {outcome}")
    refused = outcomes.total() - outcomes["read"]
    print(f"{name}: {outcomes['read']} read, {refused} refused in {len(outcomes)} outcomes, "
          f"slowest {slowest:.3f} s, {peak:.0f} MB, failed: {failed}", flush=True)  # fmt: skip
    return len(failed)


def main():
    """Read forged files of the formats named."""
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("formats", nargs="*", default=[*FORMATS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--details", action="store_true")
    given = parser.parse_intermixed_args()
    failed = [run(name, given.count, given.seed, details=given.details) for name in given.formats]
    sys.exit(1 if any(failed) else 0)


if __name__ == "__main__":
    main()
