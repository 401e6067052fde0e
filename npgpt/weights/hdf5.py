"""Read the subset of HDF5 that npgpt's checkpoints use. Nothing in the file is trusted.

The HDF5 library crashes or hangs on some invalid files, so that it only writes. A checkpoint has
(little endian; addresses and sizes have 8 bytes; an address counts from the start of the file):

    superblock         the end of the file, and the address of the root group's object header
    object header      messages: type, size, flags, content
      of a group         symbol table: the addresses of a B-tree and of a local heap
      of a dataset       dataspace: its shape; datatype; layout: address and size of its numbers
      of the root        attributes, too: name, datatype, dataspace, value
    B-tree             the addresses of nodes a level below; at level 0, of symbol nodes
    symbol node        for each member of a group, offset of its name and address of its header
    local heap         the names in a group, each ended by a zero byte
    global heap        the texts of attributes, by index

Everything else is refused, also if it is valid HDF5: links, chunks, filters, other versions, other
types. The structures must be within the file, must not overlap, and have at most MAX_STRUCTURE
bytes. Therefore every loop ends, and memory is bounded. Nothing is recursive.

Source: The HDF Group, "HDF5 File Format Specification", version 3.0, for version 0 of the
superblock and version 1 of headers, B-trees and heaps, as written for `libver="earliest"`.
"""

import re
from itertools import pairwise
from pathlib import Path
from struct import Struct
from struct import error as TooShort
from typing import Any, NamedTuple

from npgpt.errors import WeightFileError
from npgpt.weights.checksum import MAGIC, check_blocks, check_footer
from npgpt.weights.mapped import MappedFile, MappedTensor

MAX_STRUCTURE = 1 << 22  # bytes of everything but numbers; a run of the largest GPT-2 has 0.6 MB
MAX_DEPTH = 3  # names in a path: training/m/wte.weight
MAX_RANK = 2
MAX_SIZE = 1 << 48  # of an axis
MAX_NAME = 64  # bytes of a name
MAX_TEXT = 1 << 16  # bytes of a text

# Types of messages. A fill value is ignored, because all numbers are stored.
NIL, DATASPACE, DATATYPE, FILL_VALUE, LAYOUT = 0x00, 0x01, 0x03, 0x05, 0x08
ATTRIBUTE, CONTINUATION, SYMBOL_TABLE = 0x0C, 0x10, 0x11
MESSAGES = {NIL, DATASPACE, DATATYPE, FILL_VALUE, LAYOUT, ATTRIBUTE, CONTINUATION, SYMBOL_TABLE}
CONTIGUOUS = 3, 1  # version and class of a layout
UNDEFINED = (1 << 64) - 1  # an address: no bytes are stored

# Beginnings that have one valid value. The superblock's: versions 0, sizes of 8 bytes, at most
# 2 * 4 symbols and 2 * 16 B-tree nodes in a node, base address 0, no list of free space.
SUPERBLOCK = MAGIC + bytes.fromhex("00000000 00080800 04001000 00000000" + "00" * 8 + "ff" * 8)
BTREE, SYMBOLS = b"TREE\0", b"SNOD\1\0"
LOCAL_HEAP, GLOBAL_HEAP = b"HEAP\0\0\0\0", b"GCOL\1\0\0\0"

SUPERBLOCK_LAYOUT = Struct("<40sQ8x8xQ8x16x")  # end of file, header of the root
HEADER = Struct("<BxH4xI4x")  # version, number of messages, size of the first block
MESSAGE = Struct("<HHB3x")  # type, size, flags
BTREE_NODE = Struct("<5sBH16x")  # level, number of children
BTREE_CHILD = Struct("<8xQ")  # address, after the offset of a name
SYMBOL_NODE = Struct("<6sH")  # symbols
SYMBOL = Struct("<QQI20x")  # offset of the name, header, kind: 2 is a symbolic link
LOCAL_HEAP_LAYOUT = Struct("<8sQ8xQ")  # size and address of the names
GLOBAL_HEAP_LAYOUT = Struct("<8sQ")  # size, with this
HEAP_OBJECT = Struct("<H6xQ")  # index (0: the rest is free), size
LAYOUT_MESSAGE = Struct("<BBQQ")  # version, class, address, size
TWO_ADDRESSES = Struct("<QQ")  # of a symbol table; or address and size of a continuation
ATTRIBUTE_MESSAGE = Struct("<BxHHH")  # version, sizes of name, datatype and dataspace
DATASPACE_MESSAGE = Struct("<BBB5x")  # version, rank, 1 if the largest shape follows the shape
INTEGER = Struct("<q")  # the value of an attribute: a number,
TEXT = Struct("<IQI")  # or a text: size, address of the global heap, index

