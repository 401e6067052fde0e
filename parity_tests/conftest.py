"""Fixtures of all tests (a backend, a seed, real data), and the order in which tests run."""

import os
import random
import signal
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import npgpt
from npgpt.cli.main import main
from npgpt.errors import InputError
from npgpt.system import env_vars, machine
from parity_tests.support import order
from parity_tests.support.quantized import model_of
from parity_tests.support.runs import unannounced

env_vars.set_defaults()  # before a test imports Numba: nothing above does
PROCESSES = 4  # at most: each takes a gigabyte


def pytest_addoption(parser):
    said = "run files, and the tests in each, in a random order; SEED repeats one"
    parser.addoption("--shuffle", nargs="?", type=int, const=-1, metavar="SEED", help=said)
    said = "with --shuffle: a random half of the files, and the tests that take data"
    parser.addoption("--half", action="store_true", help=said)


def pytest_configure(config):
    hear_signals()
    if hasattr(config, "workerinput"):  # one of several processes: all have the same order
        config.option.shuffle = config.workerinput["shuffle"]
    elif config.option.half and config.option.shuffle is None:
        raise pytest.UsageError("--half is of a random order: give --shuffle, too")
    elif config.option.shuffle == -1:
        config.option.shuffle = random.randrange(1 << 16)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["shuffle"] = node.config.option.shuffle


def pytest_terminal_summary(terminalreporter, config):
    if config.option.shuffle is not None:
        half = " --half" if config.option.half else ""
        terminalreporter.write_line(
            f"in random order: --shuffle={config.option.shuffle}{half} repeats it"
        )


def hear_signals():
    """Undo what a shell does to a program behind it, and `nohup`: tests send these signals."""
    for name, handler in {"SIGINT": signal.default_int_handler, "SIGHUP": signal.SIG_DFL}.items():
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.get_closest_marker("slow") is None:
            item.add_marker("quick")
    if config.option.shuffle is None:
        order.arrange(items)
        return
    if config.option.half:
        config.hook.pytest_deselected(items=order.halve(items, config.option.shuffle))
    order.shuffle(items, config.option.shuffle)


def pytest_collection_finish():
    if "numba" in sys.modules:  # otherwise no test module uses kernels
        from parity_tests.support import compile_once

        compile_once.install()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Several processes for all tests; none for the files that the command line names."""
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return min(machine.cores(), PROCESSES) if everything else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from parity_tests.support.schedule import FromBothEnds

    return FromBothEnds(config, log)


@pytest.fixture
def rng():
    return np.random.default_rng(1337)


@pytest.fixture(params=["npgpt.ops", "npgpt.fused"], ids=["numpy", "fused"])
def backend(request):
    return import_module(request.param)


@pytest.fixture
def data() -> Path:
    """The folder with the-verdict.txt and tinyshakespeare.txt, which are not part of npgpt."""
    folder = os.environ.get("NPGPT_DATA")
    if not folder:
        pytest.skip("NPGPT_DATA does not name a folder with the-verdict.txt")
    return Path(folder)


@pytest.fixture
def bpe():
    """GPT-2's tokenizer, where its files are present."""
    if not os.environ.get("TIKTOKEN_CACHE_DIR"):
        pytest.skip("TIKTOKEN_CACHE_DIR does not name a folder with GPT-2's byte-pair files")
    return npgpt.tokenizer("gpt2")


@pytest.fixture
def unreadable(capsys):
    """`unreadable(path, "says")`: weights that npgpt.load refuses, in one line that says what of
    which file; npgpt inspect prints that line, shows at most the tensors, and exits with 2."""

    def check(path, says):
        with pytest.raises(InputError, match=says) as caught:
            npgpt.load(path)
        said = str(caught.value)
        assert str(path) in said
        assert len(said) < 400 + len(str(path))
        capsys.readouterr()
        assert main(["inspect", str(path)]) == 2
        out, err = capsys.readouterr()
        assert err == f"npgpt: {said}\n"
        assert not out or "not a model that npgpt reads; its tensors are" in out

    return check


@pytest.fixture
def npgpt_(capsys):
    """`npgpt_("train --steps 3", code=0)` -> what it prints; not that it compiles, if it does."""

    def command(line, *more, code=0):
        capsys.readouterr()
        assert main([*line.split(), *more]) == code, capsys.readouterr().err
        said = capsys.readouterr()
        out, err = (text.replace(os.sep, "/") for text in (said.out, unannounced(said.err)))
        said = said._replace(out=out, err=err)
        assert "\x1b" not in said.out + said.err  # no terminal
        assert "Traceback" not in said.out + said.err
        return said

    return command


@pytest.fixture
def said(tmp_path, monkeypatch, npgpt_):
    """`npgpt_`, in a directory with a model in `model.h5` whose numbers bfloat16 cannot hold."""
    monkeypatch.chdir(tmp_path)
    model_of().save("model.h5")
    return npgpt_
