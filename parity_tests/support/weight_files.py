"""Write Hugging Face's and llm.c's files without npgpt: small ones for tests, valid and forged.

write_huggingface(folder, config, arrays)         config.json and model.safetensors
pack({"a": array})                                the bytes of a safetensors file
assemble(b'{"a": ...}', b"...")                   any header, any numbers
llmc(config, arrays)                              the bytes of llm.c's file
"""

import json
from pathlib import Path

import numpy as np

from npgpt import Config
from npgpt.model.params import named, shapes

CONFIG = Config(vocab_size=257, context_length=12, n_layer=2, n_head=2, n_embd=8)
CODES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
    "bool": "BOOL",
}  # fmt: skip


def numbers(config=CONFIG, seed=1):
    """Return parameters by name, float32, that float16 and bfloat16 represent exactly."""
    rng, arrays = np.random.default_rng(seed), {}
    for name, shape in named(shapes(config)):
        norm = name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight"))
        drawn = rng.integers(64, 192, shape) / 128 if norm else rng.integers(-128, 128, shape) / 512
        arrays[name] = drawn.astype(np.float32)
    return arrays


# safetensors


class Brain(np.ndarray):
    """A uint16 array that represents bfloat16."""


def brain(array):
    """Convert float32 to bfloat16, which must represent it exactly."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    assert not (bits & 0xFFFF).any()
    return (bits >> 16).astype(np.uint16).view(Brain)


def converted(array, dtype):
    """Convert an array to a dtype that represents it exactly."""
    if dtype == "bfloat16":
        return brain(array)
    found = array.astype(dtype)
    assert (found == array).all()
    return found


def odd(rng):
    """Return arrays of all dtypes and several kinds of shapes."""
    arrays = {
        "brain": brain(np.float32([[1.5, -2], [np.inf, 0]])),
        "bool": np.array([True, False]),
        "scalar": np.float32(-0.0),
        "none": np.zeros((3, 0, 2), np.float32),
        "not a number": np.array([np.nan, np.inf, -np.inf, 1e-45], np.float32),
        "größe": np.ones((1, 1, 1, 1)),
        "half": rng.normal(size=7).astype(np.float16),
    }
    for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"):
        info = np.iinfo(name)
        arrays[name] = np.array([info.min, info.max, 1], name)
    return arrays


def pack(arrays):
    """Return a safetensors file of these arrays, with numbers aligned to 8 bytes."""
    header, data = parts(arrays)
    return assemble(header, data, length=-(-len(json.dumps(header)) // 8) * 8)


def parts(arrays):
    """Return the header, as an object, and the numbers."""
    header, data = {}, b""
    for name, array in arrays.items():
        code = "BF16" if isinstance(array, Brain) else CODES[array.dtype.name]
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": offsets}
        data += array.tobytes()
    return header, data


def assemble(header, data=b"", *, length=None):
    """Return a safetensors file with any header, an object or bytes, padded to `length`."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text = text.ljust(length or 0)
    assert length in (None, len(text))
    return len(text).to_bytes(8, "little") + text + data


# Hugging Face's directory


def write_huggingface(
    folder, config, arrays, *, dtype="float32", prefix="", extra=None, shards=1, **changes
):
    """Write the files of a model. `extra`: more arrays. `changes`: fields of config.json; None
    omits one."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        name if name.startswith("lm_head") else prefix + name: converted(array, dtype)
        for name, array in arrays.items()
    } | (extra or {})
    if shards == 1:
        (folder / "model.safetensors").write_bytes(pack(arrays))
    else:
        write_shards(folder, arrays, shards)
    write_config(folder, config, **changes)


def write_shards(folder, arrays, shards):
    """Write the tensors, in turn, into `shards` files, and the index."""
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    places = {name: files[i % shards] for i, name in enumerate(arrays)}
    for file in files:
        inside = {name: array for name, array in arrays.items() if places[name] == file}
        (folder / file).write_bytes(pack(inside))
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def write_config(folder, config, **changes):
    """Write config.json as transformers does for GPT-2."""
    values = {
        "activation_function": "gelu_new",
        "architectures": ["GPT2LMHeadModel"],
        "attn_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "layer_norm_epsilon": 1e-05,
        "model_type": "gpt2",
        "n_ctx": config.context_length,
        "n_embd": config.n_embd,
        "n_head": config.n_head,
        "n_layer": config.n_layer,
        "n_positions": config.context_length,
        "resid_pdrop": config.dropout,
        "tie_word_embeddings": config.tied,
        "vocab_size": config.vocab_size,
    } | changes
    values = {name: value for name, value in values.items() if value is not None}
    (Path(folder) / "config.json").write_text(json.dumps(values))


# llm.c


def llmc(config, arrays, *, version=3, rows=None, **header):
    """Return llm.c's file. `rows`: of wte, padding included. `header`: other numbers in the header.

    256 int32 and then the numbers, in float32 (version 3) or bfloat16 (5): the token embedding,
    zeros below it; the positions; then kind by kind what the blocks have, that of all blocks
    together; the last LayerNorm. llm.c's linear layers are (outputs, inputs).
    """
    rows = -(-config.vocab_size // 128) * 128 if rows is None else rows
    values = {
        "magic": 20240326,
        "version": version,
        "block_size": config.context_length,
        "vocab_size": config.vocab_size,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "rows": rows,
    } | header
    padding = np.zeros((rows - config.vocab_size, config.n_embd), np.float32)
    inside = [np.concatenate([arrays["wte.weight"], padding]), arrays["wpe.weight"]]
    for kind in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"):
        for part in ("weight", "bias"):
            for i in range(config.n_layer):
                inside.append(arrays[f"h.{i}.{kind}.{part}"].T)
    inside += [arrays["ln_f.weight"], arrays["ln_f.bias"]]
    dtype = "bfloat16" if version == 5 else "float32"
    first = np.array([*values.values(), *[0] * (256 - len(values))], "<i4")
    return first.tobytes() + b"".join(converted(array, dtype).tobytes() for array in inside)
