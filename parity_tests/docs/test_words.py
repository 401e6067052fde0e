"""One word per thing: the words that docs/glossary.md says are gone are gone.

Docstrings begin as docs/style.md says.

The same by hand:

    python parity_tests/docs/test_words.py              # list every line that has one
    python parity_tests/docs/test_words.py npgpt/cli    # the same below a path
"""

import ast
import io
import re
import sys
import token
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GLOSSARY = ROOT / "docs" / "glossary.md"
FOLDERS = "npgpt", "reference", "parity_tests", "benchmarks", "docs", ".github"
TOP = "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "pyproject.toml", "mkdocs.yml"
SUFFIXES = {".py", ".pyi", ".md", ".yml", ".yaml", ".toml", ".css"}
BETWEEN = r"(?:[\s_]|\n *#)+"  # what a space in a phrase stands for


def sources() -> list[Path]:
    found = [ROOT / name for name in TOP]
    for folder in FOLDERS:
        found += [path for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    return sorted(path for path in found if path.is_file())


@cache
def tables() -> list[list[str]]:
    """The phrases and the identifiers in the two tables of the glossary."""
    text = GLOSSARY.read_text("utf-8")
    section = text.split("<!-- gone words")[1].split("<!-- /gone words -->")[0]
    found = re.findall(r"(?m)(?:^\|.*\n)+", section)
    return [re.findall(r"`([^`]+)`", "".join(re.findall(r"(?m)^\|([^|]+)", t))) for t in found]


def pattern(phrase: str) -> str:
    words = BETWEEN.join(re.escape(word) for word in phrase.split(" "))
    before = "(?<![A-Za-z])" if phrase[0].isalpha() else ""
    after = "(?![A-Za-z])" if phrase[-1].isalpha() else "(?!_)"
    return f"(?{'-i' if phrase != phrase.lower() else 'i'}:{before}{words}{after})"


def phrases(text: str) -> Iterator[re.Match]:
    """The phrases that are gone in a text; most are ruled out by one of their words."""
    lower = text.lower()
    possible = [p for p in tables()[0] if all(word in lower for word in p.lower().split(" "))]
    return re.finditer("|".join(map(pattern, possible)), text) if possible else iter(())


def spoken(path: Path) -> str:
    """The text of a file, blanked where it has to name what is gone."""
    text = path.read_text("utf-8")
    blank = {
        "docs/glossary.md": r"(?s)<!-- gone words.*<!-- /gone words -->",
        "docs/style.md": r"(?m)^- Before: .*$",
        "CHANGELOG.md": r"`[^`\n]+`",  # a name that changed is quoted
        "parity_tests/docs/test_words.py": r'(?s)""".*?"""|".*?"',
    }.get(path.relative_to(ROOT).as_posix())
    return re.sub(blank, lambda m: re.sub(r"[^\n]", " ", m[0]), text) if blank else text


def identifiers(text: str) -> Iterator[tuple[int, str]]:
    gone = set(tables()[1])
    for one in tokenize.generate_tokens(io.StringIO(text).readline):
        if one.type == token.NAME and one.string in gone:
            yield one.start[0], one.string


@cache
def openings() -> set[str]:
    """The words with which no docstring begins, in the first rule of the style."""
    rule = (ROOT / "docs" / "style.md").read_text("utf-8").split("never begins with")[1]
    return set(re.findall(r"`(\w+)`", rule.split("its summary")[0]))


def summaries(text: str) -> Iterator[tuple[int, str]]:
    """The docstrings that begin with one of these words, or with a question."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            summary = (ast.get_docstring(node) or "").split("\n\n")[0]
            if summary.endswith("?") or summary.partition(" ")[0] in openings():
                yield getattr(node, "lineno", 1), f"docstring: {summary.splitlines()[0][:60]}"


def gone(path: Path) -> list[tuple[int, str]]:
    """The lines of a file that have a word that is gone, and the word."""
    text, name = spoken(path), path.relative_to(ROOT)
    found = [(0, m[0]) for m in phrases(name.as_posix().replace("__init__.py", ""))]
    for match in phrases(text):
        found.append((text.count("\n", 0, match.start()) + 1, re.sub(r"\s+", " ", match[0])))
    if name.parts[0] == "npgpt" and name.parts[1] != "ops" and path.suffix == ".py":
        found += identifiers(text)
    if name.parts[0] in ("npgpt", "reference", "parity_tests") and path.suffix == ".py":
        found += summaries(path.read_text("utf-8"))
    return sorted(found)


def test_the_tables_are_read():
    """Both tables have entries, and the pattern finds them as they are written."""
    first, second = tables()
    assert len(first) > 30
    assert len(second) > 15
    said = "the third shelf; it goes\n    # on; read-only, a bookshelf, lighthouse, so_many"
    assert [m[0].split()[0] for m in phrases(said)] == ["shelf", "goes", "so_many"]
    assert list(identifiers("def lend(x):\n    return room[x]  # room\n")) == [
        (1, "lend"),
        (2, "room"),
    ]
    assert {"What", "Is", "Until"} <= openings()
    assert not openings() & {"Return", "Read"}
    said = 'def f():\n    """What it is."""\n\n\nclass A:\n    """Return nothing. Why?"""\n'
    assert [line for line, _ in summaries(said)] == [1, 5]


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_words_that_are_gone(path):
    name = path.relative_to(ROOT).as_posix()
    shown = "\n".join(f"{name}:{line}: {word}" for line, word in gone(path))
    assert not shown, f"see docs/glossary.md, Words that are gone:\n{shown}"


def main(arguments: list[str]) -> None:
    found = {path.relative_to(ROOT).as_posix(): gone(path) for path in sources()}
    chosen = [argument.rstrip("/") for argument in arguments]
    shown = 0
    for name, lines in found.items():
        if not chosen or any(name == one or name.startswith(one + "/") for one in chosen):
            shown += len(lines)
            for line, word in lines:
                print(f"{name}:{line}: {word}")
    print(f"{shown} words")


if __name__ == "__main__":
    main(sys.argv[1:])
