"""Write TensorFlow's checkpoints without TensorFlow: small ones for tests, valid and forged.

npgpt/weights/tensor_bundle.py explains the format; test_tensorflow.py has TensorFlow read what is
written here.

    write_gpt2(folder, config, parameters)         a folder as OpenAI released them
    write(tmp_path / "model.ckpt", {"a": array})   any arrays
    table([(b"", header()), (b"a", entry(...))])   any bytes
"""

import json
import re
from pathlib import Path

import numpy as np

from npgpt.weights.crc32c import crc32c, mask

DTYPES = {
    "float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "int64": 9,
    "bfloat16": 14, "uint16": 17, "float16": 19, "uint32": 22, "uint64": 23,
}  # fmt: skip


# OpenAI's directory


def write_gpt2(folder, config, parameters):
    """{checkpoint name: array} of a tied model -> checkpoint, hparams.json, model.ckpt.*"""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "model.ckpt", openai(parameters))
    write_hparams(folder, config)
    (folder / "checkpoint").write_text(
        'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n'
    )


def write_hparams(folder, config):
    """Write hparams.json, with OpenAI's names for the fields of a Config."""
    values = {
        "n_vocab": config.vocab_size,
        "n_ctx": config.context_length,
        "n_embd": config.n_embd,
        "n_head": config.n_head,
        "n_layer": config.n_layer,
    }
    (Path(folder) / "hparams.json").write_text(json.dumps(values))


def openai(parameters):
    """{checkpoint name: array} -> the same under OpenAI's names and in OpenAI's shapes."""
    return {openai_name(n): array[None] if matrix(n) else array for n, array in parameters.items()}


def openai_name(name):
    """h.3.attn.c_attn.weight -> model/h3/attn/c_attn/w"""
    name = re.sub(r"^h\.(\d+)", r"h\1", name)
    name = re.sub(r"^(w[tp]e)\.weight$", r"\1", name)
    name = re.sub(r"(ln_.)\.weight$", r"\1.g", name).removesuffix("eight").removesuffix("ias")
    return "model/" + name.replace(".", "/")


def matrix(name):
    """Return True if OpenAI stored this parameter with a leading axis of 1."""
    return re.fullmatch(r"h\..*\.c_\w+\.weight", name) is not None


# A bundle of arrays


def write(prefix, arrays, *, bfloat16=(), shards=1, block_size=1 << 18):
    """Write arrays, in turn into `shards` data files.

    bfloat16: the names of those, uint16, that are to be taken as such.
    """
    data, entries = [b""] * shards, {}
    for i, (name, array) in enumerate(arrays.items()):
        raw = np.ascontiguousarray(array).tobytes()
        dtype = "bfloat16" if name in bfloat16 else array.dtype.name
        entries[name.encode()] = entry(
            dtype, array.shape, raw, offset=len(data[i % shards]), shard=i % shards
        )
        data[i % shards] += raw
    for shard, content in enumerate(data):
        Path(f"{prefix}.data-{shard:05}-of-{shards:05}").write_bytes(content)
    index = table([(b"", header(shards)), *sorted(entries.items())], block_size)
    Path(f"{prefix}.index").write_bytes(index)


def header(shards=1, endianness=0, version=b"\x08\x01"):
    """BundleHeaderProto"""
    return field(1, shards) + field(2, endianness) + field(3, version)


def entry(dtype, shape, raw, offset=0, shard=0, **changes):
    """BundleEntryProto of the bytes `raw`. `changes`: other values of its fields, or more bytes."""
    values = {
        "kind": DTYPES[dtype],
        "shape": b"".join(field(2, field(1, n)) for n in shape),
        "shard": shard,
        "offset": offset,
        "size": len(raw),
        "crc": mask(crc32c(raw)).to_bytes(4, "little"),
        "more": b"",
    } | changes
    *fields, crc, more = values.values()
    return b"".join(field(i, v) for i, v in enumerate(fields, 1)) + varint(6 << 3 | 5) + crc + more


def field(number, value):
    """Return a field of a protobuf message: a number, or bytes."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value) if value else b""


def varint(value):
    """Return a number of at most 64 bits as a varint, a negative one as 64 bits."""
    value, out = value % (1 << 64) if value < 0 else value, b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


# A table of pairs


def table(pairs, block_size=1 << 18):
    """A LevelDB table of sorted pairs, with blocks of about `block_size` bytes."""
    blocks, now, size = [], [], 0
    for key, value in pairs:
        now.append((key, value))
        size += len(key) + len(value)
        if size >= block_size:
            blocks, now, size = [*blocks, now], [], 0
    blocks += [now] if now else []
    return assemble([(b[-1][0], block(b)) for b in blocks])


def block(pairs, interval=16):
    """A block of sorted pairs, with a complete key every `interval` pairs."""
    out, restarts, before = b"", [], b""
    for i, (key, value) in enumerate(pairs):
        shared = 0
        if i % interval == 0:
            restarts.append(len(out))
        else:
            alike = (a != b for a, b in zip(before, key, strict=False))
            shared = next((n for n, differ in enumerate(alike) if differ), len(before))
        out += pair(shared, key[shared:], value)
        before = key
    restarts = restarts or [0]
    return out + b"".join(n.to_bytes(4, "little") for n in [*restarts, len(restarts)])


def pair(shared, rest, value):
    """Return a pair of a block."""
    return varint(shared) + varint(len(rest)) + varint(len(value)) + rest + value


def assemble(blocks, *, change_index=bytes, kind=0):
    """[(last key, block)] -> a table, with valid checksums. `change_index`: bytes -> bytes."""
    out, pairs = b"", []
    for key, content in blocks:
        pairs.append((key, handle(len(out), content)))
        out += content + trailer(content, kind)
    handles = b""
    for content in (block([]), change_index(block(pairs, interval=1))):
        handles += handle(len(out), content)
        out += content + trailer(content)
    return out + handles.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


def handle(offset, content):
    """Return the handle of a block."""
    return varint(offset) + varint(len(content))


def trailer(content, kind=0):
    """Return the trailer of a block."""
    return bytes([kind]) + mask(crc32c(content + bytes([kind]))).to_bytes(4, "little")
