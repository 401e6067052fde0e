"""The formats that npgpt reads: for each, valid files, how to forge them, and how to read them.

A format is made in an empty directory. `forge(rng)` writes its files there, changed, with valid
checksums. `read()` reads them as the commands do and returns the tensors by name.
"""

import json
import os
from dataclasses import replace

import numpy as np
import safetensors

from npgpt.data.tokenizer import REPLACEMENT, tokenizer
from npgpt.errors import InputError
from npgpt.training import run_state
from npgpt.training.curve import COLUMNS, make_curve, read_curve
from npgpt.training.events import Progress
from npgpt.weights import formats, leveldb
from npgpt.weights.hdf5 import read_hdf5
from npgpt.weights.huggingface import read_huggingface
from npgpt.weights.quantized_file import write_quantized
from npgpt.weights.safetensors import read_safetensors
from npgpt.weights.tensor_bundle import read_bundle
from parity_tests.support import bundles, fuzz, fuzz_dumps, tokenizers_of
from parity_tests.support.bundle_bytes import BFLOAT16
from parity_tests.support.bundle_bytes import odd as odd_bundle
from parity_tests.support.fuzz_hdf5 import Base
from parity_tests.support.fuzz_safetensors import forge_safetensors
from parity_tests.support.fuzz_tables import forge_table
from parity_tests.support.weight_files import (
    CONFIG,
    assemble,
    llmc,
    numbers,
    odd,
    parts,
    write_huggingface,
)


class Format:
    """Valid files in a directory."""

    path = "model"  # of the file to read, in the directory

    def __init__(self, directory):
        self.directory = directory
        self.path = directory / type(self).path
        self.make()

    def make(self):
        """Prepare what `forge` changes."""

    def forge(self, rng):
        """Write forged files."""
        raise NotImplementedError

    def read(self, *, verify=True):
        """Read all that is in the files and return the tensors by name."""
        source = formats.open_weights(self.path, verify=verify)
        source.params()
        return source.tensors


class Checkpoint(Format):
    """npgpt's own file, with changed fields of HDF5."""

    def make(self):
        self.bases = [  # one with a B-tree of two levels
            Base(self.path, n_layer=1),
            Base(self.path, run=5, n_layer=1, tied=False),
            Base(self.path, run=0, n_layer=2, qkv_bias=False),
            Base(self.path, n_layer=20),
        ]

    def forge(self, rng):
        self.base = rng.choices(self.bases, [4, 4, 4, 1])[0]
        self.path.write_bytes(self.base.forge(rng))
        self.all = rng.random() < 0.5

    def read(self):
        if not self.all:
            return read_hdf5(self.path).tensors
        tensors = super().read()
        if hasattr(self.base, "state"):
            run_state.read(self.path)
        return tensors


class RunState(Format):
    """The state of a run in npgpt's own file: settings, progress, history, samples."""

    def make(self):
        self.base = Base(self.path, run=5, n_layer=1)

    def forge(self, rng):
        self.path.write_bytes(self.base.forge_state(rng))

    def read(self):
        run_state.read_settings(self.path)
        settings, _, saved = run_state.read(self.path)
        progress = Progress(**saved.state["progress"])
        make_curve(self.path, 16, progress.history)
        for sample in progress.samples:
            tokenizer(settings.tokenizer).decode(sample["tokens"], unknown=REPLACEMENT)
        json.dumps(saved.state)
        return {}


class RunDirectory(Format):
    """config.json and metrics.jsonl of a run."""

    path = ""

    def make(self):
        state = Base(self.path / "model", run=5, n_layer=1).state
        (self.path / "model").unlink()
        self.config = state["settings"] | {"tokens_per_epoch": 16, "total_steps": 9}
        self.metrics = state["progress"]["history"]

    def forge(self, rng):
        config, lines = self.config, [json.dumps(line).encode() for line in self.metrics]
        changed = rng.randrange(3)
        text = fuzz.change_json(config, rng) if changed == 0 else json.dumps(config).encode()
        if changed:
            i = rng.randrange(len(lines))
            lines[i] = fuzz.change_json(self.metrics[i], rng)
        metrics = b"\n".join([*lines, b""])
        if changed == 2:
            metrics = fuzz.change_bytes(metrics, rng, fuzz.as_text)
        (self.path / "config.json").write_bytes(text)
        (self.path / "metrics.jsonl").write_bytes(metrics)

    def read(self):
        curve = read_curve(self.path)
        for name in COLUMNS:
            epochs, values = curve.series(name)
            assert np.isfinite(epochs).all() and np.isfinite(values).all()
            assert not len(values) or np.isfinite(values.max() - values.min())
        run_state.read_settings(self.path)
        return {}


