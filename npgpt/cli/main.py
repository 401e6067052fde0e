"""The command line: parse the arguments, run a command and return its exit status."""

import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Union

import tyro

from npgpt.cli.help_output import help_output
from npgpt.cli.signals import INTERRUPTED
from npgpt.cli.suggestions import check_command, check_flags_exist, check_not_empty
from npgpt.distributed import world
from npgpt.distributed.launcher import find_launcher
from npgpt.distributed.world import WorldWarning
from npgpt.errors import InputError, KernelCacheWarning, RunError, WeightFileWarning, show
from npgpt.system import memory
from npgpt.system.streams import OutputError, checked_output
from npgpt.system.terminal import MAX_ERROR, printable_line

# The class Train is in npgpt/cli/train.py, and so on: a command imports no other one
COMMANDS = (
    "train", "tokenize", "generate", "serve", "evaluate", "classify", "instruct", "plot",
    "download", "export", "quantize", "inspect", "compare", "probe", "diagnose", "learn",
    "play", "book", "profile", "estimate", "info",
)  # fmt: skip
WITH_DEFAULTS = "train", "classify", "instruct"  # of flags, from files that other flags name
SHOWN = (WeightFileWarning, KernelCacheWarning, WorldWarning)


def main(arguments: Sequence[str]) -> int:
    """Run one command and return the exit status: 1 if it failed, 2 for invalid input."""
    with checked_output() as output:
        try:
            try:
                return run(arguments)
            finally:
                output.flush()
        except OutputError as error:
            if error.is_broken_pipe:  # the reader has seen enough, as in npgpt generate | head
                return 0
            return fail(f"standard output could not be written: {error}", 1)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return the exit status. Print its error."""
    try:
        with warnings.catch_warnings():
            for category in SHOWN:
                warnings.simplefilter("default", category)
            warnings.showwarning = functools.partial(show_warning, warnings.showwarning)
            if arguments[:1] in (["--version"], ["-V"]):
                return print_versions()
            with first_on_machine_speaks():
                command = parse(arguments)
            require_working_directory()
            return command.run()
    except KeyboardInterrupt:
        return INTERRUPTED
    except (SystemExit, OutputError):
        raise
    except BaseException as error:  # a panic of the tokenizer's Rust code is no Exception
        cause = memory.find_cause(error)
        if memory.is_shortage(cause):
            return fail(memory.describe(cause), 1)
        if isinstance(cause, InputError | RunError):
            return fail(cause, 2 if isinstance(cause, InputError) else 1)
        if isinstance(error, OSError):  # of a disk that fails
            return fail(f"{error.filename or 'a file'}: {error.strerror or error}", 1)
        raise


@contextmanager
def first_on_machine_speaks() -> Iterator[None]:
    """Let one rank of each machine report an error that all have, as in a flag."""
    launcher = find_launcher(os.environ)
    if launcher is None or not launcher.local_rank:
        yield
        return
    try:
        with open(os.devnull, "w") as null, redirect_stdout(null), redirect_stderr(null):
            yield
    except SystemExit as error:  # 0 after --help
        raise SystemExit(error.code and world.refuse(launcher, "")) from None
    except InputError as error:
        raise SystemExit(world.refuse(launcher, str(error))) from None


def print_versions() -> int:
    """Print the versions of npgpt, and of what its speed depends on. Return the exit status."""
    from importlib.metadata import version

    import npgpt

    python = ".".join(map(str, sys.version_info[:3]))
    print(f"npgpt {npgpt.__version__}")
    print(f"Python {python}, NumPy {version('numpy')}, Numba {version('numba')}")
    return 0


def require_working_directory() -> None:
    """Raise InputError if the working directory was deleted. Numba cannot compile in one."""
    try:
        os.getcwd()
    except OSError as error:
        raise InputError(
            f"the working directory cannot be used ({error.strerror}): change to another one"
        ) from None


def fail(error: Exception | str, status: int) -> int:
    """Print an error as one printable line and return the exit status."""
    print(printable_line(f"npgpt: {error}", MAX_ERROR), file=sys.stderr)
    return status


def show_warning(
    show: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any
) -> None:
    """Print a warning for the user as one printable line; pass others to `show`."""
    if issubclass(category, SHOWN):
        fail(str(message), 0)
    elif str(message).startswith("Environment variable 'NUMBA_"):  # Numba adds a traceback
        fail(str(message).splitlines()[0], 0)
    else:
        show(message, category, *where)


@dataclass
class Other:
    """A command without a name, beside the one that was given: tyro leaves out a single one."""


def class_of(command: str) -> Any:
    """Return the class of a command."""
    return getattr(import_module(f"npgpt.cli.{command}"), command.capitalize())


def parse(arguments: Sequence[str]) -> Any:
    """Return the command that the arguments name. Raise InputError if flags contradict it."""
    for argument in arguments:  # of a Python program: no shell passes a NUL, and no path has one
        if "\0" in argument:
            raise InputError(f"an argument is {show(argument)}, but must not contain NUL")
    check_command(arguments, COMMANDS)
    check_not_empty(arguments)
    if not arguments or arguments[0] not in COMMANDS:
        return choose({name: class_of(name) for name in COMMANDS}, arguments)
    name, kind = arguments[0], class_of(arguments[0])
    check_flags_exist(arguments, kind)
    if name not in WITH_DEFAULTS:
        return choose({name: kind}, arguments)
    from npgpt.cli import finetuning_flags, train_flags

    arguments = train_flags.join_repeated(arguments)
    if name != "train":
        return choose({name: kind}, arguments, finetuning_flags.flags_of_run(kind, arguments[1:]))
    train = train_flags.train_defaults(arguments)
    command = choose({name: kind}, arguments, kind(flags=train.flags))
    command.given = train.given
    train_flags.check_flags(command, train.before)
    return command


def summary_of(kind: Any) -> str:
    """Return the first paragraph of a command's docstring, on one line."""
    return " ".join(kind.__doc__.split("\n\n")[0].split())


def choose(commands: dict[str, Any], arguments: Sequence[str], defaults: Any = None) -> Any:
    """Return the one of these commands that the arguments name. `defaults`: of a single one."""
    given = {} if defaults is None else {"default": defaults}
    several = len(commands) > 1  # of which the help shows the first sentences
    kinds = [
        Annotated[
            kind,
            tyro.conf.subcommand(name, description=summary_of(kind) if several else None, **given),
        ]
        for name, kind in commands.items()
    ]
    others = [Other] if len(kinds) == 1 else []
    one_of: Any = Union[(*kinds, *others)]
    with help_output():
        return tyro.cli(
            one_of,
            prog="npgpt",
            description="GPT-2 with every gradient written out: NumPy to read, Numba to run. "
            "Versions: npgpt --version.",
            args=arguments,
            config=(tyro.conf.OmitSubcommandPrefixes,),
        )
