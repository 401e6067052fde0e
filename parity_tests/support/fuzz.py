"""Fuzzing: random changes of bytes and of JSON, and the outcome and memory of reading.

`rng` is a `random.Random`: its seed reproduces a change. fuzz_formats.py has the formats,
run_fuzz.py reads what they forge, within limits.
"""

import json
import math
import re
import tracemalloc
import warnings
from copy import deepcopy

import numpy as np

from npgpt.errors import InputError, RunError

NUMBERS = [
    *range(8), 16, 24, 32, 48, 64, 127, 128, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 40,
    (1 << 62) - 1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) + 1, 1 << 70,
]  # fmt: skip
VALUES = [  # that JSON may have
    *NUMBERS, -1, -(1 << 63), 0.5, math.nan, math.inf, "", "F32", "F64", "BF16", "I8", None,
    True, [], [0], [1], [0, 0], [1 << 40, 1 << 40], [0, 1 << 62], [4, 8], [[]], {}, {"": 0},
    ["F32", [2], [0, 8]], [{"step": 0}], "\x1b[2J", "\ud800", [["\udfff"]],
]  # fmt: skip
RAW = [  # that json.dumps does not write
    b"1" * 400, b"1" * 5000, b"1" * 21, b"-" + b"9" * 30, b"1e308", b"1e999", b"-1e999", b"-0",
    b"NaN", b"-Infinity", b"[" * 100_000, b"[" * 500 + b"]" * 500, b"[" * 125 + b"]" * 125,
    b"[" * 126 + b"]" * 126, b'{"a":' * 100_000, b'"\xff"', b'"\xed\xa0\x80"', b'"\x00"', b"'a'",
    b"", b'"' + b"x" * 5000 + b'"', b"\xef\xbb\xbf1", b'{"a":1,"a":2}',
]  # fmt: skip
HERE = "<here>"
KINDS = "flip", "set", "cut", "end", "twice", "insert", "replace"


def as_word(number):
    """Return a number as 8 bytes, little endian."""
    return (number % (1 << 64)).to_bytes(8, "little")


def as_text(number):
    """Return a number as JSON."""
    return str(number).encode()


def change_bytes(data, rng, written=as_word):
    """Return `data` with one to three changes. `written`: converts a number to bytes."""
    for _ in range(rng.randint(1, 3)):
        kind, at = rng.choice(KINDS), rng.randint(0, len(data))
        before, after = data[:at], data[at:]
        if kind == "flip":
            after = bytes([after[0] ^ 1 << rng.randrange(8)]) + after[1:] if after else b""
        elif kind == "set":
            after = rng.randbytes(1) + after[1:]
        elif kind == "cut":
            after = after[rng.randrange(32) :]
        elif kind == "end":
            after = b""
        elif kind == "twice":
            after = after[: rng.randrange(64)] + after
        else:
            number = written(rng.choice(NUMBERS))
            after = number + after[len(number) if kind == "replace" else 0 :]
        data = before + after
    return data


def change_json(value, rng):
    """Return the text of a JSON object with one or two changes of what is in it."""
    value, raw = json.loads(json.dumps(value)), None
    for _ in range(rng.choice([1, 1, 2])):
        inside = [path for path in paths(value) if path]
        if not inside:
            break
        *outer, last = rng.choice(inside)
        parent = value
        for key in outer:
            parent = parent[key]
        kind = rng.randrange(7)
        if kind == 0:
            del parent[last]
        elif kind == 1 and isinstance(parent, dict):
            parent[rng.choice(["", "n_embd", "x\x1b", "__metadata__"])] = parent.pop(last)
        elif kind == 2:
            parent[last], raw = HERE, rng.choice(RAW)
        elif kind == 3 and isinstance(parent, dict):
            parent["x"], raw = HERE, rng.choice(RAW)
        elif kind == 4 and isinstance(parent, list):
            parent.append(deepcopy(rng.choice(VALUES)))
        else:
            parent[last] = deepcopy(rng.choice(VALUES))  # the next change may be in it
    text = json.dumps(value).encode()
    return text.replace(json.dumps(HERE).encode(), raw, 1) if raw is not None else text


def paths(value, before=()):
    """Yield the path of every value in a JSON value."""
    yield before
    if isinstance(value, (dict, list)):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(child, (*before, key))


def outcome(read, path):
    """Return "read", or the error without the path, names and numbers.

    read: () -> tensors by name. What is read lies in its file, on bytes of its own.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of ignored tensors
            found = read()
    except (InputError, RunError) as error:
        said = str(error).replace(str(path), "")
        assert "\n" not in said
        assert len(said) < 400
        words = re.findall(r"\b[a-z]+\b", re.sub(r"\b[0-9a-f]+\b|'[^']*'", "", said))
        return " ".join(words[:12])
    taken = {}
    for tensor in found.values():
        assert 0 <= tensor.start <= tensor.start + tensor.nbytes <= tensor.file.data.size
        assert tensor.raw().shape == tensor.shape
        mine = taken.setdefault(tensor.file.path, np.zeros(tensor.file.data.size, bool))
        mine = mine[tensor.start : tensor.start + tensor.nbytes]
        assert not mine.any()
        mine[:] = True
    return "read"


def peak(read):
    """Return the peak memory in bytes of reading or refusing a file, without mapped files."""
    tracemalloc.start()
    try:
        read()
    except InputError:
        pass
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return most
