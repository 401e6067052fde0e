"""Micro-batches: the cut of a step's windows, and settings of many ranks that are refused."""

import pytest

from npgpt.config import TrainingConfig
from npgpt.distributed.micro_batches import count_micro_batches, describe
from npgpt.errors import InputError


@pytest.mark.parametrize("size, batch, accumulation, leaves, micro_batches", [
    (4, 12, 1, None, 4), (5, 12, 1, None, 5), (1, 12, 1, None, 1), (4, 12, 1, 8, 8),
    (3, 1, 12, None, 12), (4, 2, 6, None, 12), (2, 2, 6, 4, 12), (1, 12, 1, 8, 8),
])  # fmt: skip
def test_how_a_step_is_cut(size, batch, accumulation, leaves, micro_batches):
    training = training_of(batch, accumulation, leaves)
    assert count_micro_batches(training, size) == micro_batches
    assert describe(training, size).startswith(f"{batch * accumulation} windows a step in ")
    assert describe(training, size).endswith(f", {micro_batches // size} for each rank")


@pytest.mark.parametrize("size, batch, accumulation, leaves, says", [
    (4, 1, 6, None, r"4 ranks cannot share a step of 6 windows \(batch size 1, accumulation 6\) "
                    "evenly: start 1 or 2 or 3 or 6, or change the batch size"),
    (3, 1, 12, 4, "and 4 leaves evenly: start 1 or 2 or 4, or"),
    (40, 20, 1, None, "evenly: start 13 or 14 or 15 or 16 or 17 or 18 or 19 or 20, or"),
    (1, 4, 1, 8, r"leaves is 8, but a step has 4 windows \(batch size 4, accumulation 1\), too"),
    (1, 1, 12, 8, "leaves is 8, but a step has 12 windows"),
])  # fmt: skip
def test_ranks_that_cannot_share(size, batch, accumulation, leaves, says):
    with pytest.raises(InputError, match=says):
        count_micro_batches(training_of(batch, accumulation, leaves), size)


def training_of(batch_size, grad_accumulation, leaves):
    return TrainingConfig(
        batch_size=batch_size, grad_accumulation=grad_accumulation,
        deterministic=leaves is not None, leaves=leaves or 8,
    )  # fmt: skip


@pytest.mark.parametrize("values, says", [
    (dict(leaves=3), "leaves is 3, but must be a power of two"),
    (dict(leaves=True), "leaves is True, but must be an integer"),
    (dict(deterministic=1), "deterministic is 1, but must be true or false"),
    (dict(comm_dtype="int8"), 'comm_dtype is \'int8\', but must be "float32" or "bfloat16"'),
    (dict(deterministic=True, comm_dtype="bfloat16"), "deterministic is true and comm_dtype is bf"),
    (dict(deterministic=True, sync_every=20), "deterministic is true and sync_every is 20, with"),
    (dict(sync_every=0), "sync_every is 0, but must be at least 1"),
    (dict(overlap=True), 'overlap is True, but must be "auto", "on" or "off"'),
    (dict(overlap="on", sync_every=20), "overlap is on and sync_every is 20, whose exchanges"),
    (dict(outer_momentum=1), r"outer_momentum is 1, but must be in \[0, 1\)"),
])  # fmt: skip
def test_settings_of_many_ranks_that_are_refused(values, says):
    with pytest.raises(InputError, match=says):
        TrainingConfig(**values)
