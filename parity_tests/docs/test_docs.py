"""The pages are programs: they run, print what they say they print, and quote the code as it is.

In docs/ops/*.md, docs/evaluation.md, docs/book.md and other pages a ```python block
is executed, in order, one namespace a page; what it prints is the ```text block after it. A
```python block whose first line is a path, `# npgpt/ops/gelu.py`, is a quotation: it stands in that
file word for word, at any one depth of indentation.
"""

import contextlib
import io
import re
import textwrap
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks import readme
from npgpt import ops

ROOT = Path(__file__).parents[2]
OPS = ROOT / "docs" / "ops"
INDEX = OPS / "README.md"
PAGES = sorted(OPS.glob("*.md"))
OPS_WITH_PAGES = sorted(set(ops.__all__) - {"decode", "random"})  # nothing goes backward through it
SHARED = dict.fromkeys(("adam", "muon", "rmsprop", "sgd"), "optimizers")  # the page of several ops
PROSE = [
    page
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
    if page.exists()
]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


class Block(NamedTuple):
    line: int  # of the opening fence, from 1
    language: str
    text: str

    @property
    def quotes(self) -> str | None:
        """The file this block quotes, if it is a quotation."""
        found = re.match(r"# (npgpt/\S+\.py)\n", self.text)
        return found[1] if found and self.language == "python" else None


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page."""
    found, start = [], None
    lines = page.read_text(encoding="utf-8").split("\n")
    for i, line in enumerate(lines):
        if start is None and line.startswith("```"):
            start = i
        elif start is not None and line == "```":
            body = "".join(f"{line}\n" for line in lines[start + 1 : i])
            found.append(Block(start + 1, lines[start][3:].strip(), body))
            start = None
    assert start is None, f"{name(page)}:{start + 1}: this block is never closed"
    return found


def without_code(text: str) -> str:
    """Markdown with the insides of fences and of `code` taken out."""
    return re.sub(r"(`+)[^`].*?\1", "", re.sub(r"(?ms)^```.*?^```$", "", text))


def headings(page: Path) -> set[str]:
    """The anchors GitHub gives a page."""
    text = re.sub(r"(?ms)^```.*?^```$", "", page.read_text(encoding="utf-8"))
    titles = re.findall(r"(?m)^#+ +(.+?) *$", text)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "docs" / "evaluation.md", ROOT / "docs" / "lora.md"], ids=name
)
def test_page_runs_and_prints_what_it_shows(page):
    run(page)


@pytest.mark.slow
def test_the_books_page_prints_what_the_book_prints(bpe):
    run(ROOT / "docs" / "book.md")


@pytest.mark.slow
def test_the_page_for_users_of_pytorch_runs_every_row_of_its_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it saves a model
    page = ROOT / "docs" / "from-pytorch.md"
    rows = re.findall(r"(?m)^\| (`.*) \| (.*) \|$", page.read_text("utf-8"))
    assert len(rows) > 20
    programs = "".join(block.text for block in blocks(page) if block.language == "python")
    shown = [code for _, here in rows for code in re.findall(r"`([^`]*\(.*?\)[^`]*)`", here)]
    assert [code for code in shown if code not in programs] == []
    run(page)


@pytest.mark.slow
def test_the_page_of_fine_tuning_prints_what_it_shows():
    run(ROOT / "docs" / "fine-tuning.md")


@pytest.mark.slow
def test_getting_started_ends_in_a_trained_text():
    run(ROOT / "docs" / "getting-started.md")


def test_the_readme_is_short_and_its_example_runs(capsys):
    page = ROOT / "README.md"
    assert len(page.read_text("utf-8").splitlines()) <= 120
    [example] = [block for block in blocks(page) if block.language == "python"]
    exec(compile(example.text, str(page), "exec"), {"__name__": "readme"})
    assert capsys.readouterr().out == ", or not to be\n"


def run(page: Path) -> None:
    """Executes a page's blocks, and compares what they print with what it shows."""
    namespace: dict = {"__name__": page.stem}
    printed, printer = "", 0
    for block in [b for b in blocks(page) if b.language in ("python", "text")]:
        where = f"{name(page)}:{block.line}"
        if block.language == "text":
            assert printer, f"{where}: no block printed this"
            assert printed == block.text, f"{where}: the block above printed\n{printed}"
            printed, printer = "", 0
            continue
        assert not printed, f"{name(page)}:{printer}: this printed, but no text block follows"
        if block.quotes:
            continue
        # blank lines before it, so that a traceback names the line of the page
        code = compile("\n" * block.line + block.text, str(page), "exec")
        output = io.StringIO()
        with contextlib.redirect_stdout(output), warnings.catch_warnings():
            warnings.simplefilter("error")
            exec(code, namespace)
        printed, printer = output.getvalue(), block.line
    assert not printed, f"{name(page)}:{printer}: this printed, but no text block follows"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_quotations_stand_in_the_code(page):
    for block in blocks(page):
        if block.quotes is None:
            continue
        quotation = block.text.partition("\n")[2]
        source = "\n" + (ROOT / block.quotes).read_text(encoding="utf-8")
        depths = ("\n" + textwrap.indent(quotation, " " * depth) for depth in (0, 4, 8, 12))
        assert any(text in source for text in depths), (
            f"{name(page)}:{block.line}: {block.quotes} does not say\n{quotation}"
        )


