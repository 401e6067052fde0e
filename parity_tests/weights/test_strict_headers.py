"""Headers that the safetensors library reads are read, and those that it refuses are refused."""

import json

import pytest
import safetensors.numpy

import npgpt
from npgpt.errors import WeightFileError
from npgpt.weights.safetensors import read_safetensors
from npgpt.weights.strict_json import MAX_TABLE, MAX_TEXT, parse_json
from parity_tests.support import fuzz
from parity_tests.support.weight_files import CONFIG, assemble, numbers, pack, write_config

DATA = bytes(8)
A = b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'


def tensor(more=b"", offsets=b"[0,8]", name=b"a"):
    """Return a header of one tensor."""
    return b'{"%s":{"dtype":"F32","shape":[2],"data_offsets":%s%s}}' % (name, offsets, more)


def empty(at):
    """Return a header of a tensor and an empty one at this offset."""
    return b'{"e":{"dtype":"F32","shape":[0],"data_offsets":[%d,%d]},%s}' % (at, at, A)


def metadata(value):
    """Return a header with this metadata."""
    return b'{"__metadata__":%s,%s}' % (value, A)


READ = {
    "space before it": b" \n\t\r" + tensor(),
    "64 spaces before it": b" " * 64 + tensor(),
    "space after it": tensor() + b" \n\t ",
    "no metadata": metadata(b"null"),
    "empty metadata": metadata(b"{}"),
    "another field": tensor(b',"x":1.5e300'),
    "an empty tensor before": empty(0),
    "an empty tensor after": empty(8),
    "a surrogate pair": tensor(name=rb"\ud83d\ude00"),
    "a name with a zero": tensor(name=rb"\u0000"),
    "no name": tensor(name=b""),
    "a name twice": b"{%s,%s}" % (A.replace(b"8", b"4"), A),
    "a name in metadata twice": metadata(b'{"a":"1","a":"2"}'),
    "another field twice": tensor(b',"x":1,"x":2'),
    "an entry as a list": b'{"a":["F32",[2],[0,8]]}',
    "300 digits": tensor(b',"x":' + b"1" * 300),
    "minus zero in another field": tensor(b',"x":-0'),
    "125 brackets": tensor(b',"x":' + b"[" * 125 + b"]" * 125),
    "2 MB": tensor().ljust(2 << 20),
    "the longest": tensor().ljust(MAX_TABLE),
}
REFUSED = {
    "a byte order mark": (b"\xef\xbb\xbf" + tensor(), "its header is not JSON"),
    "UTF-16": (tensor().decode().encode("utf-16-le"), "its header is not JSON"),
    "a surrogate": (tensor(name=rb"\ud800"), "not JSON .*surrogates not allowed"),
    "a surrogate in metadata": (metadata(rb'{"a":"\udc00"}'), "surrogates not allowed"),
    "a surrogate in UTF-8": (tensor(name=b"\xed\xa0\x80"), "not JSON .*'utf-8' codec can't"),
    "NaN": (tensor(b',"x":NaN'), "its header is not JSON .it contains NaN"),
    "Infinity": (tensor(b',"x":-Infinity'), "its header is not JSON .it contains -Infinity"),
    "a surrogate in a list": (tensor(rb',"x":["\udc00"]'), "surrogates not allowed"),
    "a field twice": (tensor(b',"shape":[2]'), "'a' has shape twice"),
    "metadata twice": (
        b'{"__metadata__":{},' + metadata(b"{}")[1:],
        "its header has __metadata__ twice",
    ),
    "a name of two types": (b'{"a":1,%s}' % A, "'a' is 1, expected dtype, shape and"),
    "metadata of two types": (metadata(b'{"a":1,"a":"2"}'), "its __metadata__ is .*, expected str"),
    "an entry as a short list": (
        b'{"a":["F32",[2]]}',
        "'a' is .*, expected dtype, shape and data_",
    ),
    "126 brackets": (tensor(b',"x":' + b"[" * 126 + b"]" * 126), "'a' has a field of over 127 nes"),
    "126 objects": (tensor(b',"x":' + b'{"":' * 126 + b"0" + b"}" * 126), "'a' has a field of ove"),
    "beyond float64": (tensor(b',"x":1e400'), "not JSON .the number 1e400, which is too large"),
    "400 digits": (tensor(b',"x":' + b"1" * 400), "not JSON .the number 1{40}, which is too la"),
    "minus zero": (tensor(offsets=b"[-0,8]"), r"has the data_offsets \[-0.0, 8\], expected two"),
    "100,000 brackets": (tensor(b',"x":' + b"[" * 100_000), "its header is not JSON"),
    "a list of metadata": (metadata(b"[]"), r"its __metadata__ is \[\], expected strings"),
    "a number in metadata": (metadata(b'{"a":1}'), "its __metadata__ is {'a': 1}, expected stri"),
    "null in metadata": (metadata(b'{"a":null}'), "its __metadata__ is {'a': None}, expected"),
    "an empty tensor inside": (
        empty(4),
        "'a', which ends at .*, and 'e', which begins at .*, overlap$",
    ),
    "too long": (tensor().ljust(MAX_TABLE + 1), "a header of 100,000,001 bytes; at most 100,000,"),
}


