"""Types, defaults and output that several commands share."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional, get_args

import tyro

from npgpt.config import OptimizerName
from npgpt.errors import InputError
from npgpt.system import env_vars
from npgpt.system.terminal import printable_line

if TYPE_CHECKING:
    from npgpt.data.tokenizer import Tokenizer
    from npgpt.gpt import GPT
    from npgpt.inference.speculation import Speculation

COMPILING = "Compiling kernels for this CPU, which takes up to a minute;"


def default(text: str, metavar: str | None = None) -> Any:
    """Describe the default of an optional flag in its help text, in place of None."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {text})", metavar=metavar)


# Optional[X] is X | None, for which tyro would import a type checker: 0.08 s before the first token
Weights = Literal["float32", "bfloat16", "int8"]
ModelPath = Annotated[Optional[Path], default("the newest checkpoint under ./runs", "PATH")]  # noqa: UP045
OptionalWeights = Annotated[
    Optional[Weights],  # noqa: UP045
    default("as stored by npgpt quantize, else float32", "{float32,bfloat16,int8}"),
]


CacheDtype = Literal["float32", "bfloat16"]
OptionalTokenizer = Annotated[
    Optional[str],  # noqa: UP045
    default("recorded with the model, or beside it", "{byte,gpt2,PATH}"),
]


# A str, not a Literal: an unknown name is one line of TrainingConfig's, and no box of tyro's
OptimizerFlag = Annotated[str, tyro.conf.arg(metavar="{" + ",".join(get_args(OptimizerName)) + "}")]


def model_path(path: Path | None) -> Path:
    """Return `path`, or the newest checkpoint under ./runs if it is None."""
    if path is not None:
        return path
    from npgpt.training import run_dir

    return run_dir.latest_checkpoint()


def require_new(out: Path, *, directory: bool = True) -> None:
    """Raise InputError if the output exists. A `directory` may, if it is empty: it is replaced.

    Replacing the working directory would leave the shell in one that is deleted.
    """
    if not os.path.lexists(out):
        return
    empty = directory and out.is_dir() and not any(out.iterdir())
    if not empty or out.samefile(os.curdir):
        raise InputError(f"{out} already exists: choose another --out")


def load(
    path: Path | None, weights: Weights | None, tokenizer: str | None
) -> tuple["GPT", "Tokenizer"]:
    """Load the model at `path`, or the newest under ./runs, and its tokenizer.

    `weights`: how its matrices are stored. `tokenizer`: its name or path, if it was given.
    """
    from npgpt.data.tokenizer import tokenizer_of
    from npgpt.loading import load as load_model

    model = load_model(model_path(path), weights=weights, tokenizer=tokenizer)
    return model, tokenizer_of(model)


def load_speculation(
    speculate: bool, draft: Path | None, model: "GPT", weights: Weights | None
) -> "Speculation | None":
    """Return the drafts of --speculate, or those of the model --draft, or None without either."""
    if not speculate and draft is None:
        return None
    from npgpt.inference.speculation import Speculation, check_draft
    from npgpt.loading import load as load_model

    speculation = Speculation(None if draft is None else load_model(draft, weights=weights))
    check_draft(speculation, model)
    return speculation


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Raise InputError if the server of a command, which the block imports, lacks a package."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("starlette", "uvicorn", "anyio"):
            raise
        extra = f"pip install 'npgpt[{name}]'"
        raise InputError(f"npgpt {name} needs the package {package}: {extra}") from None


def say(line: str) -> None:
    """Print a line about the data on standard error."""
    print(printable_line(line), file=sys.stderr, flush=True)


@contextmanager
def announce_compilation(ops: str = "fused") -> Iterator[None]:
    """Print one line on stderr when the first kernel is compiled inside the block.

    Nothing is printed if every kernel is in Numba's cache, or with `ops` "numpy".
    """
    if ops != "fused":
        yield
        return
    env_vars.check_numba()
    try:
        import numba  # noqa: F401 (whole first: two threads in halves of it wait for each other)
        from numba.core import event  # not documented: without it nothing is announced
    except ImportError:
        yield
        return

    class Announcement(event.Listener):
        said = False

        def on_start(self, event: Any) -> None:
            if not self.said:
                from npgpt.kernels import cache

                self.said, folder = True, cache.directory()
                note = f"they are cached in {folder}" if folder else "no cache: see npgpt info"
                print(COMPILING, note, file=sys.stderr, flush=True)

        def on_end(self, event: Any) -> None:
            pass

    with event.install_listener("numba:compile", Announcement()):
        yield