class Safetensors(Format):
    """safetensors with arrays of any kind: read if, and as, the library reads them."""

    path = "model.safetensors"
    OWN_LIMITS = "'F8_", "'F4'", "'F6_", "'C64'", "larger than any", "expected a list of sizes"

    def make(self):
        self.header, self.data = parts(odd(np.random.default_rng(1)))

    def forge(self, rng):
        self.path.write_bytes(forge_safetensors(self.header, self.data, rng))

    def read(self):
        raw = self.path.read_bytes()
        try:
            found = read_safetensors(self.path)
        except InputError as error:
            try:
                safetensors.deserialize(raw)
            except (safetensors.SafetensorError, OverflowError):  # of a length beyond 64 bits
                raise error from None
            assert any(limit in str(error) for limit in self.OWN_LIMITS), error
            raise
        theirs = {name: bytes(tensor["data"]) for name, tensor in safetensors.deserialize(raw)}
        assert {name: tensor.raw().tobytes() for name, tensor in found.items()} == theirs
        return found


class HuggingFace(Format):
    """Hugging Face's directory: config.json, the index, and the header of one of the files."""

    path = ""

    def make(self):
        write_huggingface(self.path / "one", CONFIG, numbers(), hidden_size=8)
        write_huggingface(self.path / "several", CONFIG, numbers(), shards=3)
        self.files = {
            path: path.read_bytes() for path in self.path.glob("*/*") if path.name != "README"
        }

    def forge(self, rng):
        path = rng.choice(sorted(self.files))
        for other in self.files:
            if other.parent == path.parent:
                other.write_bytes(self.files[other])
        self.folder, raw = path.parent, self.files[path]
        if path.suffix == ".json":
            raw = forge_json(raw, rng)
        else:
            end = 8 + int.from_bytes(raw[:8], "little")
            raw = forge_safetensors(json.loads(raw[8:end]), raw[end:], rng)
        path.write_bytes(raw)

    def read(self):
        source = formats.open_weights(self.folder, verify=True)
        source.params()
        return source.tensors


def forge_json(raw, rng):
    """Return a JSON file with a change of a value, or of its bytes."""
    if rng.random() < 0.2:
        return fuzz.change_bytes(raw, rng, fuzz.as_text)
    return fuzz.change_json(json.loads(raw), rng)


class Quantized(Format):
    """npgpt's quantized file: its header, its metadata, and the config in these."""

    def make(self):
        write_huggingface(self.directory, CONFIG, numbers())
        self.good = []
        for weights in ("int8", "bfloat16"):
            write_quantized(self.path, read_huggingface(self.directory), weights)
            raw = self.path.read_bytes()
            end = 8 + int.from_bytes(raw[:8], "little")
            self.good.append((json.loads(raw[8:end]), raw[end:]))

    def forge(self, rng):
        header, data = rng.choice(self.good)
        metadata = header["__metadata__"]
        match rng.choice(["file", "metadata", "config"]):
            case "file":
                raw = forge_safetensors(header, data, rng)
            case "metadata":
                text = fuzz.change_json(header | {"__metadata__": HERE}, rng)
                text = text.replace(HERE_TEXT, fuzz.change_json(metadata, rng))
                raw = assemble(text, data)
            case "config":
                config = fuzz.change_json(json.loads(metadata["config"]), rng).decode("latin-1")
                raw = assemble(header | {"__metadata__": metadata | {"config": config}}, data)
        self.path.write_bytes(raw)

    def read(self):
        source = formats.open_weights(self.path)
        source.params("float32")
        return source.tensors


HERE = "the metadata"
HERE_TEXT = json.dumps(HERE).encode()


class TensorFlow(Format):
    """TensorFlow's checkpoint with arrays of any kind, in two data files."""

    path = "model.ckpt"

    def make(self):
        arrays = dict(list(odd_bundle(np.random.default_rng(1)).items())[:9])
        bundles.write(self.path, arrays, bfloat16=BFLOAT16, shards=2)
        self.index = self.path.with_suffix(".ckpt.index")
        self.pairs = [*leveldb.read_table(self.index)]

    def forge(self, rng):
        self.index.write_bytes(forge_table(self.pairs, rng))
        self.verify = rng.random() < 0.3

    def read(self):
        return read_bundle(self.path, verify=self.verify)


