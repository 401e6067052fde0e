"""Dumps: every format gives the same arrays, and a bad one is one line that says why."""

import json
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import torch

import npgpt
from npgpt.errors import InputError
from npgpt.model.params import named
from npgpt.parity import dump as dumps
from npgpt.parity import npy, pairing, probe
from npgpt.parity.dump import Dump
from parity_tests.support.weight_files import brain, pack

META = {"n_head": 2, "grad_clip": None}


@pytest.fixture(scope="module")
def tiny():
    return probe.make()


@pytest.fixture(scope="module")
def directory(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("probes") / "probe"
    probe.write(path, tiny)
    return path


@pytest.fixture(scope="module")
def good(tiny):
    """The tensors of a right port, by npgpt's names."""
    model = npgpt.GPT.from_params(tiny.config, tiny.params, ops="numpy")
    loss, gradients = model.loss_and_gradients(tiny.tokens, tiny.targets)
    found = {"tokens": tiny.tokens, "targets": tiny.targets, "loss": np.float32(loss)}
    found |= {"logits": model.logits(tiny.tokens)}
    for kind, tree in (("param", tiny.params), ("grad", gradients)):
        found |= {f"{kind}/{name}": array.copy() for name, array in named(tree)}
    return found


# Formats


def npz(path, arrays):
    np.savez(path, meta=json.dumps(META), **arrays)


def deflated(path, arrays):
    np.savez_compressed(path, meta=np.frombuffer(json.dumps(META).encode(), np.uint8), **arrays)


def own(path, arrays):
    dumps.write(path, Dump(arrays, META))


def library(path, arrays):
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(a) for name, a in arrays.items()}, path,
        metadata={"meta": json.dumps(META)},
    )  # fmt: skip


def folder(path, arrays):
    for name, array in arrays.items():
        file = path / f"{name}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, array)
    (path / "meta.json").write_text(json.dumps(META))


@pytest.mark.parametrize("write", [npz, deflated, own, library, folder])
def test_formats_hold_the_same(write, good, directory, tmp_path):
    good = good | {"grad/wte.weight": np.asfortranarray(good["grad/wte.weight"])}
    path = tmp_path / "dump.npz"
    write(path, good)
    _, found = pairing.read(directory, path)
    assert found.meta == META
    assert found.path == str(path)
    assert found.tensors.keys() == good.keys()
    for name, array in good.items():
        np.testing.assert_array_equal(found.tensors[name], array, strict=True, err_msg=name)


KINDS = ["<f2", "<f4", ">f4", "<f8", ">f8", "<i4", ">i8", "|u1", "|b1"]


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_the_machines(kind, tmp_path):
    array = np.arange(6).reshape(2, 3).astype(kind)
    np.savez(tmp_path / "x.npz", a=array, b=array.T, empty=array[:0], one=array[1, 1])
    found = dumps.read(tmp_path / "x.npz").tensors
    expected = array.astype(array.dtype.newbyteorder("="))
    for name, its in (("a", expected), ("b", expected.T), ("empty", expected[:0])):
        np.testing.assert_array_equal(found[name], its, strict=True)
        assert found[name].dtype.isnative
    assert (found["one"].shape, found["one"]) == ((), expected[1, 1])


def test_bfloat16_is_widened(tmp_path):
    array = np.float32([[1.5, -0.125], [0, 3e38]])
    bits = (array.view(np.uint32) >> 16).astype(np.uint16)
    wide = (bits.astype(np.uint32) << 16).view(np.float32)
    np.savez(tmp_path / "x.npz", a=bits.view("V2"))  # as ml_dtypes' bfloat16 is stored
    (tmp_path / "y.safetensors").write_bytes(pack({"a": brain(wide)}))
    for name in ("x.npz", "y.safetensors"):
        found = dumps.read(tmp_path / name).tensors["a"]
        np.testing.assert_array_equal(found, wide, strict=True)


def test_numbers_that_are_no_arrays_yet(good, tiny):
    """A test of a port may give PyTorch's tensors, floats and lists."""
    odd = good | {
        "loss": torch.tensor(2.5, requires_grad=True),
        "grad/wpe.weight": torch.tensor(good["grad/wpe.weight"]).bfloat16(),
        "tokens": tiny.tokens.tolist(),
    }
    found = pairing.check(Dump(odd), tiny).tensors
    assert found["loss"] == 2.5
    assert found["grad/wpe.weight"].dtype == np.float32
    np.testing.assert_array_equal(found["tokens"], tiny.tokens)
    with pytest.raises(InputError, match=r"'grad/x' is .*, but must be"):
        pairing.check(Dump({"grad/x": object()}), tiny)


# Bad dumps, of which each is one line


class Trap:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def without(*prefixes):
    return lambda found: {n: a for n, a in found.items() if not n.startswith(prefixes)}


