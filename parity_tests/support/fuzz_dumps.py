"""Forge dumps of a port: archives and folders of .npy files, safetensors, llm.c's debug state."""

import io
import json
import zipfile

import numpy as np

import npgpt
from npgpt.parity import pairing, probe
from parity_tests.support import fuzz
from parity_tests.support.fuzz_safetensors import forge_safetensors
from parity_tests.support.weight_files import pack

NUMBERS = [  # in a header of an .npy file
    b"<f4", b"<f8", b">i2", b"|b1", b"|V2", b"|O", b"<U3", b"<c8", b"<f16", b"True", b"False",
    b"(3, 9)", b"(9, 3)", b"(27,)", b"()", b"(1, 27)", b"(0,)", b"(99999999999,)", b"[]", b"{}",
]  # fmt: skip


class Forge:
    """A probe's directory, and the dump of a right port in each format, to be changed."""

    def __init__(self, directory):
        one, self.directory = probe.make(ignored=False), directory
        probe.write(directory / "probe", one)
        model = npgpt.GPT.from_params(one.config, one.params, ops="numpy")
        loss, gradients = model.loss_and_gradients(one.tokens, one.targets)
        self.arrays = {"tokens": one.tokens, "targets": one.targets, "loss": np.float32(loss)}
        self.arrays |= {f"grad/{n}": a for n, a in [*npgpt.named(gradients)][-4:]}
        self.arrays |= {"param/ln_f.bias": one.params.ln_f.bias}
        self.files = {f"{name}.npy": to_npy(array) for name, array in self.arrays.items()}
        meta = {"n_head": 2, "optimizer": {"name": "adam", "betas": [0.5, 0.5]}}
        self.meta, self.state = meta, (directory / "probe" / "debug_state.bin").read_bytes()
        raw = pack(self.arrays)
        end = 8 + int.from_bytes(raw[:8], "little")
        self.header, self.data = json.loads(raw[8:end]), raw[end:]
        self.settings = json.loads((directory / "probe" / "settings.json").read_text())

    def forge(self, rng):
        """Write a forged dump, and sometimes forged settings."""
        (self.directory / "dump").write_bytes(self.dump(rng))
        text = json.dumps(self.settings).encode()
        if rng.random() < 0.2:
            text = fuzz.change_json(self.settings, rng)
        (self.directory / "probe" / "settings.json").write_bytes(text)

    def read(self):
        """Read both, as `npgpt diagnose` does."""
        one, dump = pairing.read(self.directory / "probe", self.directory / "dump")
        one.settings.with_meta(dump.meta)
        return {}

    def archive(self, rng):
        """Return an .npz, or ZIP archive, with a change of its bytes, a member or the meta."""
        files = dict(self.files)
        where = rng.choice(["file", "end", "member", "header", "header", "numbers", "meta"])
        name = rng.choice([*files])
        start, header, numbers = files[name][:10], files[name][10:128], files[name][128:]
        if where == "member":
            files[name] = fuzz.change_bytes(files[name], rng)
        elif where == "header":
            files[name] = start + change_header(header, rng) + numbers
        elif where == "numbers":
            files[name] = start + header + rng.randbytes(len(numbers))
        elif where == "meta":
            files["meta.npy"] = to_npy(np.frombuffer(fuzz.change_json(self.meta, rng), np.uint8))
        raw = io.BytesIO()
        kind = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
        with zipfile.ZipFile(raw, "w", kind) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        content = raw.getvalue()
        if where == "file":
            return fuzz.change_bytes(content, rng)
        if where == "end":  # the list of members
            end = content.index(b"PK\1\2")
            return content[:end] + fuzz.change_bytes(content[end:], rng)
        return content

    def debug_state(self, rng):
        """Return a debug state with a change of its header, or of any bytes."""
        if rng.random() < 0.5:
            return fuzz.change_bytes(self.state, rng)
        header = np.frombuffer(self.state[:16], "<u4").copy()
        header[rng.randrange(4)] = rng.choice(fuzz.NUMBERS) % (1 << 32)
        return header.tobytes() + self.state[16:]

    def dump(self, rng):
        """Return a changed dump in one of the formats."""
        match rng.choice(["archive", "archive", "safetensors", "debug state"]):
            case "archive":
                return self.archive(rng)
            case "safetensors":
                return forge_safetensors(self.header, self.data, rng)
        return self.debug_state(rng)


def to_npy(array):
    """Return the bytes of an .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def change_header(header, rng):
    """Return the header of an .npy file, of the same length, with another value or bytes."""
    if rng.random() < 0.3:
        return fuzz.change_bytes(header, rng, fuzz.as_text)[: len(header)].ljust(len(header))
    parts = header.rstrip().split(b": ")
    i = rng.randrange(1, len(parts))
    old = parts[i].rsplit(b", '", 1)
    value = rng.choice(NUMBERS)
    value = b"'%s'" % value if i == 1 and value[:1] in b"<>|" else value
    parts[i] = b", '".join([value, *old[1:]]) if i < len(parts) - 1 else value + b", }"
    return b": ".join(parts)[: len(header) - 1].ljust(len(header) - 1) + b"\n"
