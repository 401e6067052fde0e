"""Every format gives the same model, is recognized by its contents, and has the same errors."""

import contextlib
import functools
import importlib
import io
import os
import pkgutil
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import npgpt
from npgpt import ops
from npgpt.cli.main import main
from npgpt.errors import InputError, WeightFileError
from npgpt.model.params import map_leaves, named, shapes
from npgpt.system.console import track_progress
from npgpt.weights import formats
from parity_tests.support import bundles
from parity_tests.support.weight_files import CONFIG, llmc, numbers, write_huggingface


def checkpoint(path, config, arrays):
    """Write npgpt's checkpoint."""
    each = iter(arrays.values())
    tree = map_leaves(shapes(config), lambda _: next(each))
    npgpt.GPT.from_params(config, tree, ops=ops, tokenizer="byte").save(path)


def folder(**options):
    """Return a function that writes Hugging Face's directory."""
    return lambda path, *model: write_huggingface(path, *model, **options)


def file(version):
    """Return a function that writes llm.c's file."""
    return lambda path, *model: path.write_bytes(llmc(*model, version=version))


WRITERS = {
    "npgpt": checkpoint,
    "openai": bundles.write_gpt2,
    "huggingface": folder(),
    "huggingface, prefix": folder(prefix="transformer."),
    "huggingface, float16": folder(dtype="float16"),
    "huggingface, bfloat16": folder(dtype="bfloat16"),
    "huggingface, three files": folder(dtype="bfloat16", shards=3),
    "llm.c, version 3": file(3),
    "llm.c, version 5": file(5),
}
MAPPED = "npgpt", "openai", "huggingface", "huggingface, prefix"
each = pytest.mark.parametrize("name", WRITERS)


@pytest.fixture
def written(tmp_path):
    """A function: `written("openai")` writes a small model in that format and returns its path."""

    def write(name, config=CONFIG):
        path = tmp_path / "there"
        WRITERS[name](path, config, numbers(config))
        return path

    return write


# Equal models


@each
def test_every_format_gives_the_same_parameters(written, name):
    model = npgpt.load(written(name))
    assert model.config == CONFIG
    recorded = name.startswith("npgpt") or "quantized" in name
    assert model.tokenizer == ("byte" if recorded else None)
    found, expected = dict(named(model.params)), numbers()
    assert list(found) == list(expected)
    for key, array in expected.items():
        assert found[key].dtype == np.float32
        assert found[key].flags.aligned and found[key].flags.c_contiguous
        assert found[key].tobytes() == array.tobytes(), key


@each
def test_training_does_not_change_the_file(written, name):
    path = written(name)
    files = [path] if path.is_file() else sorted(path.iterdir())
    before = [file.read_bytes() for file in files]
    model = npgpt.load(path, ops=ops)
    optimizer = npgpt.AdamW(model.params, lr=1e-2)
    loss, cache = model.loss([[1, 2, 3]], [[2, 3, 4]])
    optimizer.step(model.backward(cache))
    assert model.loss([[1, 2, 3]], [[2, 3, 4]])[0] < loss
    assert [file.read_bytes() for file in files] == before
    for key, array in named(npgpt.load(path, ops=ops).params):
        np.testing.assert_array_equal(array, numbers()[key], err_msg=key)


WIDE = npgpt.Config(vocab_size=257, context_length=8, n_layer=3, n_head=2, n_embd=192)


@pytest.mark.parametrize("name", MAPPED)
def test_opening_takes_no_memory_for_the_numbers(written, name):
    path = written(name, WIDE)
    npgpt.load(path)  # imports are not counted
    tracemalloc.start()
    model = npgpt.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert model.size * 4 > 5_000_000
    assert peak < 200_000  # the tree, and the description of each array


