"""Disks that fail: the n-th write, sync, rename, ... of a command raises an OSError.

    python -m parity_tests.support.faults [SCENARIO ...]

lets every operation of every scenario fail, once and for good, with every error, and checks what
the command said and left. Then the command runs again, on a disk that works, and must end with the
same bits as one that never failed. parity_tests/cli/test_faults.py runs a part of it.
"""

import contextlib
import errno
import io
import json
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from parity_tests.support.failing_disk import ERRORS, Faults, contents
from parity_tests.support.time_left import with_time_left


def parts(root: Path) -> list[str]:
    """Return the temporary files below a directory."""
    return [name for name in contents(root) if name.endswith(".part")]


@dataclass(frozen=True)
class Scenario:
    """A command, in a directory of its own.

    prepare     makes the directory's contents
    command     the arguments
    again       the arguments to run it again after a failure
    result      returns what must be equal to the bit in the end
    complete    checks the files after a failure: each must be complete or missing. The argument
                says whether the disk was dead, so that nothing could be undone
    cleans      the second run deletes temporary files that the first one could not delete
    """

    prepare: Callable[[], None]
    command: str
    again: Callable[[], str]
    result: Callable[[], Any]
    complete: Callable[[bool], None] = lambda dead: None
    cleans: bool = False


def run(line: str) -> tuple[int, str]:
    """Run a command. Return its exit status and what it wrote to standard error."""
    from npgpt.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        return main(line.split()), err.getvalue()


def attempt(scenario: Scenario, faults: Faults, expected: Any) -> int:
    """Run a scenario in the working directory, with its faults, then again without. Check both.

    Returns the exit status of the first run.
    """
    scenario.prepare()
    with faults.installed():
        status, said = run(scenario.command)
    if faults.before is None:
        assert status == 0, said
    assert status in (0, 1) or (status == 2 and faults.code == errno.EACCES), (status, said)
    assert bool(status) <= bool(said), "a failure without a word"
    for line in said.splitlines():
        assert line.startswith("npgpt: "), said
        check_message(line, faults)
    dead = faults.forever and faults.code == errno.EIO
    if (
        not dead and faults.kind != "delete" and "download" not in scenario.command
    ):  # which keeps what it has received
        assert parts(faults.root) == []
    scenario.complete(dead)
    if status:
        again, said = run(scenario.again())
        assert (again, said) == (0, ""), said
        if scenario.cleans:
            assert [name for name in parts(faults.root) if "/.loss.png." not in name] == []
    assert scenario.result() == expected
    return status


def check_message(line: str, faults: Faults) -> None:
    """Check what a message claims about the disk."""
    before, now = faults.before or {}, contents(faults.root)
    assert "damaged" not in line, line
    failed = r"(\S+) could not be written[^;]*; "
    for path in re.findall(f"{failed}the previous file is unchanged", line):
        assert now[path] == before[path], line
    for path in re.findall(f"{failed}nothing was written", line):
        assert not os.path.exists(path), line
    if "the new run was removed" not in line:
        for path in re.findall(r"(\S+) was written, but", line):
            assert os.path.exists(path), line
    for path in re.findall(r"The last good checkpoint is (\S+)", line):
        from npgpt.weights import checkpoint

        checkpoint.read_training(path)


# The scenarios


def write_text() -> None:
    from parity_tests.support.runs import TEXT

    Path("text.txt").write_text(TEXT[:600])


def train_again() -> str:
    """Resume the run if it exists, else start it again."""
    return "train --resume run" if os.path.exists("run/config.json") else TRAIN


def run_is_complete(dead: bool) -> None:
    """Check that every file of the run is complete or missing."""
    from npgpt.weights import checkpoint

    directory = Path("run")
    if (directory / "config.json").exists():
        json.loads((directory / "config.json").read_bytes())
    if (directory / "metrics.jsonl").exists():
        *lines, last = (directory / "metrics.jsonl").read_text().split("\n")
        assert all(json.loads(line) for line in lines)
        assert dead or not last
    if (directory / "checkpoint.h5").exists():
        checkpoint.read_training(directory / "checkpoint.h5")
    if (directory / "loss.png").exists():
        assert (directory / "loss.png").read_bytes().endswith(b"IEND\xaeB`\x82")


def run_result() -> Any:
    from parity_tests.support.runs import FILES, final

    shown = {name for name in os.listdir("run") if not name.startswith(".")}
    assert shown - {"train.log"} <= FILES
    return final("run")


def write_model() -> None:
    from parity_tests.support.checkpoints import model_of

    model_of(vocab_size=257).save("model.h5")


def output(name: str) -> Callable[[], Any]:
    """Return a function that returns the bytes of what a command wrote."""

    def result() -> dict[str, bytes]:
        found = contents(Path.cwd())
        found.pop("to/.npgpt.lock", None)  # it could not be deleted, and is held by none
        return {path: data for path, data in found.items() if path.startswith(name)}

    return result


def whole_export(dead: bool) -> None:
    if os.path.exists("o"):
        assert {path.name for path in Path("o").iterdir()} == {
            "README.md", "config.json", "generation_config.json", "merges.txt", "model.safetensors",
            "tokenizer.json", "tokenizer_config.json", "vocab.json",
        }  # fmt: skip


