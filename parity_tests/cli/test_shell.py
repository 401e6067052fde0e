"""Printed commands run when they are pasted, for every path and prompt."""

import io
import subprocess
from pathlib import Path

import pytest

from npgpt.cli.main import main
from npgpt.system import shell
from npgpt.training.run_dir import RunDir
from parity_tests.support.runs import POSIX_ONLY, TINY, final

WORDS = [
    "run", "two words", "it's", '"quoted"', "$HOME", "`id`", "~", "a;b", "back\\slash", "", "*",
    "-dash", "--resume", "größer 跑步", "line\nend", "tab\t", "\x1b[31m'red'\\n\x7f0", "\x85\u202e",
    "\udcff", "%s",
]  # fmt: skip


@POSIX_ONLY
def test_a_shell_reads_what_was_quoted():
    script = "\n".join(f"printf '%s\\0' {shell.quote(word)}" for word in WORDS)
    assert all(line.isprintable() for line in script.split("\n"))
    said = subprocess.run(["bash"], input=script.encode(), capture_output=True, check=True).stdout
    assert said.decode("utf-8", "surrogateescape").split("\0") == [*WORDS, ""]


@POSIX_ONLY
@pytest.mark.parametrize("encoding", ["ascii", "gb2312"])
def test_characters_that_the_output_lacks_are_escaped(monkeypatch, encoding):
    monkeypatch.setattr(shell.sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding))
    line = " ".join(map(shell.quote, WORDS))
    assert words(line.encode(encoding).decode(encoding)) == WORDS


@POSIX_ONLY
def test_values_that_begin_with_a_dash():
    said = shell.npgpt_command("generate", model=Path("-m"), prompt="-x y")
    assert said == "npgpt generate --model ./-m --prompt='-x y'"
    assert shell.npgpt_command("inspect", Path("--help")) == "npgpt inspect ./--help"


def test_a_command_for_windows(monkeypatch):
    monkeypatch.setattr(shell.sys, "platform", "win32")
    said = shell.npgpt_command("generate", model=Path("my runs"), prompt="it's")
    assert said == 'npgpt generate --model "my runs" --prompt it\'s'


@POSIX_ONLY
@pytest.mark.parametrize("name", ["-a b's", "x\n\x1b[31my"])
def test_the_lines_that_train_prints_are_run(npgpt_, monkeypatch, name):
    monkeypatch.setattr(RunDir, "plot", lambda *_: None)
    train = ["--data", "text.txt", "--ops", "numpy", "--steps", "2", "--sample-tokens", "0", *TINY]
    said = npgpt_("train", *train, f"--out={name}", "--prompt=-The 'lamp'").out
    assert all(line.isprintable() for line in said.splitlines())
    line = next(line for line in said.splitlines() if line.startswith("Next: npgpt "))
    command = words(line.removeprefix("Next: npgpt "))
    assert npgpt_(command[0], *command[1:], "--max-new-tokens", "0").out == "-The 'lamp'\n"
    assert main(["train", *train, f"--out={name}"]) == 2
    said = npgpt_("train", f"--resume=./{name}").out
    assert "\nThis run is finished. To train for more steps: npgpt train --resume " in said
    line = said.split("steps: npgpt ")[1].split("\n")[0]
    more = words(line.replace("--steps N", "--steps 3"))
    npgpt_(more[0], *more[1:])
    assert final(name)[1]["step"] == 3


def words(line):
    """The words that bash makes of a line."""
    script = f"printf '%s\\0' {line}".encode()
    said = subprocess.run(["bash"], input=script, capture_output=True, check=True).stdout
    return said.decode("utf-8", "surrogateescape").split("\0")[:-1]
