"""The site is built strictly, its links lead somewhere, and it loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = "mkdocs", "material", "mkdocstrings_handlers.python", "latex2mathml"
LOADS = {  # the attributes by which an element loads something
    "script": ("src",), "link": ("href",), "img": ("src", "srcset"), "source": ("src", "srcset"),
    "iframe": ("src",), "object": ("data",), "video": ("src", "poster"), "audio": ("src",),
    "embed": ("src",), "use": ("href", "xlink:href"), "image": ("href", "xlink:href"),
}  # fmt: skip
# Material's script names these servers for browsers without ResizeObserver, for diagrams of
# mermaid's and for the number of a repository's stars; no page has any of these.
UNUSED = "mermaid", "md-source__facts"


def is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not all(map(is_installed, NEEDED)), reason="needs pip install '.[docs]'"),
]


class Page(HTMLParser):
    """The anchors, links and loaded files of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.anchors: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []
        self.classes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = {name: value or "" for name, value in attrs}
        self.classes.update(given.get("class", "").split())
        self.anchors += [given[name] for name in ("id", "name") if name in given and tag != "meta"]
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") in ("next", "prev"):
            self.links.append(given["href"])
        else:
            self.loads += [given[name] for name in LOADS.get(tag, ()) if name in given]
        self.loads += re.findall(r"url\(['\"]?([^)'\"]+)", given.get("style", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built in a process of its own."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-d", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[str, Page]:
    return {
        path.relative_to(site).as_posix(): Page(path.read_text("utf-8"))
        for path in sorted(site.rglob("*.html"))
    }


def resolved(site: Path, page: str, link: str) -> tuple[str, str]:
    """The file that a link on a page names, and the anchor."""
    parts = urlsplit(link)
    path = unquote(parts.path)
    if path.startswith("/"):  # of the page for what is not found, which may be shown anywhere
        target = site / path[1:]
    else:
        target = (site / page).parent / path if path else site / page
    return os.path.relpath(target, site).replace(os.sep, "/"), unquote(parts.fragment)


def test_every_page_is_built(pages):
    sources = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    built = {
        str(path.with_suffix(".html")).replace("README.html", "index.html") for path in sources
    }
    assert {name.replace(os.sep, "/") for name in built} - set(pages) == set()
    assert "contributing.html" in pages
    assert "changes.html" in pages


def test_every_link_and_anchor_resolves(site, pages):
    broken, followed = [], 0
    for page, parsed in pages.items():
        for link in parsed.links:
            if urlsplit(link).scheme in ("http", "https", "mailto"):
                continue
            target, anchor = resolved(site, page, link)
            followed += 1
            if not (site / target).is_file():
                broken.append(f"{page}: {link}: no such file")
            elif anchor and target in pages and anchor not in pages[target].anchors:
                broken.append(f"{page}: {link}: no such anchor")
    assert broken == []
    assert followed > 1000


def test_no_anchor_stands_twice(pages):
    for page, parsed in pages.items():
        ids = [anchor for anchor in parsed.anchors if not anchor.startswith("__")]
        assert len(ids) == len(set(ids)), f"{page}: {sorted({i for i in ids if ids.count(i) > 1})}"


def test_pages_load_only_what_is_in_the_site(site, pages):
    for page, parsed in pages.items():
        assert parsed.loads, page
        for load in parsed.loads:
            if load.startswith("data:"):
                continue
            assert not urlsplit(load).netloc, f"{page} loads {load}"
            assert (site / resolved(site, page, load)[0]).is_file(), f"{page} loads {load}"
        assert not parsed.classes & set(UNUSED), page


def test_style_sheets_load_only_what_is_in_the_site(site):
    sheets = sorted(site.rglob("*.css"))
    assert len(sheets) >= 3
    for sheet in sheets:
        text = sheet.read_text("utf-8")
        named = re.findall(r"url\(\s*['\"]?([^)'\"]+)", text) + re.findall(r"@import\s+(\S+)", text)
        for address in named:
            assert address.startswith("data:") or not urlsplit(address).netloc, (
                f"{sheet}: {address}"
            )


def test_pictures_load_nothing(site):
    for picture in sorted(site.rglob("*.svg")):
        text = picture.read_text("utf-8")
        loads = re.findall(r"(?:href|src)=\"(?!#)[^\"]+|@import|url\((?!#)[^)]+|<script", text)
        assert loads == [], picture.name


def test_formulas_are_mathml(site):
    text = (site / "ops" / "index.html").read_text("utf-8")
    assert "<math" in text
    assert "arithmatex" not in text
    assert "$$" not in text


def test_the_picture_of_a_block_is_drawn_by_its_program():
    """`python docs/images/draw.py` writes all of them."""
    names: dict = {"__file__": str(ROOT / "docs" / "images" / "draw.py"), "__name__": "draw"}
    exec(Path(names["__file__"]).read_text("utf-8"), names)
    for name, draw in names["PICTURES"].items():
        assert (ROOT / "docs" / "images" / name).read_text("utf-8") == draw(), name
