"""The command line: parse the arguments, run a command and return its exit status."""

import functools
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Annotated, Any, Union

import tyro

from npgpt.cli.book import Book
from npgpt.cli.classify import Classify
from npgpt.cli.compare import Compare
from npgpt.cli.diagnose import Diagnose
from npgpt.cli.download import Download
from npgpt.cli.estimate import Estimate
from npgpt.cli.evaluate import Evaluate
from npgpt.cli.export import Export
from npgpt.cli.finetuning_flags import FineTuning, flags_of_run
from npgpt.cli.generate import Generate
from npgpt.cli.help_output import help_output
from npgpt.cli.info import Info
from npgpt.cli.inspect import Inspect
from npgpt.cli.instruct import Instruct
from npgpt.cli.learn import Learn
from npgpt.cli.play import Play
from npgpt.cli.plot import Plot
from npgpt.cli.probe import Probe
from npgpt.cli.profile import Profile
from npgpt.cli.quantize import Quantize
from npgpt.cli.serve import Serve
from npgpt.cli.signals import INTERRUPTED
from npgpt.cli.suggestions import check_command, check_flags_exist
from npgpt.cli.tokenize import Tokenize
from npgpt.cli.train import Train
from npgpt.cli.train_flags import check_flags, join_repeated, train_defaults
from npgpt.distributed import world
from npgpt.distributed.launcher import find_launcher
from npgpt.distributed.world import WorldWarning
from npgpt.errors import InputError, KernelCacheWarning, RunError, WeightFileWarning, show
from npgpt.system import memory
from npgpt.system.streams import OutputError, checked_output
from npgpt.system.terminal import MAX_ERROR, printable_line

COMMANDS = {
    "train": Train,
    "tokenize": Tokenize,
    "generate": Generate,
    "serve": Serve,
    "evaluate": Evaluate,
    "classify": Classify,
    "instruct": Instruct,
    "plot": Plot,
    "download": Download,
    "export": Export,
    "quantize": Quantize,
    "inspect": Inspect,
    "compare": Compare,
    "probe": Probe,
    "diagnose": Diagnose,
    "learn": Learn,
    "play": Play,
    "book": Book,
    "profile": Profile,
    "estimate": Estimate,
    "info": Info,
}
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


def parse(arguments: Sequence[str]) -> Any:
    """Return the command that the arguments name. Raise InputError if flags contradict it."""
    for argument in arguments:  # of a Python program: no shell passes a NUL, and no path has one
        if "\0" in argument:
            raise InputError(f"an argument is {show(argument)}, but must not contain NUL")
    check_command(arguments, COMMANDS)
    if arguments[:1] and arguments[0] in COMMANDS:
        check_flags_exist(arguments, COMMANDS[arguments[0]])
    if arguments[:1] in (["train"], ["classify"], ["instruct"]):
        arguments = join_repeated(arguments)
    train = train_defaults(arguments)
    kinds = []
    for name, kind in COMMANDS.items():
        default: dict[str, Any] = {}
        if kind is Train:
            default["default"] = Train(flags=train.flags)
        elif issubclass(kind, FineTuning) and arguments[:1] == [name]:
            if (run := flags_of_run(kind, arguments[1:])) is not None:
                default["default"] = run
        kinds.append(Annotated[kind, tyro.conf.subcommand(name, **default)])
    commands: Any = Union[tuple(kinds)]  # noqa: UP007 (made at run time)
    with help_output():
        command = tyro.cli(
            commands,
            prog="npgpt",
            description="GPT-2 with every gradient written out: NumPy to read, Numba to run. "
            "Versions: npgpt --version.",
            args=arguments,
            config=(tyro.conf.OmitSubcommandPrefixes,),
        )
    if isinstance(command, Train):
        command.given = train.given
        check_flags(command, train.before)
    return command