def changed(name, change):
    return lambda found: found | {name: change(found[name])}


def at(index, value):
    def change(array):
        array = array.copy()
        array[index] = value
        return array

    return change


def of_another_model(found):
    rng = np.random.default_rng(1)
    new = {n: rng.normal(size=a.shape) for n, a in found.items() if n.startswith("param/")}
    return found | new


def of_another_size(found):
    new = {n: np.zeros([2 * size for size in a.shape]) for n, a in found.items() if "/" in n}
    return {name: array for name, array in found.items() if name != "logits"} | new


BAD = {
    "no loss and no gradients": (without("loss", "grad"), "has neither loss nor gradients"),
    "nan": (
        lambda f: changed("param/wpe.weight", at((3, 2), np.nan))(
            changed("loss", lambda _: np.nan)(f)),
        r"param/wpe.weight has 1 of 110 numbers that are nan or infinite, the first at \(3, 2\)"),
    "fewer rows": (changed("tokens", lambda x: x[:2]), r"another batch: .* \(2, 9\), the "),
    "other tokens": (changed("tokens", at((1, 4), 7)), r"another batch: 1 of 27 .* at \(1, 4\)"),
    "other weights": (of_another_model, "another model: its parameters .* are not the probe's"),
    "other sizes": (of_another_size, "another model: .* whose n_embd is 10"),
    "other vocabulary": (changed("logits", lambda x: x[..., :9]), "another model: its logits"),
    "a pickle": (lambda f: f | {"x": np.array([{}], object)}, "'x' is a pickle, which is refused"),
    "a name": (lambda f: f | {"x" * 201: np.ones(1)}, "names must be printable, of at most 200"),
    "a line in a name": (lambda f: f | {"x\ny": np.ones(1)}, r"named 'x\\ny'; names must be"),
    "complex": (lambda f: f | {"x": np.ones(2, complex)}, "'x' has the type '<c16'"),
    "text": (lambda f: f | {"x": np.array("abc")}, "'x' is <U3, but must be integers or floats"),
    "fields": (lambda f: f | {"x": np.zeros(2, "f4,i4")}, "'x' has the header .*, expected num"),
    "meta": (lambda f: f | {"meta": np.array("{")}, "its meta is not JSON"),
    "losses": (changed("loss", lambda _: np.ones(27)), r"its loss has the shape \(27,\), but must"),
    "no meta": (lambda f: f | {"meta": np.ones(3)}, "its meta is None, expected JSON"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_dump_is_one_line(what, good, directory, tmp_path):
    change, said = BAD[what]
    path = tmp_path / "dump.npz"
    np.savez(path, **change(good))
    with pytest.raises(InputError, match=said) as caught:
        pairing.read(directory, path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_parameters_of_another_dtype_are_recognized(dtype, good, tiny):
    halves = {n: a.astype(dtype) if n.startswith("param/") else a for n, a in good.items()}
    pairing.check(Dump(halves), tiny)


def test_a_model_in_place_of_the_probe_takes_the_dumps_batch(good, directory, tmp_path):
    np.savez(tmp_path / "x.npz", **good)
    found, _ = pairing.read(directory / "model.bin", tmp_path / "x.npz")
    np.testing.assert_array_equal(found.targets, good["targets"])
    np.savez(tmp_path / "x.npz", **good | {"tokens": good["tokens"] + 29})
    with pytest.raises(InputError, match="another model: token id 57 is outside"):
        pairing.read(directory / "model.bin", tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", **without("targets")(good))
    with pytest.raises(InputError, match="has tokens alone: beside a model, it must hold tokens"):
        pairing.read(directory / "model.bin", tmp_path / "x.npz")


# Files


def test_no_pickle_is_loaded(tmp_path, directory):
    mark = tmp_path / "mark"
    files = {"x.pkl": pickle.dumps(Trap(mark), 2), "y.npy": b"", "x.pt": b""}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    np.save(tmp_path / "y.npy", np.array([Trap(mark)], object))
    np.savez(tmp_path / "z.npz", loss=1.0, x=np.array([Trap(mark)], object))
    torch.save({"loss": Trap(mark)}, tmp_path / "x.pt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "y.npy").rename(tmp_path / "folder" / "y.npy")
    for name in ("x.pkl", "z.npz", "x.pt", "folder"):
        with pytest.raises(InputError, match=r"pickle.* refused"):
            pairing.read(directory, tmp_path / name)
    assert not mark.exists()


def save(path, member, *, header=None, numbers=b"", count=1, start=b"\x93NUMPY\1\0", size=None):
    """Write an archive of .npy files whose header is this text."""
    text = (header or "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }").encode("latin-1")
    length = len(text) if size is None else size
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(count):
            content = start + length.to_bytes(2, "little") + text + numbers
            archive.writestr(f"{i or ''}{member}", content)


HEADER = "{{'descr': '{}', 'fortran_order': False, 'shape': {}, }}"
FORGED = {
    "another file": (dict(member="x.txt"), "'x.txt', which is no .npy array"),
    "no array": (dict(member="x.npy", start=b"\x93NUMPX\1\0"), "is not an .npy array"),
    "of the future": (dict(member="x.npy", start=b"\x93NUMPY\4\0"), "is not an .npy array"),
    "too short": (dict(member="x.npy", numbers=bytes(7)), "7 bytes of numbers, but 8 are needed"),
    "too long": (dict(member="x.npy", numbers=bytes(9)), "9 bytes of numbers, but 8 are needed"),
    "a long header": (dict(member="x.npy", header=" " * 10001), "10,001 bytes; at most 10,000"),
    "a short header": (dict(member="x.npy", size=9000), "has 0 bytes of numbers"),
    "a call": (dict(member="x.npy", header=HEADER.format("<f4", "(exit(),)")), "has the header"),
    "negative": (dict(member="x.npy", header=HEADER.format("<f4", "(-2,)")), "has the header"),
    "huge": (dict(member="x.npy", header=HEADER.format("<f4", f"({1 << 40}, {1 << 40})")),
             "is larger than any array"),
    "digits": (dict(member="x.npy", header=HEADER.format("<f4", f"({'9' * 5000},)")), "the shape"),
    "axes": (dict(member="x.npy", header=HEADER.format("<f4", f"({'1,' * 65})")), "the shape"),
    "claimed": (dict(member="x.npy", header=HEADER.format("<f4", f"({1 << 30},)")),
                "0 bytes of numbers, but 4,294,967,296 are needed"),
    "wide": (dict(member="x.npy", header=HEADER.format("<f16", "(2,)")), "has the type '<f16'"),
    "many": (dict(member="x.npy", count=3), "has 3 arrays; at most 2 are read"),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_archive_is_one_line(what, tmp_path, monkeypatch):
    options, said = FORGED[what]
    monkeypatch.setattr(npy, "MAX_FILES", 2)
    save(tmp_path / "x.npz", **options)
    with pytest.raises(InputError, match=said) as caught:
        dumps.read(tmp_path / "x.npz")
    assert "\n" not in str(caught.value)


def test_other_files_are_refused(tmp_path, directory, tiny):
    np.save(tmp_path / "x.npy", np.ones(2))
    with pytest.warns(UserWarning, match="Duplicate name"):
        with zipfile.ZipFile(tmp_path / "twice.npz", "w") as archive:
            for _ in range(2):
                archive.writestr("x.npy", (tmp_path / "x.npy").read_bytes())
    np.savez(tmp_path / "cut.npz", loss=np.ones(999))
    cut = (tmp_path / "cut.npz").read_bytes()[:900]
    (tmp_path / "cut.npz").write_bytes(cut)
    state = directory / "model.bin"
    (tmp_path / "state.bin").write_bytes((20240327).to_bytes(4, "little") + bytes(2000))
    for path, said in [
        (tmp_path / "twice.npz", "has 'x' twice"),
        (tmp_path / "cut.npz", "truncated, damaged or not an .npz file"),
        (tmp_path / "none.npz", "there is no file"),
        (state, "is no dump: .* supported are .npz, safetensors, a folder"),
        (tmp_path / "state.bin", "has version 0; supported is 2"),
    ]:
        with pytest.raises(InputError, match=said):
            dumps.read(path, tiny.config)
    with pytest.raises(InputError, match="which needs a probe"):
        dumps.read(tmp_path / "state.bin")


def test_an_archive_may_not_grow_without_bound(tmp_path, tiny):
    """Zeros are deflated 1000 times: a small file would fill the memory."""
    np.savez_compressed(tmp_path / "x.npz", loss=np.zeros(1 << 20))
    with pytest.raises(InputError, match="of arrays; at most 1,000,000 are read"):
        npy.read_archive(tmp_path / "x.npz", 1_000_000)
    assert dumps.limit(tiny.config) < 1 << 29
    np.savez(tmp_path / "y.npz", loss=np.zeros(1 << 20))  # no larger than its file
    assert npy.read_archive(tmp_path / "y.npz", 1_000_000)["loss"].size == 1 << 20


def test_a_folder_may_not_be_without_end(tmp_path, monkeypatch):
    folder(tmp_path / "x", {f"{i}": np.ones(3) for i in range(3)})
    with pytest.raises(InputError, match="more than 300 bytes of arrays"):
        npy.read_folder(tmp_path / "x", 300)
    monkeypatch.setattr(npy, "MAX_FILES", 2)
    with pytest.raises(InputError, match="more than 2 arrays"):
        npy.read_folder(tmp_path / "x")