@pytest.mark.parametrize("op", OPS_WITH_PAGES)
def test_every_op_has_a_page(op):
    page = OPS / f"{SHARED.get(op, op)}.md"
    assert page.exists(), f"npgpt/ops/{op}.py has no page {name(page)}"
    quoted = {block.quotes for block in blocks(page)}
    assert f"npgpt/ops/{op}.py" in quoted, f"{name(page)} does not quote npgpt/ops/{op}.py"
    assert f"]({page.name})" in INDEX.read_text(encoding="utf-8"), f"{name(INDEX)} does not link it"
    assert name(page) in (getattr(ops, op).__doc__ or ""), f"nor does npgpt/ops/{op}.py"


def test_there_is_one_reading_order():
    """The index's table, the pages' own "Next:" and the site's navigation say the same."""
    text = INDEX.read_text(encoding="utf-8")
    order = re.findall(r"(?m)^\| \d+ \| \[(\w+)\]", text)
    assert sorted(order) == sorted({SHARED.get(op, op) for op in OPS_WITH_PAGES})
    chain = re.findall(r"(?m)^Begin: \[(\w+)\]", text)
    while following := re.findall(
        r"(?m)^Next: \[(\w+)\]\(\1\.md\)", (OPS / f"{chain[-1]}.md").read_text(encoding="utf-8")
    ):
        chain += following
        assert len(chain) <= len(order), "the pages go round in a circle"
    assert chain == order
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert re.findall(r"(?m)^ +- ops/(\w+)\.md", site) == ["README", *order]


@pytest.mark.parametrize("source", sorted(ROOT.glob("npgpt/**/*.py")), ids=name)
def test_pages_that_the_code_names_exist(source):
    for page in re.findall(r"(?<!/)docs/[\w/]+\.md", source.read_text(encoding="utf-8")):
        assert (ROOT / page).exists(), f"{name(source)} names {page}, which does not exist"


@pytest.mark.parametrize("page", PROSE, ids=name)
def test_files_that_a_page_names_exist(page):
    """A path in `code`, below the repository or below npgpt/; a bare name, anywhere."""
    text = re.sub(r"(?s)<!-- gone words.*<!-- /gone words -->", "", page.read_text("utf-8"))
    for path in re.findall(r"`((?:[\w.]+/)*\w+\.(?:py|toml|yml))`", text):
        found = [ROOT / path, ROOT / "npgpt" / path]
        if "/" not in path:
            found += [ROOT / ".github" / "workflows" / path, *ROOT.glob(f"npgpt/**/{path}")]
        assert any(one.is_file() for one in found), f"{name(page)} names {path}"


@pytest.mark.parametrize("page", PROSE, ids=name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue  # the web is not ours to test
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name(page)} links to {link}, which does not exist"
        if anchor:
            assert anchor in headings(target), f"{name(page)} links to {link}: no such heading"


@pytest.mark.parametrize("page", readme.PAGES)
def test_figures_are_those_that_were_measured(page):
    """`make figures` writes them."""
    assert (ROOT / page).read_text("utf-8") == readme.written(page)
