"""Damaged, truncated and foreign files are refused."""

import dataclasses
import re

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import npgpt
from npgpt.errors import InputError
from npgpt.weights import checkpoint, checksum
from parity_tests.support.checkpoints import (
    model_of,
    read_and_verify,
    refused,
    training_of,
    with_new_footer,
    without_footer,
)


def test_a_missing_file(tmp_path):
    refused(tmp_path / "no.h5", "there is no file")
    with pytest.raises(InputError, match="cannot be read: it is a directory, not a file"):
        checkpoint.read_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello, world\n" * 9, b"\x80\x04K\x01.", b"\x89HDF"])
def test_a_file_of_another_kind(tmp_path, content):
    path = tmp_path / "strange.h5"
    path.write_bytes(content)
    refused(path, "not an HDF5 file: it begins with b")


@pytest.mark.parametrize("share", [0.0003, 0.01, 0.1, 0.5, 0.9, 0.99, 0.9999])
def test_a_truncated_file(saved, share):
    raw = saved.read_bytes()
    saved.write_bytes(raw[: max(9, int(share * len(raw)))])
    refused(saved, "is truncated, or not a checkpoint")


@pytest.mark.parametrize("missing", [1, 4, 5, 15, 16, 17, 4096])
def test_a_file_that_lost_its_last_bytes(saved, missing):
    raw = saved.read_bytes()
    saved.write_bytes(raw[:-missing])
    refused(saved, "is truncated, or not a checkpoint")
    saved.write_bytes(raw[: len(raw) - missing] + bytes(missing))
    refused(saved, "is truncated, or not a checkpoint|is damaged")


def test_a_longer_file(saved):
    saved.write_bytes(saved.read_bytes() + b"\n")
    refused(saved, "is truncated, or not a checkpoint")


@pytest.mark.slow
@hypothesis_settings(max_examples=200, deadline=None)
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bits_are_found(raw, changes):
    """Without the footer, HDF5 crashes on some of these files and hangs on others."""
    content, path = bytearray(raw[0]), raw[1]
    for where, change in changes:
        content[int(where * (len(content) - 1))] ^= change
    path.write_bytes(content)
    if bytes(content) == raw[0]:
        checkpoint.read_training(path)
        return
    refused(path, "damaged|truncated|not an HDF5 file")
    refused(path, "damaged|truncated|not an HDF5 file", read=read_and_verify)
    try:  # without the checksums of the numbers, only numbers may differ
        found = checkpoint.read_checkpoint(path)
    except InputError as error:
        assert re.search("damaged|truncated|not an HDF5 file", str(error))
    else:
        good = checkpoint.read_checkpoint(path.with_name("whole.h5"))
        assert (found.config, found.tokenizer) == (good.config, good.tokenizer)
        tensors = (
            {n: dataclasses.replace(t, file=None) for n, t in s.parameters.items()}
            for s in (found, good)
        )
        assert next(tensors) == next(tensors)
        assert checkpoint.read_state(path) == checkpoint.read_state(good.path)


@pytest.mark.slow
def test_a_checksum_covers_every_byte(raw):
    """Every byte of the footer, and every 13th of the rest."""
    content, path = raw
    end = len(without_footer(content))
    path.write_bytes(content)
    with open(path, "r+b", buffering=0) as file:
        for at in [*range(0, end, 13), *range(end, len(content))]:
            file.seek(at)
            file.write(bytes([content[at] ^ 16]))
            refused(path, "damaged|truncated|not an HDF5 file", read=read_and_verify)
            file.seek(at)
            file.write(content[at : at + 1])
    read_and_verify(path)


def test_damaged_numbers_are_found_when_all_are_read(saved):
    """On resuming a run, and with `verify`."""
    content = saved.read_bytes()
    number = npgpt.load(saved).params.wte.weight[2, 1]
    at = content.index(number.tobytes())
    saved.write_bytes(content[: at + 2] + bytes([content[at + 2] ^ 1]) + content[at + 3 :])
    assert npgpt.load(saved).params.wte.weight[2, 1] != number
    says = r"is damaged: its bytes [\d,]+ to [\d,]+ have the checksum .{8}, expected .{8}"
    refused(saved, says)
    refused(saved, says, read=read_and_verify)
    with_new_footer(saved, lambda file: None)
    checkpoint.read_training(saved)


def test_more_arrays_than_a_footer_lists(saved, monkeypatch):
    """The last checksum covers the others."""
    monkeypatch.setattr(checksum, "MAX_BLOCKS", 5)
    path = saved.with_name("other.h5")
    model = model_of()
    checkpoint.write(path, model, training_of(model))
    content = path.read_bytes()
    assert len(content) == len(saved.read_bytes()) - 20 * (3 * 28 - 5)
    checkpoint.read_training(path)
    at = content.rindex(model.params.ln_f.weight.tobytes())
    path.write_bytes(content[:at] + b"\1" + content[at + 1 :])
    refused(path, "is damaged: it has the checksum", read=checkpoint.read_checkpoint)
    refused(saved, r"is damaged: its checksum footer cannot have 84 blocks")


def test_invalid_blocks_in_the_footer(saved):
    content = saved.read_bytes()
    end = len(without_footer(content))
    for start, size in [
        (0, 1 << 63),
        (1 << 63, 0),
        (end, 1),
        ((1 << 64) - 1, 1),
        (end - 1, 1),
    ]:
        block = start.to_bytes(8, "little") + size.to_bytes(8, "little")
        saved.write_bytes(content[:end] + block + content[end + 16 :])
        refused(saved, "is damaged: .* has an invalid block of [\\d,]+ bytes at [\\d,]+$")
