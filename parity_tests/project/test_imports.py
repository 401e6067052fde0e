"""Imports that are slow, and imports that do not exist."""

import ast
import subprocess
import sys

import npgpt
import npgpt.ops
from npgpt.weights import formats
from npgpt.weights.huggingface import write_huggingface
from npgpt.weights.quantized_file import write_quantized
from parity_tests.support.sources import ROOT, SOURCES, named, parsed


def test_importing_npgpt_imports_nothing_slow():
    slow = "numba", "torch", "tensorflow", "matplotlib", "tiktoken", "h5py", "tyro", "rich", "numpy"
    program = f"import sys, npgpt; print(*[m for m in {slow} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (said.stdout.strip(), said.stderr) == ("", "")


def test_generating_from_a_local_model_imports_what_it_needs(tmp_path):
    """HDF5, HTTP and TLS are megabytes beside the weights of a small model in int8."""
    config = npgpt.Config(vocab_size=5, context_length=4, n_layer=1, n_head=1, n_embd=4)
    model = npgpt.GPT(config, ops=npgpt.ops)
    write_huggingface(tmp_path / "model", config, model.params, None, dtype="float32")
    write_quantized(tmp_path / "int8", formats.open_weights(tmp_path / "model"), "int8")
    program = (
        "import sys, npgpt, npgpt.ops\n"
        "from npgpt.weights import formats\n"
        f"source = formats.open_weights({str(tmp_path / 'int8')!r})\n"
        "model = npgpt.GPT.from_params(source.config, source.params('float32'), ops=npgpt.ops)\n"
        "print(len(list(npgpt.generate(model, [1, 2], 3))))\n"
        "print(*[m for m in ('h5py', 'http', 'ssl', 'numba') if m in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (said.stdout.splitlines(), said.stderr) == (["3", ""], "")


def test_no_command_imports_torch():
    program = (
        "import sys, pkgutil, importlib, npgpt\n"
        "for m in pkgutil.walk_packages(npgpt.__path__, 'npgpt.'):\n"
        "    m.name.endswith('__main__') or importlib.import_module(m.name)\n"
        "print('torch' in sys.modules, 'tensorflow' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (said.stdout.strip(), said.stderr) == ("False False", "")


def test_nothing_reads_a_pickle():
    # Numba's format of compiled kernels: read if their digest is right, where only the user writes
    kernels = ROOT / "npgpt/kernels/cache_files.py"
    assert kernels in SOURCES
    for path in set(SOURCES) - {kernels}:
        for node in ast.walk(parsed(path)):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                loaders = {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib"}
                assert not names & loaders, named(path)
            if isinstance(node, ast.keyword):
                assert node.arg != "allow_pickle", named(path)
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in ("np.load", "numpy.load"), named(path)
