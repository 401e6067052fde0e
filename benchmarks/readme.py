"""Writes the figures in README.md from the JSON in benchmarks/results/.

python -m benchmarks.readme
"""

import json
from pathlib import Path

from benchmarks.harness import RESULTS, table

README = Path(__file__).parent.parent / "README.md"
START, END = "<!-- figures: benchmarks/readme.py -->\n", "<!-- /figures -->"


def figures() -> str:
    """The part of README between the two marks."""
    step = json.loads((RESULTS / "training_step_2x256.json").read_text("utf-8"))
    start = json.loads((RESULTS / "start_up.json").read_text("utf-8"))
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
        f"float32, {machine['cores']} cores ({machine['cpu']}), PyTorch {machine['torch']}, "
        f"NumPy {machine['numpy']}, Numba {machine['numba']}.\n"
        f"`npgpt train` with its defaults: {train['seconds']:.0f} s from a cold start, compiling "
        f"included. `import npgpt`: {start['import npgpt']['seconds']:.2f} s. `npgpt --help`: "
        f"{start['npgpt --help']['seconds']:.2f} s.\n"
    )


def main() -> None:
    text = README.read_text("utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    README.write_text(f"{before}{START}{figures()}{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
