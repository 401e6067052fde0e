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
SOURCE = FOLDER.parent.resolve() / "npgpt"
IMPORTED = "import npgpt; print(npgpt.__file__)"
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
    """Run a notebook in a kernel that starts in `folder`, which is empty."""
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(IMPORTED))
    NotebookClient(notebook, timeout=LIMIT, resources={"metadata": {"path": folder}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    require_installed(Path(outputs[0]["text"].strip()))
    pictures = sum("image/png" in output.get("data", ()) for output in outputs)
    print(f"{path.name}: {pictures} pictures")
    if not pictures:
        raise SystemExit(f"{path.name} shows no picture")


def require_installed(file: Path) -> None:
    """Raise SystemExit if npgpt was imported from the source, and not as it is installed."""
    if file.resolve().is_relative_to(SOURCE):
        raise SystemExit(f"npgpt was imported from {file}: install it with pip install '.[test]'")


def main(arguments: list[str]) -> None:
    """Write all notebooks, or run them."""
    if arguments == ["--run"]:
        os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the matrices are small
        os.environ.pop("PYTHONPATH", None)  # which may name the source
        with tempfile.TemporaryDirectory() as folder:
            for path in sources():
                run(path.with_suffix(".ipynb"), folder)
        return
    for path in sources():
        path.with_suffix(".ipynb").write_text(convert(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