# Datatype messages: class and version, flags, size, and the place and width of the number's parts.
DTYPES = {
    "uint8": bytes.fromhex("10000000 01000000 00000800"),
    "int64": bytes.fromhex("10080000 08000000 00004000"),
    "float32": bytes.fromhex("11201f00 04000000 00002000 17080017 7f000000"),
    "float64": bytes.fromhex("11203f00 08000000 00004000 340b0034 ff030000"),
}
TEXT_TYPE = bytes.fromhex("19010100 10000000") + DTYPES["uint8"]  # UTF-8 of variable length


class Contents(NamedTuple):
    """The contents of an HDF5 file."""

    attributes: dict[str, int | str]  # of the root group
    tensors: dict[str, MappedTensor]  # every dataset by its path, such as "parameters/wte.weight"


def read_hdf5(path: str | Path, *, verify: bool = False) -> Contents:
    """Return the contents of an HDF5 file with a checksum footer. No number is read.

    `verify`: read all numbers to verify their checksums. Raises WeightFileError if the file is
    damaged, or uses more of HDF5 than npgpt does.
    """
    file = MappedFile(path)
    blocks = check_footer(file)
    if verify:
        check_blocks(file, blocks)
    return read_structure(file)


def read_structure(file: MappedFile) -> Contents:
    """Return the contents of an HDF5 file, with or without a checksum footer."""
    try:
        return Reader(file).read()
    except TooShort:
        raise WeightFileError(f"{file.path} is damaged: a structure of HDF5 is cut") from None