def path_of(folder, header):
    """Return the path of a file with this header."""
    write_config(folder, CONFIG)
    path = folder / "model.safetensors"
    path.write_bytes(assemble(header, DATA))
    return path


@pytest.mark.parametrize("name", READ)
def test_a_header_that_the_library_reads(tmp_path, name):
    path = path_of(tmp_path, READ[name])
    found = {name: tensor.raw().tobytes() for name, tensor in read_safetensors(path).items()}
    theirs = safetensors.numpy.load_file(path)
    assert found == {name: array.tobytes() for name, array in theirs.items()}


@pytest.mark.parametrize("name", REFUSED)
def test_a_header_that_the_library_refuses(tmp_path, unreadable, name):
    header, says = REFUSED[name]
    path = path_of(tmp_path, header)
    with pytest.raises(safetensors.SafetensorError):
        safetensors.numpy.load_file(path)
    with pytest.raises(WeightFileError, match=says):
        read_safetensors(path)
    unreadable(tmp_path, says)


def test_a_file_with_space_before_its_header_is_opened_by_its_own_path(tmp_path):
    """By file as by directory: the format is recognized after the space."""
    raw = pack(numbers(CONFIG))
    length = int.from_bytes(raw[:8], "little")
    header, data = raw[8 : 8 + length], raw[8 + length :]
    path = path_of(tmp_path, b"")
    for space in (b" ", b"\r\n\t ", b" " * 64):
        path.write_bytes(assemble(space + header, data))
        assert npgpt.load(path).config == npgpt.load(tmp_path).config == CONFIG


HEAVY = {  # what could take much more memory than its text
    "objects": b"{},",
    "lists": b"[],",
    "strings": b'"ab",',
    "numbers": b"1.5,",
    "names": b'{"":0},',
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_a_long_text_takes_a_small_multiple_of_its_size(name):
    """A long text of anything smaller than a table's row is refused before it is parsed."""
    piece = HEAVY[name]
    text = b"[%s0]" % (piece * (2 * MAX_TEXT // len(piece)))
    assert len(text) > MAX_TEXT
    assert fuzz.peak(lambda: parse_json(text, "it")) < 16 * len(text)


@pytest.mark.slow
def test_a_table_of_tensors_may_be_long():
    table = {
        f"h.{i}": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} for i in range(30_000)
    }
    text = json.dumps(table, separators=(",", ":")).encode()
    assert len(text) > MAX_TEXT
    assert fuzz.peak(lambda: parse_json(text, "it")) < 16 * len(text)
    assert parse_json(text, "it") == table


@pytest.mark.parametrize(
    "text", ["1" * 400, "Infinity", "[" * 100_000, '"\ud800"', "1e999", None, 3]
)
def test_text_that_is_not_json(text):
    says = "^it is not JSON" if isinstance(text, str) else f"^it is {text}, expected JSON$"
    with pytest.raises(WeightFileError, match=says):
        parse_json(text, "it")
