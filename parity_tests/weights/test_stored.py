"""Tensors in a mapped file: copied on write, converted as by PyTorch."""

import os

import numpy as np
import pytest
import torch

from npgpt.errors import InputError, WeightFileError
from npgpt.weights.mapped import CHUNK, LARGEST, MappedFile, MappedTensor, round_chunks, widen


@pytest.fixture
def path(tmp_path):
    return tmp_path / "numbers"


def test_writing_into_a_view_changes_neither_the_file_nor_other_mappings(path, rng):
    numbers = rng.normal(size=3000).astype(np.float32)
    path.write_bytes(numbers.tobytes())
    mine, other = (MappedTensor(MappedFile(path), 0, (3000,), "float32").array() for _ in range(2))
    assert not mine.flags.owndata
    mine += 1
    np.testing.assert_array_equal(mine, numbers + 1)
    np.testing.assert_array_equal(other, numbers)
    assert path.read_bytes() == numbers.tobytes()


def test_a_file_that_is_truncated_while_it_is_mapped(path):
    """Check the size before pages are read: reading past the end of a file is a bus error."""
    numbers = np.arange(3000, dtype=np.float32)
    path.write_bytes(numbers.tobytes())
    tensor = MappedTensor(MappedFile(path), 0, (3000,), "float32")
    os.truncate(path, 4096)
    np.testing.assert_array_equal(tensor.elements(0, 1024), numbers[:1024])
    with pytest.raises(WeightFileError, match="numbers has been truncated to 4,096 bytes while"):
        tensor.elements(1024, 1025)
    with pytest.raises(WeightFileError, match="truncated to 4,096"):
        list(tensor.chunks(512))


@pytest.mark.parametrize("start", range(9))
def test_numbers_at_any_address(path, rng, start):
    numbers = rng.normal(size=(5, 7))
    for dtype in (np.float64, np.float32, np.float16, np.int16, np.int8):
        array = (100 * numbers).astype(dtype)
        path.write_bytes(bytes(start) + array.tobytes())
        found = MappedTensor(MappedFile(path), start, (5, 7), array.dtype.name)
        raw = found.raw()
        np.testing.assert_array_equal(raw, array)
        assert raw.flags.aligned
        assert raw.flags.writeable
        pieces = list(found.chunks(4))
        assert [piece.size for piece in pieces] == [4] * 8 + [3]


def test_chunks_are_all_elements_once(path, rng):
    numbers = rng.normal(size=20_000).astype(np.float32)  # 20 pages, not aligned to one
    path.write_bytes(bytes(12) + numbers.tobytes())
    found = MappedTensor(MappedFile(path), 12, (20_000,), "float32")
    for size in (1000, 1024, 7777, 20_000, CHUNK):
        pieces = [piece.copy() for piece in found.chunks(size)]
        assert max(piece.size for piece in pieces) <= size
        np.testing.assert_array_equal(np.concatenate(pieces), numbers)


def test_a_file_that_has_shrunk(path):
    path.write_bytes(bytes(39))
    with pytest.raises(
        InputError, match=r"numbers is truncated: its numbers end at 40, the file at 39"
    ):
        MappedTensor(MappedFile(path), 0, (10,), "float32").raw()


# Dtypes


def every_half():
    """Return all float32 whose lower half is 0, 1, about half of the upper half's last bit, or the
    largest."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    return (upper[:, None] | lower).reshape(-1).view(np.float32)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounding_is_pytorchs(dtype):
    numbers = every_half()
    theirs = torch.tensor(numbers).to(getattr(torch, dtype)).float().numpy()
    fits = np.isinf(numbers) | ~np.isinf(theirs)
    assert np.isnan(numbers).sum() > 1000 and fits.mean() > 0.5
    found = np.concatenate(list(round_chunks(numbers[fits], dtype, "x")))
    np.testing.assert_array_equal(widen(found, dtype), theirs[fits])
    for number in numbers[~fits][:: 1 + (~fits).sum() // 100]:
        with pytest.raises(InputError, match=rf"^x has numbers beyond .*, the largest in {dtype}"):
            list(round_chunks(np.float32([1, number, 1]), dtype, "x"))


def test_widening_is_pytorchs():
    bits = np.arange(1 << 16, dtype=np.uint16)
    for dtype, array in {"float16": bits.view(np.float16), "bfloat16": bits}.items():
        theirs = torch.tensor(bits.view(np.int16)).view(getattr(torch, dtype)).float().numpy()
        found = widen(array, dtype)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, theirs)


def test_the_largest_number_of_each_dtype():
    for dtype, largest in LARGEST.items():
        assert largest == pytest.approx(torch.finfo(getattr(torch, dtype)).max, rel=1e-3)
        list(round_chunks(np.float32([torch.finfo(getattr(torch, dtype)).max]), dtype, "x"))


def test_float64_rounded_to_float32():
    (found,) = round_chunks(np.array([0.1, -0.0, np.inf, np.nan]), "float32", "x")
    np.testing.assert_array_equal(found, np.float32([0.1, -0.0, np.inf, np.nan]))
    with pytest.raises(
        InputError, match=r"^x has numbers beyond 3.403e\+38, the largest in float3"
    ):
        list(round_chunks(np.array([1e39]), "float32", "x"))
