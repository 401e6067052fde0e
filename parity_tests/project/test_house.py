"""The rules of the house that a program can check."""

import ast
import doctest
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import npgpt
import npgpt.ops
from npgpt.weights import formats
from npgpt.weights.huggingface import write_huggingface
from npgpt.weights.quantized_file import write_quantized

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = "npgpt", "reference", "parity_tests", "benchmarks", "docs"
SOURCES = sorted((ROOT / "npgpt").rglob("*.py"))
PUBLIC = {
    "AdamW", "Config", "GPT", "Generator", "InputError", "RunError",
    "generate", "load", "named", "tokenizer",
}  # fmt: skip


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_public_names_are_these_and_each_is_there():
    assert set(npgpt.__all__) == PUBLIC
    assert len(npgpt.__all__) == len(PUBLIC)
    for name in npgpt.__all__:
        assert callable(getattr(npgpt, name)), name
        assert name in dir(npgpt)
    with pytest.raises(AttributeError, match="no attribute 'Gpt'"):
        npgpt.Gpt  # noqa: B018


def test_no_public_name_is_a_module_too():
    """Importing npgpt.generate, were there such a module, would set `npgpt.generate` to it."""
    modules = {path.stem for path in (ROOT / "npgpt").glob("*")}
    assert modules & set(npgpt.__all__) == set()


def test_importing_npgpt_imports_nothing_slow():
    slow = "numba", "torch", "tensorflow", "matplotlib", "tiktoken", "h5py", "tyro", "rich", "numpy"
    program = f"import sys, npgpt; print(*[m for m in {slow} if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (said.stdout.strip(), said.stderr) == ("", "")


def test_generating_from_a_local_model_imports_what_it_needs(tmp_path):
    """HDF5, HTTP and TLS are megabytes beside the weights of a small model in int8."""
    config = npgpt.Config(vocab_size=5, context_length=4, n_layer=1, n_head=1, n_embd=4)
    model = npgpt.GPT(config, ops=npgpt.ops)
    write_huggingface(tmp_path, config, model.params, None, dtype="float32")
    write_quantized(tmp_path / "int8", formats.open_weights(tmp_path), "int8")
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


def test_the_example_in_the_package_runs():
    failed, tried = doctest.testmod(npgpt)
    assert tried >= 5
    assert failed == 0


def test_nothing_reads_a_pickle():
    for path in SOURCES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                loaders = {"pickle", "cPickle", "dill", "marshal", "shelve", "joblib"}
                assert not names & loaders, named(path)
            if isinstance(node, ast.keyword):
                assert node.arg != "allow_pickle", named(path)
            if isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in ("np.load", "numpy.load"), named(path)


def test_what_is_public_says_what_it_is():
    """Modules, functions, classes and methods; NamedTuples and Protocols speak by their fields."""
    silent = []
    for path in SOURCES:
        tree = parsed(path)
        for node in [tree, *tree.body]:
            if not isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)):
                continue
            name = getattr(node, "name", "the module")
            bases = {ast.unparse(base) for base in getattr(node, "bases", [])}
            if name.startswith("_") or bases & {"NamedTuple", "Protocol"}:
                continue
            methods = [
                m
                for m in getattr(node, "body", [])
                if isinstance(node, ast.ClassDef) and isinstance(m, ast.FunctionDef)
                if not m.name.startswith("_")
            ]
            silent += [
                f"{named(path)}: {name}" + (f".{one.name}" if one is not node else "")
                for one in [node, *methods]
                if not ast.get_docstring(one)
            ]
    assert silent == []


def readme_tree() -> set[str]:
    """The paths in README's tree: the fenced block whose first line begins with `npgpt/`.

    Each line is a name, indented by two spaces per level, then at least two spaces and a comment;
    a folder's name ends with a slash. Several names may share a line, one space between them.
    """
    text = (ROOT / "README.md").read_text("utf-8")
    block = re.search(r"^```\w*\n(npgpt/.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert block, "README.md has no fenced block that begins with npgpt/"
    paths, folders = set(), []
    for line in filter(str.strip, block[1].splitlines()):
        depth = (len(line) - len(line.lstrip(" "))) // 2
        assert depth <= len(folders), f"README's tree is indented too far at: {line}"
        names = re.split(r"\s{2,}", line.strip())[0].split(" ")
        for name in names:
            paths.add("/".join([*folders[:depth], name.rstrip("/")]))
        if names[-1].endswith("/"):
            folders = [*folders[:depth], names[-1].rstrip("/")]
    return paths


def test_the_tree_in_the_readme_is_the_tree():
    shown = readme_tree()
    there = {named(path) for folder in FOLDERS for path in (ROOT / folder).rglob("*")}
    there = {path for path in there if "__pycache__" not in path and "/." not in path}
    there |= set(FOLDERS)
    shown = {path for path in shown if path.split("/")[0] in FOLDERS}
    assert shown - there == set(), "in README's tree, but not there"
    # a folder may be shown as a whole: then what is in it need not be listed
    whole = {path for path in shown if not any(other.startswith(path + "/") for other in shown)}
    inside = {path for path in there if any(path.startswith(folder + "/") for folder in whole)}
    assert there - shown - inside == set(), "there, but not in README's tree"


def test_every_package_is_installed():
    """A folder that pyproject.toml does not list would be missing from the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    listed = project["tool"]["setuptools"]["packages"]
    folders = {named(path.parent).replace("/", ".") for path in SOURCES}
    assert set(listed) == folders
