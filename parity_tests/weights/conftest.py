"""Checkpoints that tests read and damage."""

import pytest

from npgpt.weights import checkpoint
from parity_tests.support.checkpoints import model_of, training_of


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of a run."""
    model, path = model_of(), tmp_path / "checkpoint.h5"
    checkpoint.write(path, model, training_of(model))
    return path


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """The bytes of a checkpoint, and a path for damaged copies."""
    directory = tmp_path_factory.mktemp("damaged")
    model = model_of()
    checkpoint.write(directory / "whole.h5", model, training_of(model))
    return (directory / "whole.h5").read_bytes(), directory / "damaged.h5"
