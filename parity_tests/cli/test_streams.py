"""Standard output and error that are closed, full, broken, dead, None, or no file at all."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from npgpt.cli.main import main
from npgpt.system.streams import Log, Output, OutputError, checked_output
from parity_tests.support import outputs
from parity_tests.support.processes import LONG
from parity_tests.support.quantized import model_of
from parity_tests.support.runs import FILES, POSIX_ONLY, TINY

NUMPY = [*"train --data text.txt --ops numpy --steps 6 --out".split()]


@pytest.mark.slow
@POSIX_ONLY
@pytest.mark.parametrize(("kind", "number"), [*zip(outputs.KINDS, outputs.SIGNALS, strict=True)])
def test_a_run_that_cannot_be_shown_continues(tmp_path, kind, number):
    """Four of the sixteen that `python -m parity_tests.support.outputs` checks."""
    outputs.check(kind, number, tmp_path)


@POSIX_ONLY
@pytest.mark.parametrize("kind, status", [("closed", 1), ("full", 1), ("broken", 0)])
@pytest.mark.parametrize("arguments", ["--help", "inspect model.h5"])
def test_a_command_that_cannot_be_shown_fails_quietly(kind, status, arguments):
    model_of().save("model.h5")
    target = {"closed": ">&-", "full": "> /dev/full", "broken": "| true"}[kind]
    script = f'set -o pipefail; "$@" {target}'
    command = ["bash", "-c", script, "bash", sys.executable, "-m", "npgpt", *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONG)
    assert done.returncode == status
    assert done.stdout == ""
    if status:
        assert done.stderr.startswith("npgpt: standard output could not be written: ")
    assert done.stderr.count("\n") == status


@POSIX_ONLY
def test_an_error_that_cannot_be_shown_keeps_its_exit_status():
    for target in (">&- 2>&-", "> /dev/full 2>&1"):
        script = f'"$@" {target}'
        command = ["sh", "-c", script, "sh", sys.executable, "-m", "npgpt", "inspect", "none.h5"]
        assert subprocess.run(command, timeout=LONG).returncode == 2


class Notebook:
    """A stream with no reconfigure, no descriptor, no encoding."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass


@pytest.mark.parametrize("kind", [io.StringIO, Notebook])
def test_streams_that_are_no_files(monkeypatch, kind):
    model_of().save("model.h5")
    stream = kind()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", kind())
        assert main(["inspect", "model.h5"]) == 0
        assert main([*NUMPY, "run", *TINY]) == 0
    text = stream.text if kind is Notebook else stream.getvalue()
    assert "Ep 1 (Step 000004)" in text
    assert {path.name for path in Path("run").iterdir()} == FILES


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("make", [lambda: None, closed], ids=["None", "closed"])
def test_streams_that_are_missing(monkeypatch, make):
    model_of().save("model.h5")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", make())
        patch.setattr(sys, "stderr", make())
        before = sys.stdout
        assert main(["inspect", "model.h5"]) == 1
        assert main(["inspect", "none.h5"]) == 2
        assert main([*NUMPY, "run", *TINY]) == 0
        assert sys.stdout is before
    assert "Ep 1 (Step 000004)" in Path("run/train.log").read_text()


class Failing(io.StringIO):
    """A stream that fails once it has been given 4 characters."""

    def write(self, text):
        if len(self.getvalue()) + len(text) > 4:
            raise OSError(28, "No space left on device")
        return super().write(text)


@POSIX_ONLY
def test_no_file_takes_the_place_of_a_closed_stream():
    code = "import sys; from npgpt.system.streams import reserve_descriptors as reserve; "
    code += "reserve(); sys.exit(open('file', 'w').fileno())"
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code]
    assert subprocess.run(command, timeout=LONG).returncode == 3


def test_an_output_fails_once_or_writes_a_log():
    stream = Output(Failing(), "it")
    assert stream.write("1234") == 4
    with pytest.raises(OutputError, match="No space left on device"):
        stream.write("5")
    assert stream.write("6") == 1
    stream.flush()
    log, found = Log(), []
    stream = Output(Failing(), "it", log)
    for text in ("1234", "5", "\x1b[1m", "6"):
        stream.write(text)
    log.write_to(found.append)
    stream.write("7")
    reason = "[it could not be written: No space left on device. What follows was not shown.]\n"
    assert found == [reason, "5", "6", "7"]


@pytest.mark.parametrize(
    "encoding, shown",
    [("ascii", b"? ? ?"), ("cp437", b"\x82 ? ?"), ("utf-8", b"\xc3\xa9 \xc3\x97 ?")],
)
def test_characters_that_an_encoding_lacks(encoding, shown):
    raw = io.BytesIO()
    stream = Output(io.TextIOWrapper(raw, encoding), "it")
    stream.write("é \xd7 \udcff")
    stream.flush()
    assert raw.getvalue() == shown


def test_the_streams_of_a_caller_are_as_they_were(monkeypatch):
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict") for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    assert main(["inspect", "none.h5"]) == 2
    assert [sys.stdout, sys.stderr] == streams
    assert [stream.errors for stream in streams] == ["strict", "strict"]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]], ids=str)
def test_the_streams_of_a_caller_are_as_they_were_after_commands_of_several_threads(order):
    before = sys.stdout, sys.stderr
    commands = [checked_output() for _ in range(3)]
    wrappers = [command.__enter__() for command in commands]
    assert sys.stdout is wrappers[2]
    for number in order[:2]:
        commands[number].__exit__(None, None, None)
    assert sys.stdout is wrappers[order[2]]  # of the one that is under way
    commands[order[2]].__exit__(None, None, None)
    assert (sys.stdout, sys.stderr) == before


def test_a_stream_that_raises_anything(monkeypatch):
    class Odd(io.StringIO):
        def write(self, text):
            raise RuntimeError("the kernel has died")

    with pytest.raises(OutputError, match="the kernel has died"):
        Output(Odd(), "it").write("1")
    log, found = Log(), []
    log.write_to(found.append)
    Output(Odd(), "it", log).write("1")
    assert found[-1] == "1"
