"""The files of the page: small, and without markup from strings."""

import hashlib
import re

import pytest

from npgpt import show
from npgpt.play import static_files
from parity_tests.support.sources import ROOT

STATIC = ROOT / "npgpt" / "play" / "static"
OWN = [path for path in sorted(STATIC.rglob("*.js")) if path.parent.name != "d3"]


def test_the_page_has_at_most_500_kb():
    files = static_files.read("token")
    assert sum(len(file.content) for file in files.values()) <= 500_000
    assert set(files) == {"/"} | {
        f"/{path.relative_to(STATIC).as_posix()}"
        for path in STATIC.rglob("*")
        if path.is_file() and path.name != "index.html"
    }


def test_the_files_of_d3_are_those_that_were_published():
    """Their digests are beside them, in the format of sha256sum."""
    lines = (STATIC / "d3" / "SHA256SUMS.txt").read_text().splitlines()
    told = {name: digest for digest, name in map(str.split, lines)}
    files = sorted((STATIC / "d3").glob("*.js"))
    assert sorted(told) == [path.name for path in files]
    for path in files:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == told[path.name]
    index = (STATIC / "index.html").read_text()
    assert re.findall(r"/d3/([\w.-]+)", index) == sorted(told, key=index.index)
    assert "Permission to use, copy, modify" in (STATIC / "d3" / "LICENSE.txt").read_text()


MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\.html\(|\beval\(|new Function|"
    r"DOMParser|createContextualFragment|setAttribute\(.style|https?://(?!www\.w3\.org/2000/svg)"
)


@pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
def test_no_markup_from_strings_and_no_other_address(path):
    assert MARKUP.search(path.read_text("utf-8")) is None


def test_every_view_says_what_one_sees():
    """In a sentence, and in a section of the help."""
    titles = re.findall(r"(?m)^## (.*)$", (STATIC / "help.md").read_text("utf-8"))
    anchors = [re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") for title in titles]
    views = re.findall(r'from "./(.*)"', (STATIC / "views" / "index.js").read_text("utf-8"))
    assert len(views) >= 7
    for view in views:
        text = (STATIC / "views" / view).read_text("utf-8")
        for field in ("name", "title", "sentence", "doc", "defaults"):
            assert re.search(rf"(?m)^  {field}: ", text), (view, field)
        assert re.search(r'(?m)^  doc: "(.*)"', text)[1] in anchors


HELP = (STATIC / "help.md").read_text("utf-8").split("\n## ")[1:]


@pytest.mark.parametrize("section", HELP, ids=lambda text: text.partition("\n")[0])
def test_what_the_help_names_exists(section):
    """Its code, its pages of the documentation, and its functions."""
    paths = re.findall(r"`((?:npgpt|docs)/[\w/.]*)`", section)
    assert paths
    for path in paths:
        assert (ROOT / path).exists(), path
    for name in re.findall(r"`npgpt\.show\.(\w+)", section):
        assert name in show.__all__


def test_every_view_is_in_the_documentation():
    """In the table of docs/play.md, with its address; and the link to the help."""
    page = (ROOT / "docs" / "play.md").read_text("utf-8")
    views = re.findall(r'(?m)^  name: "(.*)"', "\n".join(p.read_text("utf-8") for p in OWN))
    assert len(views) == 10
    assert sorted(re.findall(r"(?m)^\| [\w ]+ \| `#/(.*?)` \|", page)) == sorted(views)
    for link in re.findall(r"\]\(([^)#]+)\)", page):
        assert link.startswith("http") or (ROOT / "docs" / link).exists(), link
