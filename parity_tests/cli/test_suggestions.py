"""Mistyped commands and flags, those of other programs, and --version."""

import re

import pytest

import npgpt
from npgpt.cli.main import COMMANDS, class_of
from npgpt.cli.suggestions import COMMANDS_ELSEWHERE, NAMES_ELSEWHERE, flag_names

SUGGESTED = [
    ("trian", "npgpt train"),
    ("finetune", "npgpt train --init-from MODEL"),
    ("fine-tune", "npgpt train --init-from MODEL"),
    ("sample", "npgpt generate"),
    ("eval --data x", "npgpt evaluate"),
    ("train --learning-rate 1e-3", "--lr"),
    ("train --learning_rate=1e-3", "--lr"),
    ("train --max-steps 3", "--steps"),
    ("train --max_iters 3 --help", "--steps"),
    ("train --num-epochs 3", "--epochs"),
    ("train --epoch 3", "--epochs"),
    ("train --n_layers 3", "--n-layer"),
    ("train --batch-siz 3", "--batch-size"),
    ("train --output-dir x", "--out"),
    ("quantize --output-dir x", "--to"),
    ("generate --start x", "--prompt"),
    ("generate --max-tokens 3", "--max-new-tokens"),
]


@pytest.mark.parametrize(("line", "suggestion"), SUGGESTED)
def test_the_nearest_is_named(refused, line, suggestion):
    refused(line, says=f"did you mean {suggestion}?")


def test_nothing_is_near(refused):
    refused("xyzzy", says="unknown command 'xyzzy': expected train, tokenize, generate, ")
    refused("train --xyzzy", says="unknown flag '--xyzzy' of npgpt train: see npgpt train --help")
    refused("-x train", says="unknown flag '-x': flags follow a command. See npgpt --help")
    refused("plot --path x", says="unknown flag '--path' of npgpt plot")  # it has no dashes


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["evaluate", "--data", "", "--model", "m.h5"], "--data"),
        (["evaluate", "--data=", "--model", "m.h5"], "--data"),
        (["train", "--data", "a.txt", ""], "--data"),
        (["generate", "--prompt", "a", "--model", ""], "--model"),
        (["inspect", ""], "an argument"),
    ],
)
def test_an_empty_path_is_not_the_working_directory(refused, arguments, what):
    refused(*arguments, says=f"{what} is empty: give it a value. Is a variable of the shell unset?")


@pytest.mark.parametrize("line", ["info x", "evaluate --data x -x", "generate --prompt a b"])
def test_what_is_no_flag_is_named(npgpt_, capsys, line):
    with pytest.raises(SystemExit) as left:
        npgpt_(line)
    assert left.value.code == 2
    assert f"Unrecognized options: {line.split()[-1]}" in capsys.readouterr().err


def test_names_are_read_with_dashes_and_underscores(npgpt_, capsys):
    for flag in ("--batch_size=3", "--no-tied", "--no_tied"):
        with pytest.raises(SystemExit) as left:
            npgpt_(f"train {flag} --help")
        assert left.value.code == 0
    assert "--batch-size" in capsys.readouterr().out


def test_every_suggestion_exists():
    flags = {name for command in COMMANDS for name in flag_names(class_of(command))}
    assert NAMES_ELSEWHERE.keys() - flags == set()
    assert {line.split()[0] for line in COMMANDS_ELSEWHERE.values()} <= {
        *COMMANDS, "--help", "--version",
    }  # fmt: skip


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(npgpt_, flag):
    first, second = npgpt_(flag).out.splitlines()
    assert first == f"npgpt {npgpt.__version__}"
    assert re.fullmatch(r"Python \d+\.\d+\.\d+, NumPy \d\S*, Numba \d\S*", second)
