"""Packages, files and their sizes, as README and pyproject.toml describe them."""

import ast
import re
import sys
import tomllib

from parity_tests.support.sources import ROOT, SOURCES, named, parsed

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
FOLDERS = "npgpt", "reference", "parity_tests", "benchmarks", "docs"


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
    listed = PROJECT["tool"]["setuptools"]["packages"]
    folders = {named(path.parent).replace("/", ".") for path in SOURCES}
    assert set(listed) == folders


# Counted: what is not counted grows


PACKAGES = {
    "cli", "data", "distributed", "download", "evaluation", "explain", "export", "finetuning",
    "fused", "inference", "kernels", "learn", "mixed", "model", "ops", "parity", "performance",
    "play", "serve", "show", "system", "testing", "training", "weights",
}  # fmt: skip
MODULES = {
    "__init__", "__main__", "arrays", "backends", "config", "config_checks", "errors", "gpt",
    "harness", "loading", "preset", "quantized_matrix", "rng",
}  # fmt: skip
LAYERS = 15
LINES = 400
CHECKED = "npgpt", "reference", "parity_tests", "benchmarks"


def test_what_lies_at_the_top():
    """A new package has a purpose that none of these has; a module there is for users."""
    folders = {path.parent.name for path in (ROOT / "npgpt").glob("*/*.py")}
    assert folders == PACKAGES
    assert {path.stem for path in (ROOT / "npgpt").glob("*.py")} == MODULES


def test_the_layers_of_the_import_contract():
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    assert len(layers) <= LAYERS
    named_there = {name.strip() for line in layers for name in line.split("|")}
    assert named_there == {f"npgpt.{name}" for name in PACKAGES | MODULES - {"__init__"}}
    assert len(contracts) == 6


def test_no_file_is_long():
    long = {}
    for folder in CHECKED:
        for path in (ROOT / folder).rglob("*.py"):
            lines = len(path.read_text("utf-8").splitlines())
            if lines > LINES:
                long[named(path)] = lines
    assert long == {}, f"more than {LINES} lines: one file for one subject"


def test_no_two_test_files_have_the_same_name():
    """pytest imports them by their names."""
    names = [path.name for path in (ROOT / "parity_tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def foreign_private_names(path):
    """(line, name) of all private names of npgpt that do not belong to this file's package."""
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:2])
    imported = {}
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "npgpt":
            for alias in node.names:
                imported[alias.asname or alias.name] = f"{node.module}.{alias.name}", node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname and alias.name.split(".")[0] == "npgpt":
                    imported[alias.asname] = alias.name, node.lineno
    used = [(line, name) for name, line in imported.values()]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Attribute):
            first, *rest = ast.unparse(node).split(".")
            if first in imported:
                used.append((node.lineno, ".".join([imported[first][0], *rest])))
    return [
        (line, name)
        for line, name in used
        if any(map(is_private, name.split("."))) and not name.startswith(package + ".")
    ]


def test_no_package_uses_the_private_names_of_another():
    found = {
        named(path): foreign_private_names(path)
        for folder in ("npgpt", "reference", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {name: names for name, names in found.items() if names} == {}


def test_a_private_name_of_another_package_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "npgpt" / "cli" / "x.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "from npgpt.kernels import gemm, _gone\nfrom npgpt.cli.main import _ours\n"
        "import npgpt.model.params as p\ngemm._pack(p._leaf)\nself._x, gemm.__name__\n"
    )
    assert foreign_private_names(path) == [
        (1, "npgpt.kernels._gone"), (4, "npgpt.kernels.gemm._pack"), (4, "npgpt.model.params._leaf")
    ]  # fmt: skip
