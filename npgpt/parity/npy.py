"""Read and write NumPy's arrays and archives without trusting them.

    .npy    b"\\x93NUMPY", version (2 bytes), length of the header (2 bytes; 4 from version 2 on),
            the header, a Python dict in plain text:
                {'descr': '<f4', 'fortran_order': False, 'shape': (3, 9), }
            and the numbers
    .npz    a ZIP archive of .npy files, stored or deflated

NumPy's own reader unpickles arrays of objects, evaluates the header, and believes its shape.
https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

import errno
import math
import os
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError, one_line, show
from npgpt.quantized_matrix import from_bfloat16
from npgpt.system.files import open_regular, os_error

MAGIC = b"\x93NUMPY"
MAX_HEADER = 10_000  # bytes: NumPy's own limit
MAX_FILES = 20_000  # in an archive: GPT-2 XL's parameters and activations are 5,000
MAX_BYTES = 1 << 33  # of all arrays in an archive that is smaller: up to 1000 times
MAX_DEPTH = 20  # folders in each other
MAX_AXES = 64  # NumPy's limit
FIELD = re.compile(
    r"\s*'(descr|fortran_order|shape)'\s*:\s*('[^'\\]*'|True|False|\([\d\s,L]*\))\s*"
)
# bool, integers, floats, texts; NumPy stores bfloat16 (of ml_dtypes) as 2 bytes without a type
DESCR = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|[US]\d{1,8}|V2)")
FAILURES = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


def read_archive(path: str | Path, max_bytes: int = MAX_BYTES) -> dict[str, Array]:
    """Return the arrays of an .npz file by name.

    Raises InputError if the file is damaged, has an array of objects, or more than `max_bytes`.
    """
    found: dict[str, Array] = {}
    try:
        with open_regular(path) as file, zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            check_sizes(path, entries, max(max_bytes, os.fstat(file.fileno()).st_size))
            for entry in entries:
                name = member_name(path, entry.filename)
                if name in found:
                    raise InputError(f"{path} has {show(name)} twice")
                with archive.open(entry) as member:
                    found[name] = read_array(member, entry.file_size, f"{path}: {show(name)}")
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except (*FAILURES, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:  # of a forged offset
            raise os_error(f"{path} cannot be read", error) from None
        text = f"{path} is truncated, damaged or not an .npz file: {one_line(error)}"
        raise InputError(text) from None
    return found


def read_folder(path: str | Path, max_bytes: int = MAX_BYTES) -> dict[str, Array]:
    """Return the array of every .npy file in a folder and below it: "grad/wte.weight".

    Links to folders are not followed. Raises InputError as `read_archive`.
    """
    found, left = {}, max_bytes
    for file in list_folder(Path(path)):
        name = file.relative_to(path).as_posix().removesuffix(".npy")
        try:
            with open_regular(file) as member:
                size = os.fstat(member.fileno()).st_size
                left -= size
                if left < 0:
                    raise InputError(f"{path} has more than {max_bytes:,} bytes of arrays")
                found[name] = read_array(member, size, str(file))
        except OSError as error:
            raise os_error(f"{file} cannot be read", error) from None
    return found


def list_folder(path: Path) -> list[Path]:
    """Return the .npy files in a folder and below it. Raises InputError if it cannot be read."""
    found: list[Path] = []

    def fail(error: OSError) -> None:
        raise os_error(f"{error.filename} cannot be read", error) from None

    for folder, folders, names in os.walk(path, onerror=fail):
        folders.sort()
        found += [Path(folder, name) for name in sorted(names) if name.endswith(".npy")]
        if len(found) > MAX_FILES or Path(folder).relative_to(path).parts[MAX_DEPTH:]:
            raise InputError(f"{path} has more than {MAX_FILES:,} arrays, or folders in more than "
                             f"{MAX_DEPTH} folders")  # fmt: skip
    return found


def member_name(path: str | Path, name: str) -> str:
    """Return the name of the array in a member of an archive. Raises InputError for other files."""
    if name.endswith(".npy"):
        return name.removesuffix(".npy")
    if name.endswith(".pkl"):
        raise InputError(
            f"{path} is a pickle, as torch.save writes it, which is refused: reading it runs any "
            "code in it. Save arrays with np.savez"
        )
    raise InputError(f"{path} has {show(name)}, which is no .npy array")


def check_sizes(path: str | Path, entries: list[zipfile.ZipInfo], max_bytes: int) -> None:
    """Raise InputError if an archive has too many files, or if they are too large together."""
    if len(entries) > MAX_FILES:
        raise InputError(f"{path} has {len(entries):,} arrays; at most {MAX_FILES:,} are read")
    total = sum(entry.file_size for entry in entries)
    if total > max_bytes:
        raise InputError(f"{path} has {total:,} bytes of arrays; at most {max_bytes:,} are read")


def read_array(file: Any, size: int, about: str) -> Array:
    """Return the array in an open .npy file of `size` bytes. `about`: names it in messages.

    bfloat16 is widened to float32. Raises InputError if the file is damaged, or if its numbers are
    of another type.
    """
    start = file.read(8)
    if start[:6] != MAGIC or start[6:7] not in (b"\1", b"\2", b"\3"):
        raise InputError(f"{about} is not an .npy array: it begins with {start!r}")
    width = 2 if start[6] == 1 else 4
    length = int.from_bytes(file.read(width), "little")
    if length > MAX_HEADER:
        raise InputError(f"{about} has a header of {length:,} bytes; at most {MAX_HEADER:,} "
                         "are read")  # fmt: skip
    dtype, fortran_order, shape = parse_header(file.read(length).decode("latin-1"), about)
    expected, left = math.prod(shape) * dtype.itemsize, size - 8 - width - length
    if left != expected:
        raise InputError(
            f"{about} has {max(left, 0):,} bytes of numbers, but {expected:,} are needed for "
            f"{dtype} of shape {shape}"
        )
    flat = np.frombuffer(read_exactly(file, expected, about), dtype)
    flat = from_bfloat16(flat.view(np.uint16)) if dtype.kind == "V" else flat
    return flat.reshape(shape, order="F" if fortran_order else "C")


def parse_header(text: str, about: str) -> tuple[np.dtype, bool, tuple[int, ...]]:
    """Return dtype, order and shape in the header of an .npy file. Raises InputError."""
    body, at = text.strip().removeprefix("{").removesuffix("}"), 0
    found: dict[str, str] = {}
    while field := FIELD.match(body, at):
        found[field[1]] = field[2]
        at = field.end() + (body[field.end() : field.end() + 1] == ",")
    if "'|O'" in text or "'O'" in text:
        raise InputError(
            f"{about} is a pickle, which is refused: reading it runs any code in it. Save arrays "
            "of numbers"
        )
    if body[at:].strip() or found.keys() != {"descr", "fortran_order", "shape"}:
        raise InputError(f"{about} has the header {show(text.strip())}, expected numbers of a type")
    descr, order, sizes = found["descr"][1:-1], found["fortran_order"], found["shape"]
    if not DESCR.fullmatch(descr):
        raise InputError(f"{about} has the type {show(descr)}, expected integers or floats")
    digits = [part.strip().rstrip("L") for part in sizes[1:-1].split(",") if part.strip()]
    if len(digits) > MAX_AXES or any(not d.isdecimal() or len(d) > 18 for d in digits):
        raise InputError(f"{about} has the shape {show(sizes)}, expected sizes")
    shape = tuple(map(int, digits))
    dtype = np.dtype(descr)
    if math.prod(max(n, 1) for n in shape) * max(dtype.itemsize, 1) >= 1 << 60:
        raise InputError(f"{about}: its shape {show(sizes)} is larger than any array")
    return dtype, order == "True", shape


def read_exactly(file: Any, size: int, about: str) -> bytearray:
    """Return the next `size` bytes of a file. Raises InputError if there are fewer.

    Memory grows with the bytes that are read, not with those that are claimed.
    """
    found = bytearray()
    while len(found) < size:
        part = file.read(min(size - len(found), 1 << 24))
        if not part:
            raise InputError(f"{about} is truncated: {len(found):,} of {size:,} bytes")
        found += part
    return found


def write_archive(file: BinaryIO, arrays: Mapping[str, Array]) -> None:
    """Write arrays to an open file as .npz: stored, in their order, at a fixed date."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(entry, "w", force_zip64=True) as member:
                write_array(member, np.asarray(array, order="C"))


def write_array(file: IO[bytes], array: Array) -> None:
    """Write a row-major array to an open file as .npy. Raises InputError for one of objects."""
    if array.dtype.hasobject:
        raise InputError(f"an array of {array.dtype} cannot be written: its numbers have no type")
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(file, header)
    file.write(array.data)