class OpenAI(Format):
    """OpenAI's directory: hparams.json, the index, and the numbers."""

    path = ""

    def make(self):
        bundles.write_gpt2(self.path, CONFIG, numbers())
        self.files = {path: path.read_bytes() for path in self.path.glob("*.*")}
        self.index = self.path / "model.ckpt.index"
        self.pairs = [*leveldb.read_table(self.index)]

    def forge(self, rng):
        for path, raw in self.files.items():
            path.write_bytes(raw)
        path = rng.choice(sorted(self.files))
        if path == self.index:
            path.write_bytes(forge_table(self.pairs, rng))
        elif path.suffix == ".json":
            path.write_bytes(forge_json(self.files[path], rng))
        else:
            path.write_bytes(fuzz.change_bytes(self.files[path], rng))
        self.verify = rng.random() < 0.3

    def read(self):
        return super().read(verify=self.verify)


class LLMC(Format):
    """llm.c's file: the numbers of its header, or any bytes."""

    FIELDS = 8  # numbers of the header that are used

    def make(self):
        config = replace(CONFIG, vocab_size=3, n_embd=2, context_length=2)
        self.good = [llmc(config, numbers(config), version=version, rows=4) for version in (3, 5)]

    def forge(self, rng):
        raw, used = rng.choice(self.good), 4 * self.FIELDS
        match rng.choice(["file", "header", "numbers", "numbers", "numbers"]):
            case "file":
                raw = fuzz.change_bytes(raw, rng, as_int32)
            case "header":
                raw = fuzz.change_bytes(raw[:used], rng, as_int32) + raw[used:]
            case "numbers":
                header = np.frombuffer(raw[:used], "<u4").copy()
                for _ in range(rng.randint(1, 3)):
                    at = rng.randrange(self.FIELDS)
                    near = int(header[at]) + rng.randrange(5)
                    header[at] = rng.choice([rng.choice(fuzz.NUMBERS), near]) % (1 << 32)
                raw = header.tobytes() + raw[used:]
        self.path.write_bytes(raw)


class NumPy(Format):
    """NumPy's archive of arrays, which is always refused."""

    path = "model.npz"

    def make(self):
        np.savez(self.path, **numbers())
        self.good = self.path.read_bytes()

    def forge(self, rng):
        self.path.write_bytes(fuzz.change_bytes(self.good, rng))


def as_int32(number):
    """Return a number as llm.c's header stores it."""
    return (number % (1 << 32)).to_bytes(4, "little")


class OwnTokenizer(Format):
    """The files of a tokenizer, read, and used on a text."""

    path = ""
    TEXT = "the lamp is lit, a\u00e9\U0001f5fc\n <|endoftext|>!"

    def make(self):
        self.bases = [json.loads(one.to_str()) for one in tokenizers_of.small()]
        os.environ["RUST_BACKTRACE"] = "0"  # for which a panic maps 76 MB of the library

    def forge(self, rng):
        for path in self.path.iterdir():
            path.unlink()
        values = rng.choice(self.bases)
        files = {"tokenizer.json": values, "tokenizer_config.json": {"eos_token": {"content": "a"}}}
        if values["model"].get("merges") and rng.random() < 0.3:
            merges = [" ".join(pair).encode() for pair in values["model"]["merges"]]
            text = fuzz.change_bytes(b"\n".join(merges), rng, fuzz.as_text)
            (self.path / "merges.txt").write_bytes(text)
            files = {"vocab.json": values["model"]["vocab"], "added_tokens.json": {"<x>": 60}}
        changed = rng.choice([*files])
        for name, value in files.items():
            raw = fuzz.change_json(value, rng) if name == changed else json.dumps(value).encode()
            (self.path / name).write_bytes(raw)

    def read(self):
        own = tokenizer(self.path)
        ids = own.encode(self.TEXT)
        assert own.decode(ids) == own.decode(ids, unknown="?")
        own.decode([0, own.n_vocab, 1 << 40], unknown="?")
        return {}


class Dump(Format):
    """The dump of a port, or the settings of the probe beside it."""

    def make(self):
        base = fuzz_dumps.Forge(self.path)
        self.forge, self.read = base.forge, base.read


FORMATS = {
    "checkpoint": Checkpoint,
    "run state": RunState,
    "run directory": RunDirectory,
    "safetensors": Safetensors,
    "huggingface": HuggingFace,
    "quantized": Quantized,
    "tensorflow": TensorFlow,
    "openai": OpenAI,
    "llm.c": LLMC,
    "npz": NumPy,
    "tokenizer": OwnTokenizer,
    "dump": Dump,
}
