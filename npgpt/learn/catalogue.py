"""All exercises, in the order of the path from a linear layer to a whole model."""

from typing import NamedTuple

from npgpt.learn.exercise import Exercise
from npgpt.learn.exercises.linear import LINEAR_DBIAS, LINEAR_DWEIGHT, LINEAR_DX


class Entry(NamedTuple):
    """One line of the list: an exercise, or several of one kind in a folder."""

    name: str
    title: str
    exercises: tuple[Exercise, ...]


def single(exercise: Exercise) -> Entry:
    """Return the entry of one exercise."""
    return Entry(exercise.name, exercise.title, (exercise,))


ENTRIES: tuple[Entry, ...] = (
    single(LINEAR_DX),
    single(LINEAR_DWEIGHT),
    single(LINEAR_DBIAS),
)
EXERCISES = tuple(exercise for entry in ENTRIES for exercise in entry.exercises)
