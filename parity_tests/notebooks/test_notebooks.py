"""The notebooks: each source runs as a program, offline, and its .ipynb is made from it."""

import runpy
import socket

import matplotlib
import pytest
from threadpoolctl import threadpool_limits

from parity_tests.support import notebooks

SOURCES = notebooks.sources()
names = pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)


@pytest.fixture
def offline(monkeypatch):
    """Refuse every connection."""

    def refuse(*_):
        raise AssertionError("a notebook opens a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.slow
@names
def test_a_notebook_runs(path, offline, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    with threadpool_limits(1):  # the matrices are small
        runpy.run_path(str(path))


def test_the_source_is_not_what_is_installed():
    """A virtual environment may be in the folder of the repository."""
    root = notebooks.FOLDER.parent
    notebooks.require_installed(root / ".venv/lib/python3.11/site-packages/npgpt/__init__.py")
    with pytest.raises(SystemExit, match="was imported from"):
        notebooks.require_installed(root / "npgpt" / "__init__.py")


@names
def test_the_ipynb_is_made_from_its_source(path):
    written = path.with_suffix(".ipynb").read_text("utf-8")
    assert written == notebooks.convert(path.read_text("utf-8")), (
        "run python -m parity_tests.support.notebooks"
    )
    assert '"outputs": []' in written and "image/png" not in written


@names
def test_a_notebook_asserts_and_explains(path):
    """No cell is long, and the numbers that the text states are held by asserts."""
    cells = notebooks.cells(path)
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    assert sum(text.count("assert ") for text in code) >= 5
    assert max(len(text.splitlines()) for text in code) <= 30
    assert all("import torch" not in text for text in code)
    assert cells[0].source.startswith("# ") and "$" in "".join(cell.source for cell in cells)


def test_there_is_no_ipynb_without_a_source():
    assert len(SOURCES) == 7
    assert sorted(notebooks.FOLDER.glob("*.ipynb")) == [p.with_suffix(".ipynb") for p in SOURCES]
