"""Forge safetensors files: their bytes, header, entries and metadata."""

import json
import math

from parity_tests.support import fuzz
from parity_tests.support.weight_files import assemble


def forge_safetensors(header, data, rng):
    """Return a safetensors file with a change of its bytes, its header, an entry or metadata."""
    text = json.dumps(header).encode()
    match rng.choice(["file", "length", "header", "json", "entry", "numbers", "metadata"]):
        case "file":
            return fuzz.change_bytes(assemble(header, data), rng)
        case "length":
            raw = assemble(header, data)
            return fuzz.change_bytes(raw[:8], rng)[:8].ljust(8, b"\0") + raw[8:]
        case "header":
            return assemble(fuzz.change_bytes(text, rng, fuzz.as_text), data)
        case "json":
            return assemble(fuzz.change_json(header, rng), data)
        case "numbers":
            return assemble(header, fuzz.change_bytes(data, rng))
        case "metadata":
            value = rng.choice(fuzz.VALUES)
            metadata = rng.choice([value, {"format": value}, {"format": "pt", "": value}])
            return assemble(header | {"__metadata__": metadata}, data)
    name = rng.choice([name for name in header if name != "__metadata__"])
    return assemble(header | {name: change_entry(header[name], rng)}, data)


SAME_SIZE = ["F32", "I32", "U32"], ["F16", "BF16", "I16", "U16"], ["I8", "U8", "BOOL"]


def change_entry(about, rng):
    """Return the entry of a tensor with one to three other values, or numbers in its lists."""
    about = dict(about)
    if rng.random() < 0.3:  # of the same size in bytes
        shape = about["shape"]
        size = math.prod(shape)
        about["shape"] = rng.choice([shape, shape[::-1], [1, *shape], [*shape, 1], [size]])
        codes = next((codes for codes in SAME_SIZE if about["dtype"] in codes), [about["dtype"]])
        about["dtype"] = rng.choice(codes)
        return about
    for _ in range(rng.randint(1, 3)):
        key, value = rng.choice([*about]), rng.choice(fuzz.VALUES)
        if isinstance(about[key], list) and about[key] and rng.random() < 0.5:
            value = [*about[key][:-1], value] if rng.random() < 0.5 else [value, *about[key][1:]]
        about[key] = value
    return about
