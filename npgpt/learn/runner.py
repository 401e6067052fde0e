"""Run a learner's file on given arguments: a program of its own, which imports NumPy only.

    python -P runner.py REQUEST.json ANSWER.json EXERCISE.py SECONDS

Nothing of npgpt is imported here, so that no traceback can show a solution. Values pass between the
two processes as JSON.
"""

import base64
import contextlib
import io
import json
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from types import CodeType
from typing import Any

import numpy as np

MAX_MEMORY = 2 << 30  # bytes of address space
MAX_ANSWER = 1 << 20  # numbers of one array; an exercise has a few thousand
STUB = "not written yet"


@dataclass(frozen=True)
class LinearMap:
    """An argument that the learner receives as a function: gradient of an output -> of an input."""

    matrix: np.ndarray  # (T * C, T * C)

    def __call__(self, dout: np.ndarray) -> np.ndarray:
        """(B, T, C) -> (B, T, C)"""
        flat = dout.reshape(len(dout), -1)
        return (flat @ self.matrix.astype(dout.dtype)).reshape(dout.shape)


class OutOfTime(BaseException):
    """Raised in the learner's code by the alarm. No `except Exception` there catches it."""


# Values <-> JSON


def encode(value: Any) -> Any:
    """Return a value as JSON. An array is its dtype, its shape and its bytes in base64."""
    if isinstance(value, LinearMap):
        return {"map": encode(value.matrix)}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
        if value.size > MAX_ANSWER:
            return {"type": f"an array of {value.size:,} numbers"}
        data = base64.b64encode(value.tobytes()).decode()
        return {"array": [value.dtype.str, value.shape, data]}
    if value is None or isinstance(value, bool | float):
        return {"value": value}
    if isinstance(value, int) and abs(value) < 1 << 53:
        return {"value": value}
    if isinstance(value, dict):
        return {"dict": {str(name): encode(one) for name, one in value.items()}}
    if isinstance(value, list | tuple):
        return {"list": [encode(one) for one in value]}
    if isinstance(value, str):
        return {"text": shortened(value)}
    if isinstance(value, np.ndarray):
        return {"type": f"an array of dtype {value.dtype}"}
    return {"type": type(value).__name__}


def shortened(text: str) -> str:
    """Return the beginning and the end of a long text: the end of a traceback is its error."""
    return text if len(text) <= 2000 else f"{text[:600]}\n...\n{text[-1400:]}"


def decode(value: Any) -> Any:
    """Return the value that `encode` was given. Tuples become lists, unknown types `Unknown`."""
    ((kind, inner),) = value.items()
    match kind:
        case "map":
            return LinearMap(decode(inner))
        case "array":
            dtype, shape, data = inner
            return np.frombuffer(base64.b64decode(data), np.dtype(dtype)).reshape(shape).copy()
        case "value" | "text":
            return inner
        case "dict":
            return {name: decode(one) for name, one in inner.items()}
        case "list":
            return [decode(one) for one in inner]
        case "type":
            return Unknown(str(inner))
    raise ValueError(f"unknown kind {kind!r}")


@dataclass(frozen=True)
class Unknown:
    """A result that is neither a number nor an array of numbers."""

    type: str


# The learner's code


class Nowhere(io.TextIOBase):
    """A stream that keeps nothing."""

    def write(self, text: str) -> int:
        """Drop a text."""
        return len(text)


def load(source: str | bytes, path: str) -> dict[str, Any]:
    """Execute a learner's file and return its names."""
    code: CodeType = compile(source, path, "exec", dont_inherit=True)
    namespace: dict[str, Any] = {"__name__": "exercise", "__file__": path}
    exec(code, namespace)
    return namespace


def copied(value: Any) -> Any:
    """Return a copy of a value, with copies of its arrays. Tuples become lists."""
    if isinstance(value, dict):
        return {name: copied(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [copied(one) for one in value]
    return value.copy() if isinstance(value, np.ndarray) else value


def call(function: Any, arguments: dict[str, Any], each: str | None) -> list[Any]:
    """Return the result of a call, and the arguments after it."""
    if each is not None:
        results = [function(**arguments | {each: one}) for one in arguments[each]]
        for one, result in zip(arguments[each], results, strict=True):
            if not is_number(result):
                return [{"each": one, "returned": copied(result)}, arguments]
        return [np.array(results, np.float64), arguments]
    arguments = copied(arguments)
    return [copied(function(**arguments)), arguments]


def is_number(value: Any) -> bool:
    """Return True if a value is one real number, or an array without axes."""
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and value.dtype.kind in "biuf"
    return isinstance(value, int | float | np.integer | np.floating)


def run(source: str | bytes, path: str, cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a learner's answers to all cases, or the error that stopped them.

    A case is a dict: `function`, `arguments`, and `each`, the argument whose values are passed one
    by one. With `quiet`, its prints are dropped.
    """
    answers: list[Any] = []
    called = False
    try:
        namespace = load(source, path)
        for case in cases:
            function = namespace.get(case["function"])
            if not callable(function):
                return {"error": "missing", "function": case["function"], "answers": answers}
            called = True
            silence = contextlib.redirect_stdout(Nowhere()) if case["quiet"] else None
            with np.errstate(all="ignore"), silence or contextlib.nullcontext():
                answers.append(call(function, case["arguments"], case["each"]))
    except OutOfTime as error:
        return {"error": "time", "text": shown(error), "answers": answers, "called": called}
    except NotImplementedError as error:
        kind = "stub" if str(error) == STUB else "raised"
        return {"error": kind, "text": shown(error), "answers": answers, "called": called}
    except BaseException as error:  # SystemExit and MemoryError too
        return {"error": "raised", "text": shown(error), "answers": answers, "called": called}
    return {"error": None, "answers": answers}


def shown(error: BaseException) -> str:
    """Return the traceback of an error, without the lines of this file."""
    told = traceback.TracebackException.from_exception(error)
    pending: list[Any] = [told]
    while pending:
        one = pending.pop()
        if one is not None:
            frames = [frame for frame in one.stack if frame.filename != __file__]
            one.stack = traceback.StackSummary.from_list(frames)
            pending += [one.__cause__, one.__context__]
    return "".join(told.format())


# This process


def limit(seconds: float) -> None:
    """Bound the memory of this process, and raise OutOfTime after `seconds`."""

    def stop(*_: Any) -> None:
        raise OutOfTime(f"stopped after {seconds:g} s")

    if hasattr(signal, "setitimer"):  # not on Windows, where the other process ends this one
        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_AS)
        allowed = MAX_MEMORY if most == resource.RLIM_INFINITY else min(MAX_MEMORY, most)
        with contextlib.suppress(ValueError, OSError):  # macOS refuses some limits
            resource.setrlimit(resource.RLIMIT_AS, (allowed, most))


def main(request: str, answer: str, path: str, seconds: str) -> None:
    """Run the file at `path` and write its answers."""
    with open(request, encoding="utf-8") as file:
        cases = decode(json.load(file))
    with open(path, "rb") as file:
        source = file.read()  # compile() knows a byte order mark and names a wrong encoding
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    limit(float(seconds))
    answers = run(source, path, cases)
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    with open(answer, "w", encoding="utf-8") as file:
        json.dump(encode(answers), file)


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # a thread of the learner's cannot keep the process alive