class Reader:
    """A reader of one file."""

    def __init__(self, file: MappedFile):
        self.file, self.end = file, file.data.size
        self.claimed: list[tuple[int, int]] = []  # start and end of every structure and tensor
        self.left = MAX_STRUCTURE
        self.heaps: dict[int, dict[int, bytes]] = {}  # texts by index, by the heap's address

    def read(self) -> Contents:
        """Return the contents of the file."""
        begin, self.end, root = self.unpack(SUPERBLOCK_LAYOUT, 0)
        self.require(begin == SUPERBLOCK, "its superblock is of another version")
        self.require(self.end <= self.file.data.size, f"it ends before byte {self.end:,}")
        contents = Contents({}, {})
        queue = [("", root)]
        for path, address in queue:  # grows by the members of each group
            messages = self.messages(address, path)
            if not path:
                contents.attributes.update(self.attributes(messages.pop(ATTRIBUTE, [])))
            if SYMBOL_TABLE in messages:
                queue += self.members(path, messages)
            else:
                contents.tensors[path] = self.dataset(path, messages)
        for (_, stop), (start, _) in pairwise(sorted(self.claimed)):
            self.require(stop <= start, f"its structures overlap at byte {start:,}")
        return contents

    def require(self, valid: bool, text: str) -> None:
        """Raise WeightFileError unless `valid`."""
        if not valid:
            raise WeightFileError(
                f"{self.file.path} is damaged, or not the HDF5 that npgpt writes: {text}"
            )

    def claim(self, start: int, size: int) -> None:
        """Reserve bytes of the file for one structure or tensor."""
        stop = start + size
        self.require(stop <= self.end, f"it ends before byte {stop:,}")
        self.claimed.append((start, stop))

    def structure(self, start: int, size: int) -> bytes:
        """Claim and return the bytes of a structure."""
        self.left -= size
        self.require(self.left >= 0, f"it has over {MAX_STRUCTURE:,} bytes besides the numbers")
        self.claim(start, size)
        return self.file.pages[start : start + size]

    def unpack(self, layout: Struct, start: int) -> tuple[Any, ...]:
        """Claim a structure and return its fields."""
        return layout.unpack(self.structure(start, layout.size))

    def messages(self, address: int, path: str) -> dict[int, list[bytes]]:
        """Return the contents of the messages in an object header, by their types."""
        version, count, size = self.unpack(HEADER, address)
        self.require(version == 1, f"the header of {path!r} has version {version}")
        found: dict[int, list[bytes]] = {}
        blocks = [(address + HEADER.size, size)]
        for start, length in blocks:  # grows by continuations
            block, at = self.structure(start, length), 0
            while at < length:
                kind, size, flags = MESSAGE.unpack_from(block, at)
                begin, at, count = at + MESSAGE.size, at + MESSAGE.size + size, count - 1
                known = kind in MESSAGES and flags <= 1  # 1: constant; others: shared, unknown
                self.require(known, f"{path!r} has a message of type {kind} with flags {flags}")
                if kind == CONTINUATION:
                    blocks.append(TWO_ADDRESSES.unpack_from(block, begin))
                elif kind not in (NIL, FILL_VALUE):
                    found.setdefault(kind, []).append(block[begin:at])
            self.require(at == length, f"a message of {path!r} is longer than its block")
            self.require(count >= 0, f"{path!r} has more messages than its header says")
        self.require(count == 0, f"{path!r} has fewer messages than its header says")
        return found

    # Groups

    def members(self, path: str, messages: dict[int, list[bytes]]) -> list[tuple[str, int]]:
        """Return the path and the object header of each member of a group."""
        (message,) = self.only(path, messages, SYMBOL_TABLE)
        root, heap = TWO_ADDRESSES.unpack_from(message)
        names = self.local_heap(heap)
        found = {}
        for node in self.symbol_nodes(root):
            begin, count = self.unpack(SYMBOL_NODE, node)
            self.require(begin == SYMBOLS, f"{path!r} has no symbols at byte {node:,}")
            symbols = self.structure(node + SYMBOL_NODE.size, count * SYMBOL.size)
            for offset, header, kind in SYMBOL.iter_unpack(symbols):
                text, end, _ = names[offset : offset + MAX_NAME].partition(b"\0")
                name = text.decode("latin-1")
                member = f"{path}/{name}" if path else name
                valid = end and re.fullmatch(r"[\w.]+", name, re.ASCII)
                self.require(bool(valid), f"{path!r} has a member named {name!r}")
                self.require(kind < 2, f"{member!r} is a symbolic link")
                self.require(member not in found, f"it has {member!r} twice")
                self.require(member.count("/") < MAX_DEPTH, f"{member!r} is nested too deeply")
                found[member] = header
        return list(found.items())

    def symbol_nodes(self, root: int) -> list[int]:
        """Return the addresses of the symbol nodes in a B-tree."""
        level, nodes = self.btree_node(root)
        while level > 0:
            below = [self.btree_node(node) for node in nodes]
            level -= 1
            self.require(all(own == level for own, _ in below), "the levels of a B-tree differ")
            nodes = [child for _, children in below for child in children]
        return nodes

    def btree_node(self, address: int) -> tuple[int, list[int]]:
        """Return the level and the children of a node."""
        begin, level, count = self.unpack(BTREE_NODE, address)
        self.require(begin == BTREE, f"it has no B-tree node at byte {address:,}")
        children = self.structure(address + BTREE_NODE.size, count * BTREE_CHILD.size)
        return level, [child for (child,) in BTREE_CHILD.iter_unpack(children)]

    def local_heap(self, address: int) -> bytes:
        """Return the names in a local heap."""
        begin, size, names = self.unpack(LOCAL_HEAP_LAYOUT, address)
        self.require(begin == LOCAL_HEAP, f"it has no local heap at byte {address:,}")
        return self.structure(names, size)

    # Datasets

    def dataset(self, path: str, messages: dict[int, list[bytes]]) -> MappedTensor:
        """Return a dataset that is stored contiguously and completely in this file."""
        space, kind, layout = self.only(path, messages, DATASPACE, DATATYPE, LAYOUT)
        shape = self.shape(path, space)
        dtype = next((name for name, code in DTYPES.items() if kind.startswith(code)), "")
        self.require(dtype != "", f"{path} has another type than {', '.join(DTYPES)}")
        version, storage, start, size = LAYOUT_MESSAGE.unpack_from(layout)
        self.require((version, storage) == CONTIGUOUS, f"{path} is not contiguous")
        tensor = MappedTensor(self.file, start if size else 0, shape, dtype)
        self.require(size == tensor.nbytes, f"{path} has {size:,} bytes for {dtype} of {shape}")
        self.require(start != UNDEFINED or not size, f"{path} is not stored")
        if size:
            self.claim(start, size)
        return tensor

    def only(self, path: str, messages: dict[int, list[bytes]], *kinds: int) -> list[bytes]:
        """Return the messages of these types. They must be the only ones, one of each."""
        found = {kind: len(contents) for kind, contents in messages.items()}
        self.require(found == dict.fromkeys(kinds, 1), f"{path!r} has the messages {found}")
        return [messages[kind][0] for kind in kinds]

    def shape(self, path: str, space: bytes) -> tuple[int, ...]:
        """Return the shape in a dataspace."""
        version, rank, limits = DATASPACE_MESSAGE.unpack_from(space)
        valid = version == 1 and rank <= MAX_RANK and limits <= 1
        self.require(valid, f"{path} has a dataspace of version {version}, rank {rank}")
        shape = Struct(f"<{rank}Q").unpack_from(space, DATASPACE_MESSAGE.size)
        # A size may be anything beside one of 0, and NumPy has a limit.
        self.require(max(shape, default=0) < MAX_SIZE, f"{path} has the shape {shape}")
        return shape

    # Attributes

    def attributes(self, messages: list[bytes]) -> dict[str, int | str]:
        """Return the values of attributes by their names."""
        found = dict(map(self.attribute, messages))
        self.require(len(found) == len(messages), "it has an attribute twice")
        return found

    def attribute(self, message: bytes) -> tuple[str, int | str]:
        """Return the name and the value of an attribute."""
        version, *sizes = ATTRIBUTE_MESSAGE.unpack_from(message)
        self.require(version == 1, f"an attribute has version {version}")
        parts, at = [], ATTRIBUTE_MESSAGE.size
        for size in sizes:
            parts.append(message[at : at + size])
            at += -(-size // 8) * 8
        name, kind, space = parts
        key = name.rstrip(b"\0").decode("latin-1")
        self.require(self.shape(key, space) == (), f"its attribute {key!r} is an array")
        if kind == TEXT_TYPE:
            return key, self.text(key, *TEXT.unpack_from(message, at))
        self.require(kind == DTYPES["int64"], f"its attribute {key!r} is no text and no integer")
        return key, INTEGER.unpack_from(message, at)[0]

    def text(self, key: str, size: int, heap: int, index: int) -> str:
        """Return a text in a global heap."""
        if not size:
            return ""
        if heap not in self.heaps:
            self.heaps[heap] = self.global_heap(heap)
        found = self.heaps[heap].get(index, b"")
        self.require(len(found) == size <= MAX_TEXT, f"the text of {key!r} has {size:,} bytes")
        try:
            return found.decode()
        except UnicodeDecodeError:
            raise WeightFileError(f"{self.file.path}: its {key!r} is not UTF-8") from None

    def global_heap(self, address: int) -> dict[int, bytes]:
        """Return the texts in a global heap by their indices."""
        head = self.file.pages[address : address + GLOBAL_HEAP_LAYOUT.size]
        begin, size = GLOBAL_HEAP_LAYOUT.unpack(head)
        self.require(begin == GLOBAL_HEAP, f"it has no global heap at byte {address:,}")
        heap, at, texts = self.structure(address, size), GLOBAL_HEAP_LAYOUT.size, {}
        while at + HEAP_OBJECT.size <= size:
            index, length = HEAP_OBJECT.unpack_from(heap, at)
            if not index:
                break
            at += HEAP_OBJECT.size
            self.require(at + length <= size, f"a text of the heap at {address:,} is too long")
            self.require(index not in texts, f"the heap at {address:,} has {index} twice")
            texts[index] = heap[at : at + length]
            at += -(-length // 8) * 8
        return texts