@pytest.mark.parametrize("name", MAPPED)
def test_pages_are_shared_until_they_are_written(written, name):
    """Linux reports which pages of a mapping are private copies."""
    if not os.path.exists("/proc/self/smaps"):
        pytest.skip("this platform does not report shared pages")
    path = written(name, WIDE)
    model = npgpt.load(path)
    assert sum(float(array.sum()) for _, array in named(model.params))  # all of it is read
    assert copied(path) == 0
    weight = model.params.h[1].mlp.c_fc.weight
    weight += 1
    assert weight.nbytes <= copied(path) <= weight.nbytes + 2 * os.sysconf("SC_PAGESIZE")


def copied(path):
    """Return the bytes of private copies of the pages of the files at `path`."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if not line.split()[0].endswith(":"):  # a mapping begins; its numbers follow
            inside = str(path) in line
        elif inside and line.startswith("Anonymous:"):
            total += 1024 * int(line.split()[1])
    return total


# The format is recognized by the contents


def test_the_name_of_a_file_is_ignored(tmp_path):
    for name, path in {"npgpt": "gpt2_124M.bin", "llm.c, version 3": "model.safetensors"}.items():
        WRITERS[name](tmp_path / path, CONFIG, numbers())
        assert formats.open_weights(tmp_path / path).format == name.split(",")[0]
    WRITERS["huggingface"](tmp_path / "other", CONFIG, numbers())
    (tmp_path / "other/model.safetensors").rename(tmp_path / "other/pytorch_model.bin")
    source = formats.open_weights(tmp_path / "other/pytorch_model.bin")
    assert source.format == "huggingface"


@each
def test_a_link_to_a_file(written, tmp_path, name):
    (tmp_path / "link").symlink_to(written(name))
    assert npgpt.load(tmp_path / "link").config == CONFIG


def test_errors_by_kind(tmp_path):
    """A path without a file is invalid input; a file without a model is an invalid weight file."""
    with pytest.raises(InputError) as missing:
        npgpt.load(tmp_path / "none")
    assert missing.type is InputError
    write_huggingface(tmp_path / "model", CONFIG, numbers())
    for change in (Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1])):
        for file in "config.json", "model.safetensors":
            shutil.copytree(tmp_path / "model", tmp_path / "copy")
            change(tmp_path / "copy" / file)
            with pytest.raises(WeightFileError):
                npgpt.load(tmp_path / "copy")
            shutil.rmtree(tmp_path / "copy")


# Missing and wrong files


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda path: None, "there is no file or directory "),
        (lambda path: path.symlink_to("nowhere"), "there is no file or directory "),
        (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links$"),
        (lambda path: path.mkdir(), "the directory .* has no model; supported are npgpt's "),
        (os.mkfifo, "cannot be read: it is a pipe, not a file$"),
        (lambda path: path.symlink_to("/dev/zero"), "cannot be read: it is a device, not a file$"),
        (lambda path: path.write_bytes(b""), "is not a weight file .* has 0 bytes and begins with"),
        (
            lambda path: path.write_bytes(b"hello, world\n"),
            "is not a weight file .*: it has 13 bytes and begins with b'hello, w'; supported are",
        ),
    ],
    ids=["nothing", "dead link", "loop", "empty folder", "pipe", "device", "empty", "text"],
)
def test_a_path_without_a_model(tmp_path, unreadable, make, says):
    path = tmp_path / "path"
    make(path)
    unreadable(path, says)


FILES = {  # the files of a model in each format
    "npgpt": ["checkpoint.h5"],
    "openai": ["hparams.json", "model.ckpt.index", "model.ckpt.data-00000-of-00001"],
    "huggingface": ["config.json", "model.safetensors"],
    "huggingface, three files": [
        "config.json",
        "model.safetensors.index.json",
        "model-00002-of-00003.safetensors",
    ],
    "llm.c, version 3": ["gpt2_124M.bin"],
}
each_file = pytest.mark.parametrize(
    "name, file", [(name, file) for name, files in FILES.items() for file in files]
)


def put(folder, name):
    """Write a small model and return the path to open."""
    folder.mkdir(exist_ok=True)
    single = len(FILES[name]) == 1
    WRITERS[name](folder / FILES[name][0] if single else folder, CONFIG, numbers())
    return folder / FILES[name][0] if name.startswith("llm.c") else folder


@each_file
def test_a_pointer_of_git_lfs_in_place_of_a_file(tmp_path, unreadable, name, file):
    path = put(tmp_path / "model", name)
    text = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'8' * 64}\nsize 548105171\n"
    (tmp_path / "model" / file).write_text(text)
    unreadable(path, f"{file} is a Git LFS pointer of 134 bytes, not the weights: fetch them with")


@each_file
def test_a_loop_of_links_in_place_of_a_file(tmp_path, unreadable, name, file):
    path = put(tmp_path / "model", name)
    (tmp_path / "model" / file).unlink()
    (tmp_path / "model" / file).symlink_to("a")
    (tmp_path / "model/a").symlink_to(file)
    unreadable(path, f"{file} cannot be read: Too many levels of symbolic links$")


@each_file
def test_a_pipe_or_a_folder_in_place_of_a_file(tmp_path, unreadable, name, file):
    for make in os.mkfifo, os.mkdir:
        path = put(tmp_path / "model", name)
        (tmp_path / "model" / file).unlink()
        make(tmp_path / "model" / file)
        if path.is_dir() and path.name == file:
            continue  # a directory without a model is tested above
        unreadable(path, rf"{file} cannot be read: it is a (pipe|directory), not a file$")
        shutil.rmtree(tmp_path / "model")


@functools.cache
def import_everything():
    """Import what a command imports: the packages of an environment may be open to root alone."""
    for module in pkgutil.walk_packages(npgpt.__path__, "npgpt."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    list(track_progress([], 0))
    with contextlib.redirect_stderr(io.StringIO()):
        main(["inspect", "nothing"])


@contextmanager
def without_root():
    """Without the rights of root, which may read every file."""
    if os.geteuid() != 0:
        yield
        return
    import_everything()
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder():
    """A directory that all users may enter; pytest's belong to one user."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        yield Path(path)


