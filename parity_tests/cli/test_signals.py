"""Signals to a run: the step is finished, the checkpoint saved, and the exit status names them."""

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from npgpt.cli.help_output import help_output
from npgpt.cli.main import main
from npgpt.cli.signals import StopRequest, status_of
from parity_tests.support.processes import LONG, started
from parity_tests.support.runs import FILES, POSIX_ONLY, TINY, final

NUMPY = [*"train --data text.txt --ops numpy --out run".split(), *TINY]
STOPPED = "\nFinishing this step, then saving ...\n"

# Starts a process with these signals ignored, as nohup and a shell's & do.
IGNORING = """
import os, signal, sys
for number in sys.argv[1].split(","):
    signal.signal(int(number), signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, "-m", "npgpt", *sys.argv[2:]])
"""


@pytest.fixture
def at_step(monkeypatch):
    """`at_step(4, action)`: do something in the middle of a step."""
    from npgpt.training.trainer import Trainer

    update = Trainer.update

    def set_action(step, action):
        def acting(self, *batch):
            if self.progress.step == step:
                action()
            return update(self, *batch)

        monkeypatch.setattr(Trainer, "update", acting)

    return set_action


@POSIX_ONLY
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_finishes_the_step_and_saves(npgpt_, at_step, monkeypatch, name):
    number = getattr(signal, name)
    before = signal.signal(number, signal.default_int_handler)
    try:
        at_step(3, lambda: signal.raise_signal(number))
        said = npgpt_(" ".join(NUMPY), code=128 + number)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert said.err == STOPPED
    assert "Stopped after step 3; the checkpoint is saved in run\n" in said.out
    assert final("run")[1]["step"] == 4
    assert {path.name for path in Path("run").iterdir()} == FILES


@POSIX_ONLY
def test_signals_that_come_together_are_one_request(npgpt_, at_step):
    def hang_up():
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(number)

    at_step(2, hang_up)
    said = npgpt_(" ".join(NUMPY), code=128 + signal.SIGHUP)
    assert said.err == STOPPED
    assert final("run")[1]["step"] == 3


@POSIX_ONLY
def test_ignored_signals_stay_ignored():
    numbers = [signal.SIGHUP, signal.SIGINT]
    command = ["-c", IGNORING, ",".join(str(int(number)) for number in numbers), *NUMPY]
    with started(*command, "--epochs", "9999", text=True) as process:
        wait_for_step(process, 2)
        for number in numbers:
            process.send_signal(number)
        wait_for_step(process, 8)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=LONG)
    assert process.returncode == 128 + signal.SIGTERM
    assert err == STOPPED


@POSIX_ONLY
def test_a_second_ctrl_c_ends_the_process_at_once():
    twice = (
        "import os, signal, sys; from npgpt.training.trainer import Trainer\n"
        "Trainer.update = lambda *_: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)]\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from npgpt.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    with started("-c", twice, *NUMPY, text=True) as process:
        _, err = process.communicate(timeout=LONG)
    assert process.returncode == -signal.SIGINT
    assert err == STOPPED


def test_a_handler_never_raises(monkeypatch):
    class Broken:
        def write(self, text):
            raise RuntimeError("reentrant call")

    for stream in (None, Broken()):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(sys, "stdout", Broken())
        with StopRequest() as stop:
            stop.handle(signal.SIGTERM, None)
            stop.handle(signal.SIGTERM, None)
        assert status_of(stop.number) == 128 + signal.SIGTERM


@POSIX_ONLY
def test_ranks_agree_before_anything_is_printed(capsys):
    """mpirun passes SIGUSR1 on to all ranks."""
    before = signal.getsignal(signal.SIGUSR1)
    with StopRequest(many=True) as stop:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
    assert stop.number == signal.SIGUSR1 and signal.getsignal(signal.SIGUSR1) is before
    assert capsys.readouterr() == ("", "")


def test_a_command_in_another_thread(capsys):
    codes = []
    commands = [[*NUMPY, "--steps", "2"], ["generate", "--model", "run", "--prompt", "The"]]
    thread = threading.Thread(target=lambda: codes.extend(main(command) for command in commands))
    thread.start()
    thread.join()
    assert codes == [0, 0], capsys.readouterr().err
    assert final("run")[1]["step"] == 2


# Each thread enters at another point of the import of Numba.
THREADS = """
import sys, threading
from npgpt.cli.common import announce_compilation

def enter(module):
    while module not in sys.modules:
        pass
    with announce_compilation():
        entered.append(module)

entered = []
modules = "sys", "numba.core.config", "numba.core.types", "numba.core.errors"
threads = [threading.Thread(target=enter, args=(module,)) for module in modules]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(entered) == len(modules)
"""


@pytest.mark.slow
def test_commands_in_several_threads_at_once():
    subprocess.run([sys.executable, "-c", THREADS], timeout=LONG, check=True)


def test_one_thread_at_a_time_parses():
    entered, left = threading.Event(), threading.Event()

    def enter():
        with help_output():
            entered.set()
            left.wait()

    thread, stdout = threading.Thread(target=enter), sys.stdout
    with help_output():
        thread.start()
        entered.wait(0.2)
    left.set()
    thread.join()
    assert sys.stdout is stdout


def wait_for_step(process, step):
    while not process.stdout.readline().startswith(f"Ep 1 (Step {step:06d})"):
        assert process.poll() is None