def no_half_download(dead: bool) -> None:
    from parity_tests.support.downloads import CHECKPOINT

    for name, data in CHECKPOINT.items():
        if os.path.exists(f"to/{name}"):
            assert Path("to", name).read_bytes() == data


TRAIN = (
    "train --data text.txt --out run --ops numpy --epochs 2 --n-layer 1 --n-embd 8 --n-head 2 "
    "--context-length 16 --batch-size 8 --stride 16 --eval-every 2 --eval-batches 1 "
    "--sample-tokens 2 --warmup-steps 1"
)
DOWNLOAD = "download gpt2-small --source openai --to to"


def scenario(prepare: Callable[[], None], command: str, name: str, **more: Any) -> Scenario:
    return Scenario(prepare, command, lambda: command, output(name), **more)


SCENARIOS = {
    "train": Scenario(write_text, TRAIN, train_again, run_result, run_is_complete, True),
    "export": scenario(write_model, "export --model model.h5 --out o", "o", complete=whole_export),
    "export llm.c": scenario(write_model, "export --model model.h5 --to llm.c --out o", "o"),
    "export npgpt": scenario(write_model, "export --model model.h5 --to npgpt --out o", "o"),
    "quantize": scenario(write_model, "quantize model.h5 --to int8", "int8"),
    "download": scenario(lambda: None, DOWNLOAD, "to/", complete=no_half_download),
}


@contextlib.contextmanager
def fixtures(*, real_plot: bool) -> Iterator[None]:
    """A local server to download from, and, unless `real_plot`, a picture that is not drawn."""
    import threading

    from npgpt.download import gpt2, http
    from npgpt.system.atomic import atomic_write
    from npgpt.training import run_dir
    from npgpt.weights import formats
    from parity_tests.support.downloads import CHECKPOINT
    from parity_tests.support.file_server import PIECE, Server

    def plot(curves: Any, path: Path) -> None:
        with atomic_write(path) as file:
            file.write(b"\x89PNG IEND\xaeB`\x82")

    server, opened = Server(), formats.open_weights
    server.files |= {f"/124M/{name}": data for name, data in CHECKPOINT.items()}
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    model = gpt2.ReleasedModel("", "124M", tuple(map(len, CHECKPOINT.values())))

    def open_weights(path: Path, *, verify: bool = False) -> Any:
        if verify and (path / "hparams.json").exists():  # what is downloaded here is no model
            return None
        return opened(path, verify=verify)

    with contextlib.ExitStack() as stack:
        for target, name, value in (
            (gpt2, "OPENAI", (server.url,)), (gpt2, "MODELS", {"gpt2-small": model}),
            (http, "RETRY_DELAY", 0.001), (http, "CHUNK", PIECE),
            (formats, "open_weights", open_weights),
            (run_dir, "plot", run_dir.plot if real_plot else plot),
        ):  # fmt: skip
            stack.enter_context(mock.patch.object(target, name, value))
        try:
            yield
        finally:
            server.released.set()
            server.shutdown()
            thread.join()
            server.server_close()


@contextlib.contextmanager
def elsewhere() -> Iterator[Path]:
    """Work in a temporary directory; yield it."""
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield Path(os.path.realpath(folder))
        finally:
            os.chdir(before)


def measure(name: str) -> tuple[Counter, Any]:
    """Run a scenario without a fault. Return its number of operations by kind, and its result."""
    with elsewhere() as root:
        SCENARIOS[name].prepare()
        faults = Faults(root)
        with faults.installed():
            status, said = run(SCENARIOS[name].command)
        assert status == 0, said
        return faults.counts, SCENARIOS[name].result()


def fail(name: str, kind: str, number: int, code: int, forever: bool, expected: Any) -> int:
    """Run a scenario with one fault and check it. Return the exit status."""
    try:
        with elsewhere() as root:
            return attempt(SCENARIOS[name], Faults(root, kind, number, code, forever), expected)
    except BaseException as error:
        how = "for good" if forever else "once"
        error.add_note(f"{name}: {kind} {number} fails {how}: {os.strerror(code)}")
        raise


def cases(counts: Counter) -> Iterator[tuple[str, int, int, bool]]:
    """Yield every kind, number and error, once and for good."""
    for kind, total in sorted(counts.items()):
        for number in range(1, total + 1):
            for code in ERRORS[kind]:
                for forever in (False, True):
                    yield kind, number, code, forever


def main(names: list[str]) -> int:
    """Run every case of the scenarios. Print how often each ended how."""
    failed = 0
    with fixtures(real_plot=False):
        for name in names or SCENARIOS:
            started = time.process_time()
            counts, expected = measure(name)
            ended: Counter = Counter()
            every = list(cases(counts))
            for case in with_time_left(every, len(every), name):
                try:
                    ended[f"status {fail(name, *case, expected)}"] += 1
                except Exception as error:
                    ended["WRONG"] += 1
                    print(
                        "\n".join([*error.__notes__, f"  {type(error).__name__}: {error}"[:600]]),
                        flush=True,
                    )
            failed += ended["WRONG"]
            seconds = time.process_time() - started
            print(f"{name}: {sum(ended.values())} faults, {dict(ended)}, {seconds:.0f} s of CPU")
            print(f"  operations: {dict(counts)}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
