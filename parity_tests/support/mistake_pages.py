"""The pages of known mistakes: written from the catalogue, below what is written by hand.

    python -m parity_tests.support.mistake_pages

A test compares docs/backprop/*.md with the result.
"""

import difflib
import re
from pathlib import Path

from npgpt.parity.mistakes import MISTAKES, Mistake
from npgpt.parity.port import Edit, definitions

ROOT = Path(__file__).parents[2]
INDEX = "docs/backprop/README.md"
MARK = (
    "<!-- The rest of this page is written by python -m parity_tests.support.mistake_pages. -->\n"
)
SUBJECTS = (
    "embedding", "layernorm", "linear", "attention", "gelu", "block", "dropout", "model", "loss",
    "training", "optimizers", "cache", "precision",
)  # fmt: skip
ORDER = [f"docs/backprop/{subject}.md" for subject in SUBJECTS]
HEADINGS = {
    "forward": "Forward",
    "loss": "Loss",
    "backward": "Backward",
    "step": "Step",
    "cache": "Cache",
}


def pages() -> dict[str, str]:
    """Return the complete text of every page, by its path."""
    paths = sorted({mistake.page for mistake in MISTAKES}, key=ORDER.index)
    return {INDEX: by_hand(INDEX) + index(paths)} | {
        path: by_hand(path) + sections([one for one in MISTAKES if one.page == path])
        for path in paths
    }


def by_hand(path: str) -> str:
    """Return the upper part of a page, the mark included."""
    text = (ROOT / path).read_text("utf-8")
    return text[: text.index(MARK) + len(MARK)]


def title(path: str) -> str:
    """Return the title of a page."""
    return (ROOT / path).read_text("utf-8").partition("\n")[0].removeprefix("# ")


def index(paths: list[str]) -> str:
    """Return a table of all mistakes for each page."""
    text = ""
    for path in paths:
        page = Path(path).name
        own = [one for one in MISTAKES if one.page == path]
        text += f"\n## {title(path)}\n\n| mistake | |\n|---|---|\n"
        text += "".join(f"| [{one.name}]({page}#{one.name}) | {one.says} |\n" for one in own)
    return text


def sections(mistakes: list[Mistake]) -> str:
    """Return a section for each stage, and in it one for each mistake."""
    text = ""
    for stage, heading in HEADINGS.items():
        own = [one for one in mistakes if one.stage == stage]
        text += f"\n## {heading}\n" if own else ""
        text += "".join(map(section, own))
    return text


def section(mistake: Mistake) -> str:
    """Return a heading, the mistake in one line, and the wrong lines beside the right ones."""
    text = f"\n### {mistake.name}\n\n{sentence(mistake.says)}\n"
    if mistake.twins:
        text += f"The same numbers as {', '.join(f'[{one}](#{one})' for one in mistake.twins)}.\n"
    if mistake.seen:
        text += f"Seen in {', '.join(map(thread, mistake.seen))}.\n"
    return text + f"\n```diff\n{changes(mistake.edits)}```\n"


def sentence(says: str) -> str:
    """Return the line as a sentence, with a capital unless it begins with a name of the code."""
    first = says.split()[0]
    if first.startswith(("c_", "ln_")) or first in ("dq", "dk", "dv", "dx", "probs", "wte", "wpe"):
        return f"{says}."
    return f"{says[0].upper()}{says[1:]}."


def thread(name: str) -> str:
    """Return a link to a public thread."""
    repository, _, number = name.partition("#")
    return f"[{repository} {number}](https://github.com/{repository}/issues/{number})"


def changes(edits: tuple[Edit, ...]) -> str:
    """Return the changed lines of every function, marked with - (right) and + (wrong)."""
    text = ""
    for where in dict.fromkeys(edit.where for edit in edits):
        module, _, function = where.partition(":")
        _, right = definitions(module)[function.partition(".")[0]]
        wrong = right
        for edit in edits:
            wrong = edit.apply(wrong) if edit.where == where else wrong
        lines = right.splitlines(), wrong.splitlines()
        text += f"# {module.replace('.', '/')}.py: {function}\n"
        for line in list(difflib.unified_diff(*lines, n=0, lineterm=""))[2:]:
            # comments are on the right lines
            text += "" if line.startswith("@@") else re.sub("  # .*", "", line) + "\n"
    return text


def main() -> None:
    """Write all pages."""
    for path, text in pages().items():
        (ROOT / path).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
