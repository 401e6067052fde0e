"""safetensors is read and written as by the format's own library; other contents are refused."""

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import npgpt
from npgpt.weights.safetensors import (
    DTYPES,
    TensorStream,
    read_safetensors,
    write_safetensors,
)
from npgpt.weights.strict_json import MAX_TABLE, MAX_TEXT
from parity_tests.support import fuzz
from parity_tests.support.weight_files import (
    CONFIG,
    assemble,
    numbers,
    odd,
    parts,
    write_config,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


# The library


def test_the_librarys_files_are_read(path, rng):
    arrays = odd(rng)
    theirs = {name: torch.tensor(np.asarray(array)) for name, array in arrays.items()}
    theirs["brain"] = theirs["brain"].view(torch.bfloat16)
    safetensors.torch.save_file(theirs, path, metadata={"format": "pt"})
    assert_read(path, arrays)


def assert_read(path, arrays):
    found = read_safetensors(path)
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        raw = found[name].raw()
        assert (raw.shape, raw.tobytes()) == (array.shape, array.tobytes()), name
        assert found[name].dtype == ("bfloat16" if name == "brain" else array.dtype.name)


def test_the_library_reads_written_files(path, rng):
    arrays = odd(rng)
    write_safetensors(
        path,
        {
            name: TensorStream(
                array.shape, "bfloat16" if name == "brain" else array.dtype.name, [array]
            )
            for name, array in arrays.items()
        },
    )
    assert_read(path, arrays)
    found = safetensors.torch.load_file(path)
    assert found.keys() == arrays.keys()
    assert found.pop("brain").dtype == torch.bfloat16
    for name, tensor in found.items():
        assert tensor.numpy().tobytes() == arrays[name].tobytes()
        assert (tuple(tensor.shape), tensor.numpy().dtype) == (
            arrays[name].shape,
            arrays[name].dtype,
        )
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt"}
    begin = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    assert begin % 64 == 0


def test_every_dtype_is_tested(rng):
    """The tests above depend on it."""
    dtypes = {"bfloat16" if name == "brain" else a.dtype.name for name, a in odd(rng).items()}
    assert dtypes == set(DTYPES.values())


@pytest.mark.parametrize("length", [640, 896, 1152, 1408])
def test_a_header_whose_length_looks_like_a_pickle(tmp_path, length):
    """Its first bytes are those of a pickle of version 2, 3, 4 and 5."""
    config = npgpt.Config(vocab_size=3, context_length=2, n_layer=1, n_head=1, n_embd=1)
    names = "wte.weight", "wpe.weight"  # a complete model's header is longer and has another error
    raw = assemble(*parts({name: numbers(config)[name] for name in names}), length=length)
    assert raw[0] == 0x80 and raw[1] in range(2, 6)
    (tmp_path / "model.safetensors").write_bytes(raw)
    assert list(read_safetensors(tmp_path / "model.safetensors")) == [*names]


@pytest.mark.parametrize(
    "raw",
    [
        assemble(b'{"__metadata__": {"format": "np"}}'),
        assemble(b"{}", length=64),
        assemble({"none": {"dtype": "I8", "shape": [0], "data_offsets": [0, 0]}}),
    ],
    ids=["metadata", "spaces", "no numbers"],
)
def test_a_file_without_numbers(path, raw):
    path.write_bytes(raw)
    assert all(tensor.raw().size == 0 for tensor in read_safetensors(path).values())
    assert read_safetensors(path).keys() == safetensors.numpy.load_file(path).keys()


# Invalid files

DATA = bytes(range(32))


def entry(dtype="F32", shape=(2, 3), offsets=(0, 24)):
    """Return the entry of a tensor in a header."""
    return {"dtype": dtype, "shape": [*shape], "data_offsets": [*offsets]}


GOOD = {"a": entry(), "b": entry(shape=(2,), offsets=(24, 32))}
WHOLE = assemble(GOOD, DATA)


def a(**changes):
    """Return a file with another entry for the tensor "a"; a field that is None is omitted."""
    about = {name: value for name, value in (entry() | changes).items() if value is not None}
    return assemble(GOOD | {"a": about}, DATA)


def with_c(**about):
    """Return a file with one more tensor."""
    return assemble(GOOD | {"c": entry(**about)}, DATA)


def headed(length):
    """Return a file with another length of its header."""
    return length.to_bytes(8, "little") + WHOLE[8:]


BEGIN = len(WHOLE) - 32
LONG = "is truncated, or not a safetensors file: a header of "
BAD = {
    "empty": (b"", "is truncated: 0 bytes are too few for a safetensors file$"),
    "seven bytes": (WHOLE[:7], "is truncated: 7 bytes are too few for a safetensors file$"),
    "a length alone": (WHOLE[:8], LONG + f"{BEGIN - 8} bytes, 0 are left$"),
    "half a header": (WHOLE[:60], LONG + f"{BEGIN - 8} bytes, 52 are left$"),
    "a header alone": (WHOLE[:BEGIN], f"is truncated: 'a' ends at {BEGIN + 24}, the file at"),
    "cut": (WHOLE[:-1], f"is truncated: 'b' ends at {BEGIN + 32}, the file at {BEGIN + 31} bytes$"),
    "longer": (WHOLE + b"\0", "and the end of the file, .*, leave 1 bytes between"),
    "a long header": (headed(1 << 62), LONG + "4,611,686,018,427,387,904 bytes, "),
    "the longest header": (headed((1 << 64) - 1), LONG + "18,446,744,073,709,551,615 bytes, "),
    "a larger header than any": (
        assemble(b"{}", length=MAX_TABLE + 1), "a header of 100,000,001 bytes; at most",
    ),
    "a shorter header": (headed(BEGIN - 9), r"its header is not JSON \("),
    "a longer header": (headed(BEGIN - 7), r"its header is not JSON \("),
    "no header": (headed(0), r"its header is not JSON \("),
    "zeros": (bytes(99), r"its header is not JSON \("),
    "text": (b"hello, world\n" * 9, LONG + "8,583,909,746,840,200,552 bytes, 109 are left$"),
    "not JSON": (assemble(b"{'a': 1}", DATA), r"its header is not JSON \("),
    "not UTF-8": (assemble(b'{"\xff": 1}', DATA), r"its header is not JSON \("),
    "brackets": (assemble(b'{"a":' + b"[" * 99_999, DATA), r"its header is not JSON \("),
    "many digits": (assemble(b'{"a": %s}' % (b"1" * 9999)), "JSON .the number 1{40}, which is to"),
    "a list": (assemble(b"[1]", DATA), r"its header is not a JSON object: \[1\]$"),
    "a name twice": (
        assemble(b'{"a": 1, "a": 2}', DATA), "'a' is 1, expected dtype, shape and data_offsets$",
    ),
    "no object": (assemble({"a": 3}, DATA), "'a' is 3, expected dtype, shape and data_offsets$"),
    "a line break": (assemble({"a\nb": 3}, DATA), r"'a\\nb' is 3, expected dtype"),
    "a long name": (assemble({"a" * 5000: 3}, DATA), "'a{76}... is 3, expected dtype"),
    "no dtype": (a(dtype=None), "'a' has dtype None; expected one of F64, F32, .*, BOOL"),
    "an unknown dtype": (a(dtype="F8_E4M3"), "'a' has dtype 'F8_E4M3'; expected one of F64, F32"),
    "NumPy's dtype": (a(dtype="float32"), "'a' has dtype 'float32'; expected one of F64, F32"),
    "a list of dtypes": (a(dtype=["F32"]), r"'a' has dtype \['F32'\]; expected one of F64, F32"),
    "another dtype": (a(dtype="F64"), r"'a': bytes 0 to 24 cannot be \[2, 3\] numbers of float64$"),
    "no shape": (a(shape=None), "'a' has the shape None, expected a list of sizes$"),
    "a number for a shape": (a(shape=6), "'a' has the shape 6, expected a list of sizes$"),
    "a negative axis": (a(shape=[-2, -3]), r"'a' has the shape \[-2, -3\], expected a list of"),
    "a half axis": (a(shape=[1.5, 4]), r"'a' has the shape \[1.5, 4\], expected a list of"),
    "true for an axis": (a(shape=[True, 6]), r"'a' has the shape \[True, 6\], expected a list"),
    "many axes": (a(shape=[1] * 64 + [6]), r"'a' has the shape \[1, .*\.\.\., expected a list of"),
    "another shape": (a(shape=[2, 2]), r"'a': bytes 0 to 24 cannot be \[2, 2\] numbers of float"),
    "a shape bomb": (
        a(shape=[1 << 40, 1 << 40]),
        r"'a': its shape \[1099511627776, 1099511627776\] is larger than any array$",
    ),
    "an empty bomb": (
        a(shape=[0, 1 << 40, 1 << 40], data_offsets=[0, 0]), "is larger than any array$",
    ),
    "a bomb of its bytes": (
        a(shape=[1 << 40], data_offsets=[0, 1 << 42]),
        "is truncated: 'a' ends at 4,398,046,511,[0-9]+, the file at [0-9]+ bytes$",
    ),
    "no offsets": (a(data_offsets=None), "'a' has the data_offsets None, expected two$"),
    "one offset": (a(data_offsets=[24]), r"'a' has the data_offsets \[24\], expected two$"),
    "a negative offset": (
        a(data_offsets=[-24, 0]), r"'a' has the data_offsets \[-24, 0\], expected two$",
    ),
    "backwards": (a(data_offsets=[24, 0]), r"'a': bytes 24 to 0 cannot be \[2, 3\] numbers"),
    "past the end": (
        a(data_offsets=[16, 40]), r"is truncated: 'a' ends at \d+, the file at \d+ bytes$",
    ),
    "far past the end": (
        a(data_offsets=[(1 << 62), (1 << 62) + 24]), "is truncated: 'a' ends at 4,611,686,018,427,",
    ),
    "farther than 64 bits": (
        a(data_offsets=[1 << 63, (1 << 63) + 24]),
        r"'a' has the data_offsets \[9223372036854775808, 9223372036854775832\], expected two$",
    ),
    "overlapping": (
        a(data_offsets=[8, 32]),
        f"the header, which ends at {BEGIN}, and 'a', which begins at {BEGIN + 8}, leave 8 bytes",
    ),
    "the same bytes": (with_c(shape=(2,), offsets=(24, 32)), "'b', .*, and 'c', .*, overlap$"),
    "within another": (with_c(dtype="U8", shape=(4,), offsets=(4, 8)), "'a', .*'c', .* overlap$"),
    "a gap": (
        a(shape=[2, 2], data_offsets=[0, 16]), "'a', which .*, and 'b', .*, leave 8 bytes between",
    ),
}  # fmt: skip
OWN_LIMITS = ("many axes",)  # the library refuses the others too


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_and_says_why(path, unreadable, name):
    raw, says = BAD[name]
    write_config(path.parent, CONFIG)
    path.write_bytes(raw)
    unreadable(path.parent, says)
    if name not in OWN_LIMITS:
        with pytest.raises(safetensors.SafetensorError):
            safetensors.numpy.load_file(path)


# Memory


def repeated(piece, size, before=b'{"a":[', after=b"]}"):
    """Return a file with a header of about `size` bytes: `piece`, repeated."""
    return assemble(before + b",".join([piece] * (size // (len(piece) + 1))) + after)


def of_many(size):
    """Return a file with as many empty tensors as fit into its header."""
    about = '"%06x":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}'
    return assemble(f"{{{','.join(about % i for i in range(size // 60))}}}".encode())


HEAVY = {  # headers that are large once parsed
    "lists in lists": lambda size: repeated(b"[" * 900 + b"]" * 900, size),
    "objects in objects": lambda size: repeated(b'{"":' * 300 + b"0" + b"}" * 300, size),
    "objects": lambda size: repeated(b'{"":{}}', size),
    "numbers": lambda size: repeated(b"1e1", size),
    "metadata": lambda size: repeated(b"[[]]", size, b'{"__metadata__":[', b"]}"),
    "letters": lambda size: repeated("\N{GRINNING FACE}".encode(), size, b'{"a":"', b'"}'),
    "tensors": of_many,
}
TIMES = 50  # the bytes of "[" * 900 become lists, 104 bytes the pair of brackets: 45 were measured


@pytest.mark.slow
@pytest.mark.parametrize("size, name", [
    *((4000, name) for name in HEAVY),
    *((MAX_TEXT - 4000, name) for name in ("lists in lists", "objects", "tensors")),
])  # fmt: skip
def test_no_header_takes_more_memory_than_a_small_multiple_of_its_size(path, name, size):
    """At most 50 MB for any file, because MAX_TEXT limits the header."""
    raw = HEAVY[name](size)
    assert size // 3 < len(raw) <= MAX_TEXT
    bounded(path, raw)


def bounded(path, raw):
    path.write_bytes(raw)
    assert fuzz.peak(lambda: read_safetensors(path)) < TIMES * len(raw) + (1 << 16)
