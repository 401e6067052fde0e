"""The names that npgpt offers, and their docstrings."""

import ast
import doctest

import pytest

import npgpt
import npgpt.ops
from parity_tests.support.sources import ROOT, SOURCES, named, parsed

PUBLIC = {
    "Adam", "AdamW", "Batch", "Config", "ConfigError", "DownloadError", "DropoutWarning", "GPT",
    "Generator", "IgnoredTensorsWarning", "InputError", "KernelCacheWarning", "Loader", "Muon",
    "Preset", "RMSprop", "RunError", "SGD", "Sampling", "Speculation", "Trainer", "TrainingConfig",
    "WeightFileError", "WeightFileWarning", "beam_search", "clip_gradients", "evaluate", "generate",
    "global_norm", "learning_rate", "load", "named", "presets", "tokenizer", "zeros_like",
}  # fmt: skip


def test_the_public_names_are_these_and_each_exists():
    assert set(npgpt.__all__) == PUBLIC
    assert len(npgpt.__all__) == len(PUBLIC)
    for name in npgpt.__all__:
        assert callable(getattr(npgpt, name)) or name == "presets", name
        assert name in dir(npgpt)
    with pytest.raises(AttributeError, match="no attribute 'Gpt'"):
        npgpt.Gpt  # noqa: B018


def test_no_public_name_is_a_module_too():
    """Importing npgpt.generate, were there such a module, would set `npgpt.generate` to it."""
    modules = {path.stem for path in (ROOT / "npgpt").glob("*")}
    assert modules & set(npgpt.__all__) == set()


def test_the_example_in_the_package_runs():
    failed, tried = doctest.testmod(npgpt)
    assert tried >= 5
    assert failed == 0


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
            if "overload" in map(ast.unparse, getattr(node, "decorator_list", [])):
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
