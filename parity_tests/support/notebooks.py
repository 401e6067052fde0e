"""Write the .ipynb of each notebook from its source, or run them all.

python -m parity_tests.support.notebooks          # after a change of notebooks/*.py
python -m parity_tests.support.notebooks --run    # each in a kernel, as Jupyter runs it
"""

import os
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).parents[2] / "notebooks"
LIMIT = 120  # seconds of one cell
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def sources() -> list[Path]:
    """Return the sources, in their order."""
    return sorted(FOLDER.glob("[0-9][0-9]_*.py"))


def cells(path: Path) -> list:
    """Return the cells of a source."""
    return jupytext.read(path, fmt="py:percent").cells


def convert(source: str) -> str:
    """Return the .ipynb of a source in py:percent: without outputs, the same on every machine."""
    notebook = jupytext.reads(source, fmt="py:percent")
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # jupytext draws one
        cell.metadata = {}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    nbformat.validate(notebook)
    return nbformat.writes(notebook) + "\n"


def run(path: Path, folder: str) -> None:
    """Run a notebook in a kernel that starts in `folder`, and so imports the installed npgpt."""
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=LIMIT, resources={"metadata": {"path": folder}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = sum("image/png" in output.get("data", ()) for output in outputs)
    print(f"{path.name}: {pictures} pictures")
    if not pictures:
        raise SystemExit(f"{path.name} shows no picture")


def main(arguments: list[str]) -> None:
    """Write all notebooks, or run them."""
    if arguments == ["--run"]:
        os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the matrices are small
        with tempfile.TemporaryDirectory() as folder:
            for path in sources():
                run(path.with_suffix(".ipynb"), folder)
        return
    for path in sources():
        path.with_suffix(".ipynb").write_text(convert(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