@each_file
def test_a_file_without_permission_to_read(open_folder, unreadable, name, file):
    path = put(open_folder / "model", name)
    with without_root():
        npgpt.load(path)
    (open_folder / "model" / file).chmod(0)
    with without_root():
        unreadable(path, f"{file} cannot be read: Permission denied$")


@pytest.mark.parametrize("rights", [0, 0o444])
@pytest.mark.parametrize("name", FILES)
def test_a_directory_without_permission_to_read(open_folder, unreadable, name, rights):
    path = put(open_folder / "model", name)
    (open_folder / "model").chmod(rights)
    try:
        with without_root():
            unreadable(path, "cannot be read: Permission denied$")
    finally:
        (open_folder / "model").chmod(0o755)


# Failed writes

LIMITED = """
import resource, sys
from npgpt.cli import main as cli
sys.dont_write_bytecode = True  # or modules are cut off at the limit, and are broken for all
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 100, 10_000])
@pytest.mark.parametrize("to", ["huggingface", "llm.c", "npgpt"])
def test_an_export_beyond_the_limit_of_file_sizes(tmp_path, written, to, limit):
    """The limit is reached at the first byte and in the middle."""
    out = tmp_path / "out" / "model"
    out.parent.mkdir()
    line = ["export", "--model", written("huggingface"), "--to", to, "--out", out]
    said = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), *line], capture_output=True, text=True
    )
    assert (said.returncode, said.stdout) == (1, "")
    failed = f"{out} could not be written: File too large; nothing was written"
    assert said.stderr == f"npgpt: {failed}\n"
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("rights", [0o555, 0])
@pytest.mark.parametrize("to", ["huggingface", "llm.c", "npgpt"])
def test_an_export_without_permission_to_write(open_folder, capsys, to, rights):
    path, out = put(open_folder / "model", "huggingface"), open_folder / "closed" / "x"
    out.parent.mkdir()
    out.parent.chmod(rights)
    with without_root():
        assert main(["export", "--model", str(path), "--to", to, "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"npgpt: {out} could not be written: Permission denied")
    assert said.err.count("\n") == 1
