"""What MkDocs does besides: source files as pages, and formulas as MathML.

A page links to a source file as it lies in the repository (`../npgpt/gpt.py`), so that the link
works there. On the site, every file that is linked becomes a page of its own.
"""

import html
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File, InclusionLevel

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}
LINK = re.compile(r"\]\((?![a-z]+:)([^)#\s]+)(#[^)\s]*)?\)")
CODE = re.compile(r"(?ms)^(`{3,}).*?^\1 *$|(`+)[^`\n].*?\2")


def on_files(files, config):
    """Add CONTRIBUTING, CHANGELOG and every linked source file as pages."""
    texts = {file.src_uri: file.content_string for file in files if file.is_documentation_page()}
    for source, page in PAGES.items():
        texts[page] = moved((ROOT / source).read_text("utf-8"), "", "")
        files.append(File.generated(config, page, content=texts[page]))
    linked = {target for page, text in texts.items() for target in outside(text, page)}
    for path in sorted(linked):
        file = File.generated(config, code_page(path), content=code_text(path))
        file.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(file)
    return files


def on_page_markdown(markdown, page, **_):
    """Point links to source files at their pages."""
    return moved(markdown, posixpath.dirname(page.file.src_uri), "docs")


def on_page_content(text, page, **_):
    """Turn formulas into MathML, mark the tables of figures, link the derivations."""
    for column, kind in (("baseline", "figures"), ("step", "numbers")):
        text = re.sub(
            rf"<table>\n<thead>(?:(?!</thead>).)*?<th>{column}</th>.*?</table>",
            lambda m, kind=kind: f'<div class="{kind}">{m[0]}</div>',
            text,
            flags=re.S,
        )
    if page.file.src_uri == "api/ops.md":  # docstrings name the page of their derivation
        text = re.sub(
            r"Derivation: docs/ops/(\w+)\.md", r'Derivation: <a href="../ops/\1.html">\1</a>', text
        )
    return re.sub(
        r'<(div|span) class="arithmatex">\\[\[(](.*?)\\[\])]</\1>',
        lambda m: mathml(html.unescape(m[2]), m[1]),
        text,
        flags=re.S,
    )


def mathml(formula, tag):
    from latex2mathml.converter import convert

    display = "block" if tag == "div" else "inline"
    return f'<{tag} class="formula">{convert(formula.strip(), display=display)}</{tag}>'


def without_code(text):
    """The stretches of a page outside code: (start, end)."""
    start = 0
    for match in CODE.finditer(text):
        yield start, match.start()
        start = match.end()
    yield start, len(text)


def outside(text, page):
    """The source files that a page links to."""
    for start, end in without_code(text):
        for match in LINK.finditer(text, start, end):
            path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), match[1]))
            if is_source(path):
                yield path
            elif path.startswith("docs/code/"):
                yield path.removeprefix("docs/code/").removesuffix(".md")


def moved(text, folder, root):
    """The page with its links pointing at pages of the site.

    `folder` is the page's folder below docs/; `root` is "docs", or "" for a page that lies in the
    repository's root.
    """

    def target(match):
        path = posixpath.normpath(posixpath.join(root, folder, match[1]))
        if path in PAGES:
            path = PAGES[path]
        elif is_source(path):
            path = code_page(path)
        elif path.startswith("docs/"):
            path = path.removeprefix("docs/")
        else:
            return match[0]
        return f"]({posixpath.relpath(path, folder or '.')}{match[2] or ''})"

    parts, done = [], 0
    for start, end in without_code(text):
        parts += text[done:start], LINK.sub(target, text[start:end])
        done = end
    return "".join(parts)


def is_source(path):
    """Return True for a file of the repository that is not a page or picture of the site."""
    inside = path.startswith("docs/") and not path.endswith(".py")
    return not inside and path not in PAGES and (ROOT / path).is_file()


def code_page(path):
    return f"code/{path}.md"


def code_text(path):
    text = (ROOT / path).read_text("utf-8")
    language = {".py": "python", ".toml": "toml"}.get(Path(path).suffix, "text")
    head = f"---\ntitle: {path}\nhide: [toc]\nsearch:\n  exclude: true\n---\n\n# `{path}`\n\n"
    return f'{head}```{language} linenums="1"\n{text.rstrip()}\n```\n'
