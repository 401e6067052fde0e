"""Every public name has numpydoc sections: Parameters, Returns, Raises, as its code has them."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator

import pytest

import npgpt

SECTIONS = (
    "Parameters", "Attributes", "Returns", "Yields", "Raises", "Warns", "Source", "Notes",
    "See Also", "References", "Examples",
)  # fmt: skip
MODULES = {"ops", "fused", "mixed"}  # their functions keep the line of shapes, as the contract says


def members() -> Iterator[tuple[str, object]]:
    """Public functions and classes, and the methods of these."""
    for name in sorted(set(npgpt.__all__) - MODULES):
        public = getattr(npgpt, name)
        yield name, public
        if inspect.isclass(public):
            for attribute, method in inspect.getmembers(public, inspect.isroutine):
                if not attribute.startswith("_") and hasattr(method, "__code__"):
                    yield f"{name}.{attribute}", method


MEMBERS = {name: one for name, one in members() if callable(one)}


def sections(text: str) -> dict[str, str]:
    """Return the sections of a docstring by their titles; the summary has the title ""."""
    found, title = {"": ""}, ""
    lines = inspect.cleandoc(text).split("\n")
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line in SECTIONS and following == "-" * len(line):
            title = line
            found[title] = ""
        elif line.strip("-"):
            found[title] += f"{line}\n"
    return found


def told(section: str) -> set[str]:
    """Return the names before the colons of a Parameters section."""
    heads = re.findall(r"(?m)^([\w*][\w*, ]*?)(?: ?:.*)?$", section)
    return {name.strip("* ") for head in heads for name in head.split(",")}


def raised(one) -> set[str]:
    """Return the errors that the code of a function raises by itself."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(one)))
    found = (node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc)
    calls = (node.func if isinstance(node, ast.Call) else node for node in found)
    return {node.id for node in calls if isinstance(node, ast.Name) and node.id[0].isupper()}


def faults(one) -> list[str]:
    """Return what a docstring lacks, or has and should not."""
    found = sections(one.__doc__ or "")
    wrong = [] if found[""].strip() else ["no summary"]
    if inspect.isclass(one) and issubclass(one, (BaseException, tuple)):
        return wrong  # an error has its message, a NamedTuple its fields
    parameters = inspect.signature(one).parameters.values()
    names = {p.name for p in parameters if p.name not in ("self", "cls")}
    if names != (said := told(found.get("Parameters", ""))):
        wrong.append(f"Parameters: {sorted(said)} for {sorted(names)}")
    if inspect.isclass(one):
        return wrong
    returns = inspect.signature(one).return_annotation
    if returns is inspect.Signature.empty:
        wrong.append("no return annotation")
    elif returns not in (None, "None") and not {"Returns", "Yields"} & set(found):
        wrong.append("no Returns")
    for error in sorted(raised(one)):
        if error not in found.get("Raises", ""):
            wrong.append(f"Raises: not {error}")
    return wrong


@pytest.mark.parametrize("name", sorted(MEMBERS))
def test_public_names_have_numpydoc_sections(name):
    assert faults(MEMBERS[name]) == []


def test_faults_are_found():
    def good(x: int, *, rate: float = 0.1) -> int:
        """Return x.

        Parameters
        ----------
        x : int
            A number.
        rate : float, default 0.1
            Its rate.

        Returns
        -------
        int
            The same.

        Raises
        ------
        ValueError
            Never.
        """
        if x is None:
            raise ValueError("x must not be None")
        return x

    def bad(x: int, y: int) -> int:
        """Return x.

        Parameters
        ----------
        x : int
            A number.
        """
        if y:
            raise ValueError("y must be 0")
        return x

    assert faults(good) == []
    assert faults(bad) == [
        "Parameters: ['x'] for ['x', 'y']",
        "no Returns",
        "Raises: not ValueError",
    ]
