"""Escape sequences and progress bars reach terminals only, each stream by itself."""

import io
import os
import re
import subprocess
import sys

import pytest

from npgpt.cli.main import main
from npgpt.system import console
from npgpt.training.run_dir import RunDir
from parity_tests.support.processes import LONG
from parity_tests.support.quantized import model_of
from parity_tests.support.runs import POSIX_ONLY, TINY

COLORS = re.compile(r"\x1b\[[0-9;]*3[0-7][0-9;]*m")
FORCED = {
    "FORCE_COLOR": "1", "CLICOLOR_FORCE": "1", "TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1",
    "COLORTERM": "truecolor", "TERM": "xterm-256color", "COLUMNS": "100",
}  # fmt: skip
TRAIN = ["train", "--ops", "numpy", "--data", "text.txt", "--steps", "3", *TINY]
COMMANDS = {
    "help": ["train", "--help"],
    "refused": ["train", "--lr", "x"],
    "train": TRAIN,
    "inspect": ["inspect", "model.h5"],
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def shown(monkeypatch):
    """`shown("help", "T-", variables)`: what it writes to a terminal, and to another stream."""
    model_of().save("model.h5")
    monkeypatch.setattr(RunDir, "plot", lambda *_: None)

    def run(command, kinds, variables):
        streams = [Terminal() if kind == "T" else io.StringIO() for kind in kinds]
        with monkeypatch.context() as patch:
            for name in (*FORCED, "NO_COLOR"):
                patch.delenv(name, raising=False)
            for name, value in variables.items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            before = dict(os.environ)
            try:
                main(COMMANDS[command])
            except SystemExit:
                pass
            assert dict(os.environ) == before
            assert sys.stdout is streams[0]
        return [stream.getvalue() for stream in streams]

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_no_escape_sequence_where_there_is_no_terminal(shown, command):
    out, err = shown(command, "--", FORCED)
    assert "\x1b" not in out + err
    assert "\u2501" not in out + err  # what a bar is made of
    assert out + err


@pytest.mark.parametrize("kinds", ["T-", "-T"])
@pytest.mark.parametrize("command", COMMANDS)
def test_each_stream_is_decided_by_itself(shown, command, kinds):
    plain = shown(command, "--", FORCED)
    found = shown(command, kinds, FORCED)
    file = kinds.index("-")
    assert "\x1b" not in found[file]
    if command != "train":  # whose directory and speed change
        assert found[file] == plain[file]
    live = {"help": "T-", "train": "T-", "inspect": "-T", "refused": None}[command]
    assert ("\x1b" in found[1 - file]) == (live == kinds)


def test_lines_for_a_file_stay_there_while_a_bar_is_shown(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", Terminal())
    for number in console.track_progress(range(3), 3):
        print(number)
    assert sys.stdout.getvalue() == "0\n1\n2\n"
    assert "100%" in sys.stderr.getvalue()


@pytest.mark.parametrize("command", COMMANDS)
def test_no_color_and_dumb_terminals(shown, command):
    assert COLORS.search("".join(shown(command, "TT", FORCED)))
    assert not COLORS.search("".join(shown(command, "TT", FORCED | {"NO_COLOR": "1"})))
    assert "\x1b" not in "".join(shown(command, "TT", FORCED | {"TERM": "dumb"}))


@pytest.mark.parametrize("width", ["0", "1", "7", "nonsense"])
def test_terminals_without_width(shown, width):
    for command in ("help", "refused", "train", "inspect"):
        out, err = shown(command, "TT", FORCED | {"COLUMNS": width, "TERM": "xterm"})
        assert len(out + err) > 100


def test_help_in_another_encoding(monkeypatch):
    for encoding, bullet in (("ascii", "  * train "), ("utf-8", "\u2022 train ")):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
        with pytest.raises(SystemExit):
            main(["--help"])
        assert bullet in raw.getvalue().decode(encoding)
        assert "?" not in raw.getvalue().decode(encoding)


@POSIX_ONLY
@pytest.mark.slow
def test_numba_writes_no_escape_sequence_at_the_end():
    """colorama does, where it is installed; it looks at the terminal itself."""
    import pty

    code = "from npgpt.system import env_vars; env_vars.set_defaults(); import numba\n"
    code += "try: numba.njit(lambda: 'a' + 1)()\nexcept numba.TypingError: pass"
    terminal, side = pty.openpty()
    variables = os.environ | {"TERM": "dumb"}
    variables.pop("NUMBA_DISABLE_ERROR_MESSAGE_HIGHLIGHTING", None)
    with subprocess.Popen([sys.executable, "-c", code], stdout=side, env=variables) as process:
        process.wait(timeout=LONG)
    os.write(side, b"end")
    assert os.read(terminal, 100) == b"end"
    os.close(terminal), os.close(side)


def test_what_is_a_terminal(monkeypatch):
    class Closed(Terminal):
        def isatty(self):
            raise ValueError("I/O operation on closed file")

    monkeypatch.setenv("TERM", "xterm")
    assert console.is_live(Terminal())
    for stream in (None, io.StringIO(), Closed(), object()):
        assert not console.is_live(stream)
