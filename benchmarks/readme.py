"""Writes the figures in README.md and docs/book.md from the JSON in benchmarks/results/.

python -m benchmarks.readme
"""

import json
from pathlib import Path

from benchmarks import book_log
from benchmarks.harness import RESULTS, table

ROOT = Path(__file__).parent.parent
START, END = "<!-- figures: benchmarks/readme.py -->\n", "<!-- /figures -->"


def speed() -> str:
    """README: how fast."""
    step, start = results("training_step_2x256"), results("start_up")
    machine = step["machine"]
    names = {
        "npgpt": "npgpt",
        "torch-book": "the book's PyTorch model",
        "torch-best": "PyTorch, fused attention and AdamW",
    }
    rows = [
        ["one training step, 124M shape, 2 x 256 tokens", "seconds", "peak memory", "npgpt takes"]
    ]
    for key, name in names.items():
        share = "" if key == "npgpt" else f"{step[key]['npgpt_ratio']['median']:.2f} of its time"
        memory = f"{step[key]['peak_bytes'] / 1e9:.1f} GB"
        rows.append([name, f"{step[key]['seconds']:.2f}", memory, share])
    train = start["npgpt train, from cold"]
    return (
        f"{table(rows)}\n\n"
        f"float32, {machine['cores']} cores ({machine['cpu']}), {versions(machine)}.\n"
        f"`npgpt train` with its defaults: {train['seconds']:.0f} s from a cold start, compiling "
        f"included. `import npgpt`: {start['import npgpt']['seconds']:.2f} s. `npgpt --help`: "
        f"{start['npgpt --help']['seconds']:.2f} s.\n"
    )


def drift() -> str:
    """docs/book.md: how far the log drifts."""
    log = results("book_log")
    lines, machine = log["lines"], log["machine"]
    printed = {
        name: sum(book_log.as_printed(line, f"{name} float32") for line in lines)
        for name in book_log.PROGRAMS
    }
    return (
        f"{table(book_log.rows(lines))}\n\n"
        f"Lines with every printed digit of the book: npgpt {printed['npgpt']} of {len(lines)}, "
        f"PyTorch {printed['torch']}.\n"
        f"Measured on {machine['cpu']} with {versions(machine)}.\n"
    )


PAGES = {"README.md": speed, "docs/book.md": drift}


def results(name: str) -> dict:
    """What a benchmark has written."""
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def versions(machine: dict) -> str:
    """What computed."""
    return f"PyTorch {machine['torch']}, NumPy {machine['numpy']}, Numba {machine['numba']}"


def main() -> None:
    for page, figures in PAGES.items():
        text = (ROOT / page).read_text("utf-8")
        before, rest = text.split(START)
        after = rest.split(END)[1]
        (ROOT / page).write_text(f"{before}{START}{figures()}{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
