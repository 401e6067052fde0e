"""Architecture, kernels and API pages say what pyproject.toml and the code say."""

import re
import tomllib
from pathlib import Path

import npgpt
from npgpt import fused, mixed, ops
from npgpt.kernels import gemm

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")


def rows(start: str, end: str) -> list[list[str]]:
    """The names in backticks in the first column of a table."""
    table = PAGE.split(start)[1].split(end)[0]
    return [re.findall(r"`([^`]+)`", row) for row in re.findall(r"(?m)^\|([^|]+)", table)[2:]]


def test_the_layers_are_those_of_the_import_contract():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contract = project["tool"]["importlinter"]["contracts"][0]["layers"]
    layers = [re.findall(r"npgpt\.(\w+)", layer) for layer in contract]
    assert rows("<!-- layers", "<!-- /layers -->") == layers


def test_every_module_at_the_top_is_in_a_layer():
    told = {name for row in rows("<!-- layers", "<!-- /layers -->") for name in row}
    top = {path.stem for path in (ROOT / "npgpt").glob("*.py")}
    folders = {path.parent.name for path in (ROOT / "npgpt").glob("*/__init__.py")}
    assert told == (top | folders) - {"__init__"}


def test_the_backends_are_the_packages_of_ops():
    told = [names[0].strip("/").replace("/", ".") for names in rows_of_backends()]
    assert told == [backend.__name__ for backend in (ops, fused, mixed)]


def rows_of_backends() -> list[list[str]]:
    table = PAGE.split("| backend | package |")[1].split("\n\n")[0]
    return [names for line in table.splitlines() if (names := re.findall(r"`(npgpt/[^`]+)`", line))]


def test_every_public_name_has_an_entry_in_the_api():
    pages = "".join(page.read_text("utf-8") for page in sorted(ROOT.glob("docs/api/*.md")))
    entries = {entry.rpartition(".")[2] for entry in re.findall(r"(?m)^::: (\S+)", pages)}
    modules = {"ops", "fused", "mixed"}  # one contract, one page
    assert set(npgpt.__all__) - modules - entries == set()


def test_the_sizes_of_a_matrix_product_are_those_of_the_kernels():
    """In docs/kernels.md and its pictures, which show AVX-512; another CPU has other ones."""
    page = (ROOT / "docs" / "kernels.md").read_text("utf-8")
    picture = (ROOT / "docs" / "images" / "draw.py").read_text("utf-8")
    microkernel = (ROOT / "npgpt" / "kernels" / "gemm_microkernel.py").read_text("utf-8")
    wide, narrow = re.findall(r"(?m)^MR = (\d+) if REGISTERS == 32 else (\d+)", microkernel)[0]
    right = gemm.VECTORS * 16, gemm.VECTORS * 8  # of 64 and 32 bytes
    assert f"{wide} x {right[0]} with AVX-512, {narrow} x {right[1]} with AVX2" in page
    assert f"KC = {gemm.KC} values of k; {gemm.RIGHT_PANELS} right panels" in page
    assert f"MC = {gemm.MC} rows" in page
    assert f"{wide}, 16, {gemm.VECTORS}, {gemm.RIGHT_PANELS}  # npgpt/kernels" in picture
