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
    """The bytes of a checkpoint, and a place for damaged copies."""
    folder = tmp_path_factory.mktemp("damaged")
    model = model_of()
    checkpoint.write(folder / "whole.h5", model, training_of(model))
    return (folder / "whole.h5").read_bytes(), folder / "damaged.h5"
