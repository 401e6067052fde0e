"""All exercises, in the order of the path from a linear layer to a whole model."""

from typing import NamedTuple

from npgpt.learn.exercise import Exercise
from npgpt.learn.exercises.attention import ATTENTION, HEADS, MASK, SCORES, VALUES
from npgpt.learn.exercises.elementwise import DROPOUT, GELU
from npgpt.learn.exercises.embeddings import EMBEDDING, TIED_HEAD
from npgpt.learn.exercises.generation import KV_CACHE, SAMPLING
from npgpt.learn.exercises.layers import BLOCK, MLP, MODEL
from npgpt.learn.exercises.linear import LINEAR_DBIAS, LINEAR_DWEIGHT, LINEAR_DX
from npgpt.learn.exercises.loss import CROSS_ENTROPY
from npgpt.learn.exercises.normalization import LAYERNORM_DX, LAYERNORM_PARAMS, SOFTMAX
from npgpt.learn.exercises.ports import PORTS
from npgpt.learn.exercises.training import ADAMW, CLIPPING, SCHEDULE


class Entry(NamedTuple):
    """One line of the list: an exercise, or several of one kind in a folder."""

    name: str
    title: str
    exercises: tuple[Exercise, ...]


def single(exercise: Exercise) -> Entry:
    """Return the entry of one exercise."""
    return Entry(exercise.name, exercise.title, (exercise,))


SINGLE = (
    LINEAR_DX, LINEAR_DWEIGHT, LINEAR_DBIAS, GELU, DROPOUT, EMBEDDING, LAYERNORM_PARAMS,
    LAYERNORM_DX, SOFTMAX, CROSS_ENTROPY, TIED_HEAD, VALUES, SCORES, MASK, HEADS, ATTENTION, MLP,
    BLOCK, MODEL, ADAMW, CLIPPING, SCHEDULE, SAMPLING, KV_CACHE,
)  # fmt: skip
ENTRIES: tuple[Entry, ...] = (
    *map(single, SINGLE),
    Entry("broken_ports", "Eight broken ports of GPT-2: find the bug", PORTS),
)
EXERCISES = tuple(exercise for entry in ENTRIES for exercise in entry.exercises)
