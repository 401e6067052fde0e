"""The frames of an answer: JSON with arrays behind it, in a stream.

    4 bytes   n, little-endian
    n bytes   JSON: {"kind": ..., ..., "arrays": {name: [dtype, [sizes]]}, "size": s}
    s bytes   the arrays, in the order of their names in the JSON

kind: "progress" (done, total, text), "event" and "result" (of the view), "error" (message).
`static/api.js` reads them.
"""

import json
from typing import Any

import numpy as np

from npgpt.arrays import Array

DTYPES = {"f4": np.float32, "f8": np.float64, "i4": np.int32, "u1": np.uint8, "u2": np.uint16}


def encode(kind: str, data: dict[str, Any], arrays: dict[str, Array] | None = None) -> bytes:
    """Return one frame. int64 arrays are sent as int32; other dtypes must be in DTYPES."""
    described, parts = {}, []
    for name, array in (arrays or {}).items():
        array = np.asarray(array)
        code = "i4" if array.dtype == np.int64 else array.dtype.str[1:]
        if code not in DTYPES:
            raise TypeError(f"{name} has dtype {array.dtype}, but must be one of {list(DTYPES)}")
        described[name] = [code, list(array.shape)]
        parts.append(np.ascontiguousarray(array, np.dtype(DTYPES[code]).newbyteorder("<")))
    head = {"kind": kind, **data}
    if described:
        head |= {"arrays": described, "size": sum(part.nbytes for part in parts)}
    text = json.dumps(head, allow_nan=False, separators=(",", ":")).encode()
    return b"".join([len(text).to_bytes(4, "little"), text, *(part.tobytes() for part in parts)])
