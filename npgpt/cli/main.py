"""The command line: arguments -> a command of npgpt/cli, and its exit code."""

import contextlib
import functools
import io
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Union

import tyro

from npgpt.cli.book import Book
from npgpt.cli.compare import Compare
from npgpt.cli.download import Download
from npgpt.cli.estimate import Estimate
from npgpt.cli.evaluate import Evaluate
from npgpt.cli.export import Export
from npgpt.cli.generate import Generate
from npgpt.cli.info import Info
from npgpt.cli.inspect import Inspect
from npgpt.cli.plot import Plot
from npgpt.cli.profile import Profile
from npgpt.cli.quantize import Quantize
from npgpt.cli.train import INTERRUPTED, Train
from npgpt.cli.train_flags import check_flags, train_defaults
from npgpt.errors import InputError, RunError

COMMANDS = {
    "train": Train,
    "generate": Generate,
    "evaluate": Evaluate,
    "plot": Plot,
    "download": Download,
    "export": Export,
    "quantize": Quantize,
    "inspect": Inspect,
    "compare": Compare,
    "book": Book,
    "profile": Profile,
    "estimate": Estimate,
    "info": Info,
}


def main(arguments: Sequence[str]) -> int:
    """Runs one command. Returns the exit code: 1 for what failed, 2 for what was asked wrongly."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a text may have what a terminal cannot show
    try:
        return parse(arguments).run()
    except InputError as error:
        return fail(error, 2)
    except RunError as error:
        return fail(error, 1)
    except MemoryError as error:
        return fail(f"not enough memory: {error or 'smaller numbers need less'}", 1)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough: npgpt generate | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def fail(error: Exception | str, code: int) -> int:
    """The one line that a person sees of an error; the exit code."""
    print(f"npgpt: {error}", file=sys.stderr)
    return code


def parse(arguments: Sequence[str]):
    """The command that the arguments ask for."""
    before = train_defaults(arguments)
    kinds = []
    for name, kind in COMMANDS.items():
        default = {"default": Train(settings=before)} if kind is Train else {}
        kinds.append(Annotated[kind, tyro.conf.subcommand(name, **default)])
    ask = functools.partial(
        tyro.cli,
        Union[tuple(kinds)],  # noqa: UP007 (made at run time)
        prog="npgpt",
        description="GPT-2 with every gradient written out: NumPy to read, Numba to run.",
        args=arguments,
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )
    command = in_one_line(ask)
    if isinstance(command, Train):
        check_flags(command, before)
    return command


def in_one_line(ask):
    """`ask()`; an InputError out of it comes as such, not as the box that tyro draws around it."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return ask()
    except SystemExit as leaving:
        if not leaving.code:
            raise
        behind = leaving.__context__
        while behind is not None:
            if isinstance(behind, InputError):
                raise behind from None
            behind = behind.__context__
    return ask()  # again, for tyro to say what is wrong, in colour where there are colours
