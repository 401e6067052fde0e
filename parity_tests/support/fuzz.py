"""Fuzzing: changes of valid files from drawn bytes, and the memory that reading takes.

A recipe is bytes, because hypothesis draws these at a third of the cost of anything else: where to
change something, in which of several things, and at most three changes, each a kind and two
numbers.
"""

import math
import re
import tracemalloc

import numpy as np
from hypothesis import strategies as st

from npgpt.errors import InputError

RECIPES = st.binary(min_size=7, max_size=17)
NUMBERS = [
    *range(8), 16, 24, 32, 48, 64, 127, 128, 255, 1 << 16, 1 << 31, (1 << 32) - 1, 1 << 40,
    (1 << 62) - 1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) + 1, 1 << 70,
]  # fmt: skip
VALUES = [  # that JSON may have
    *NUMBERS, -1, -(1 << 63), 0.5, math.nan, math.inf, "", "F32", "F64", "BF16", "I8", None,
    True, [], [0], [1], [0, 0], [1 << 40, 1 << 40], [0, 1 << 62], [4, 8], [[]], {}, {"": 0},
]  # fmt: skip
CHANGES = "flip", "set", "cut", "end", "twice", "insert", "replace"


def parts(recipe, places):
    """Return the place, a number to choose with, and the changes of a recipe."""
    pieces = [recipe[i : i + 5] for i in range(2, len(recipe), 5)]
    changes = [
        (CHANGES[piece[0] % len(CHANGES)], int.from_bytes(piece[1:3]), int.from_bytes(piece[3:5]))
        for piece in pieces
    ]
    return places[recipe[0] % len(places)], recipe[1], changes


def changed(data, changes, written):
    """Return the bytes after these changes. `written`: converts a number to the format's bytes."""
    for kind, at, n in changes:
        at %= len(data) + 1
        before, after = data[:at], data[at:]
        if kind == "flip":
            after = bytes([after[0] ^ 1 << n % 8]) + after[1:] if after else b""
        elif kind == "set":
            after = bytes([n % 256]) + after[1:]
        elif kind == "cut":
            after = after[n % 32 :]
        elif kind == "end":
            after = b""
        elif kind == "twice":
            after = after[: n % 64] + after
        else:
            number = written(NUMBERS[n % len(NUMBERS)])
            after = number + after[len(number) if kind == "replace" else 0 :]
        data = before + after
    return data


def outcome(read, path):
    """Return "read", or the error without the path, names and numbers.

    read: () -> tensors by name. What is read lies in its file, on bytes of its own.
    """
    try:
        found = read()
    except InputError as error:
        said = str(error).replace(str(path), "")
        assert "\n" not in said
        assert len(said) < 400
        return " ".join(re.findall(r"\b[a-z]+\b", re.sub(r"\b[0-9a-f]+\b|'[^']*'", "", said)))
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
