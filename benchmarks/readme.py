"""Write the figures of README.md and docs/ from the JSON in benchmarks/results/.

results/avx2/ holds the results of a CPU without AVX-512.

    python -m benchmarks.readme

A page has one pair of figure marks for each of its functions in PAGES.
"""

import contextlib
import io
import json
import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks import book_log, precision, scaling
from benchmarks.generation import WORKS
from benchmarks.harness import RESULTS, ROOT, compared, row_of, table
from npgpt.cli import estimate, profile
from npgpt.config import Config
from npgpt.performance import flops

START, END = "<!-- figures: benchmarks/readme.py -->\n", "<!-- /figures -->"
COMPARED = (
    "training_step_2x256",
    "training_step_book",
    "training_step_1x1024",
    "training_step_4x64",
    "generation",
    "sampling",
)
NARROW_COMPARED = (
    "training_step_2x256_bfloat16",
    "training_step_4x64_bfloat16",
    "generation_bfloat16",
    "generation_int8",
)
WEIGHTS = "float32", "bfloat16", "int8"
LONG_PROMPT = WORKS["read_1024"].name  # README has a prompt of 512 alone
TRAINED = {"verdict": "The book's run on The Verdict", "shakespeare": "`tiny` on Shakespeare"}


def speed() -> str:
    """README: each work beside the best other program, won or lost."""
    cells: dict[str, dict[str, str]] = {}
    for c in best(comparisons(), "s") + best(comparisons(names=NARROW_COMPARED), "s"):
        work, weights = split_weights(c["work"])
        bold, beside = "**" * is_lost(c), c["beside"].replace(f" {weights}", "")
        ratio = f"{bold}{c['ratio']['median']:.2f}{bold}"
        cells.setdefault(work, {})[weights] = f"{c['npgpt']:.2f} s; {ratio} of {beside}"
    cells.pop(LONG_PROMPT, None)
    rows = [[work, *(found.get(w, "") for w in WEIGHTS)] for work, found in cells.items()]
    memory = next(c for c in best(comparisons(), "GB") if "2 x 256" in c["work"])
    start = results("start_up")
    train = start["npgpt train, from cold"]
    generate = ""
    if first := start.get("npgpt generate, the first token"):
        generate = f" `npgpt generate` writes its first token after {first['seconds']:.2f} s."
    return (
        f"{table([['124M shape', *WEIGHTS], *rows])}\n\n"
        "npgpt's seconds, and their ratio to those of the fastest other program measured; bold: "
        f"npgpt is slower. {machine_of([*measured('', COMPARED + NARROW_COMPARED), 'start_up'])}.\n"
        f"{memory['work'][0].upper()}{memory['work'][1:]}: {memory['npgpt']:.2f} GB; "
        f"{memory['beside']}: {memory['other']:.2f} GB. "
        f"`npgpt train` with its defaults: {train['seconds']:.0f} s from a cold start, compiling "
        f"included. `import npgpt`: {start['import npgpt']['seconds']:.2f} s. `npgpt --help`: "
        f"{start['npgpt --help']['seconds']:.2f} s.{generate}\n"
    )


def limits(folder: str = "", names: tuple[str, ...] = COMPARED) -> str:
    """docs/performance.md: every comparison in float32, with its target."""
    on = machine_of(measured(folder, names) or [folder + names[0]])
    return f"{compared(comparisons(folder, names))}\n\n{on}.\n"


def limits_narrow() -> str:
    """docs/performance.md: every comparison in bfloat16 and int8."""
    return limits(names=NARROW_COMPARED)


def losses() -> str:
    """docs/performance.md: the works in which another program is ahead."""
    found = best(comparisons(), "s") + best(comparisons(names=NARROW_COMPARED), "s")
    rows = [row_of(c)[:5] for c in found if is_lost(c)]
    head = ["work", "npgpt", "fastest program", "its time", "ratio (lower is better)"]
    return f"{table([head, *rows])}\n" if rows else "None, in this measurement.\n"


def limits_avx2() -> str:
    """docs/performance.md: the same on a CPU that has AVX2 alone."""
    return limits("avx2/", COMPARED + NARROW_COMPARED)


def step_by_op() -> str:
    """docs/performance.md: npgpt profile of a training step."""
    return printed(profile.print_report, "step")


def token_by_op() -> str:
    """docs/performance.md: npgpt profile --generate."""
    return printed(profile.print_report, "token")


def how_long() -> str:
    """docs/performance.md: npgpt estimate."""
    return printed(estimate.print_report, "estimate")


def growth() -> str:
    """docs/performance.md: the curves and their summary."""
    said, on = results("growth")["sayings"], machine(results("growth"))
    return (
        f"- A token more of one sequence costs {said['bytes_per_token_to_512'] / 1e6:.2f} MB "
        f"between 256 and 512 tokens, {said['bytes_per_token_to_1024'] / 1e6:.2f} MB between 512 "
        "and 1024. If attention kept its T x T probabilities, the second would be 0.44 MB more.\n"
        f"- The line through 1 and 4 layers is off by {said['line_miss']:+.1%} at 12: that is how "
        "`npgpt estimate` reaches further than it measures.\n"
        f"- One thread takes {said['two_threads']:.2f} times as long as two, for a step of 512 "
        "tokens.\n"
        f"- A token at position {said['last_position']} takes {said['latency_growth']:.2f} times "
        f"as long as at {said['first_position']}. It reads "
        f"{bytes_at(said['last_position']) / bytes_at(said['first_position']):.2f} times the "
        "bytes: all weights, and the keys and values so far.\n\n"
        + "".join(f"![{title}](images/{name}.png)\n\n" for name, title in PICTURES.items())
        + f"{on}.\n"
    )


PICTURES = {
    "step-over-length": "Seconds and memory of a training step over the length of its sequence",
    "step-over-batch": "Seconds and memory of a training step over the number of sequences",
    "step-over-layers": "Seconds and memory of a training step over the number of layers",
    "step-over-width": "Seconds and memory of a training step over the width of the model",
    "token-latency": "Milliseconds of a new token over its position",
}


def drift() -> str:
    """docs/book.md: the log's differences."""
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


def narrow_ratios() -> str:
    """docs/precision.md: beside float32 and, of the other programs, the best."""
    rows = results("products")["comparisons"] + comparisons(names=NARROW_COMPARED)
    chosen = best(rows, "s") + best(rows, "GB")
    rows = [c for c in rows if c in chosen or "float32" in c["beside"]]
    return f"{compared(rows)}\n\n{machine(results('products'))}.\n"


def narrow_accuracy() -> str:
    """docs/precision.md: perplexity and greedy text of trained models."""
    said = []
    for model, where in TRAINED.items():
        found = results(f"precision_{model}")
        said.append(
            f"{where}, {found['tokens']:,} tokens:\n\n"
            f"{table(precision.weight_rows(found['weights']))}\n"
        )
    return "\n".join(said)


def narrow_book() -> str:
    """docs/precision.md: the book's log in bfloat16."""
    found = results("precision_book")
    ends = " / ".join(f"{loss:.3f}" for loss in found["end"])
    return (
        f"{table(precision.book_rows(found['lines']))}\n\n"
        f"At most {found['largest_of_first']:.4f} apart in the first {precision.FIRST_STEPS} steps "
        f"(to be below {found['largest_of_first_at_most']}), {found['largest']:.3f} anywhere; the "
        f"end is {ends}.\n"
    )


def narrow_xl() -> str:
    """docs/precision.md: the memory of gpt2-xl."""
    found = results("precision_xl")
    return (
        f"gpt2-xl's shape with int8 weights, {found['new_tokens']} tokens generated: "
        f"{found['bytes'] / 1e9:.2f} GB at the most (to be below {found['at_most'] / 1e9:.1f} GB), "
        f"where its float32 weights alone are {found['float32_bytes'] / 1e9:.1f} GB.\n"
    )


def scale() -> str:
    """docs/scale.md: the efficiency of many machines, by npgpt estimate's model."""
    found, said = results("scaling"), []
    for name, file in scaling.PICTURES.items():
        one = found[name]
        said.append(
            f"{name[0].upper()}{name[1:]}, {one['tokens_per_s']:,.0f} tokens/s:\n\n"
            f"![Efficiency over the number of machines](images/{file}.png)\n\n"
            f"The most machines with an efficiency of at least {scaling.ENOUGH:.0%}:\n\n"
            f"{table(scaling.end_rows(one['curves']))}\n\n"
            f"One run on {scaling.RUN / 1e9:.0f} billion tokens, "
            f"{scaling.STEPS['0.5 million']:,} in a step; data parallel, then DiLoCo:\n\n"
            f"{table(scaling.run_rows(one['runs']))}\n"
        )
    return "\n".join(said)


def page() -> str:
    """docs/play.md: size, first picture and slider of the page."""
    found = results("play")
    limits, usable = found["limits"], found["usable"]
    rows = [
        ["what", "measured", "limit"],
        ["size of the page", f"{found['bytes'] / 1e3:.0f} kB", f"{limits['bytes'] / 1e3:.0f} kB"],
        [
            "from the address to the first picture, kernels compiled",
            f"{statistics.median(usable):.2f} s ({min(usable):.2f} to {max(usable):.2f})",
            f"{limits['usable']:.1f} s",
        ],
        [
            "from a slider to the picture, 50,257 tokens, 95th percentile",
            f"{1e3 * found['shown']:.0f} ms, of which {1e3 * found['drawn']:.0f} ms computing",
            f"{1e3 * limits['slider']:.0f} ms",
        ],
    ]
    names = {"tiny": "the bundled model", "124M": "a 124M"}
    for call, what in PAGE_CALLS.items():
        for shape, calls in found.get("answers", {}).items():
            seconds, limit = calls[call], limits.get(call, {}).get(shape)
            measured = (
                f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
            )
            rows.append([f"{what}, {names[shape]}", measured, f"{limit:.1f} s" if limit else ""])
    return f"{table(rows)}\n\n{machine(found)}.\n"


PAGE_CALLS = {
    "backward": "backwards, 33 tokens, from the request to the whole answer",
    "step": "one step of AdamW, the same",
    "nudge": "the first nudge of a text, the same",
}
PAGES: dict[str, list[Callable[[], str]]] = {
    "README.md": [speed],
    "docs/book.md": [drift],
    "docs/precision.md": [narrow_ratios, narrow_accuracy, narrow_book, narrow_xl],
    "docs/performance.md": [
        limits,
        limits_narrow,
        losses,
        limits_avx2,
        step_by_op,
        token_by_op,
        growth,
        how_long,
    ],
    "docs/scale.md": [scale],
    "docs/play.md": [page],
}


def results(name: str) -> dict:
    """Return the results that a benchmark has written."""
    return json.loads((RESULTS / f"{name}.json").read_text("utf-8"))


def comparisons(folder: str = "", names: tuple[str, ...] = COMPARED) -> list[dict]:
    """Return the comparisons of all existing results."""
    return [one for name in measured(folder, names) for one in results(name)["comparisons"]]


def measured(folder: str, names: tuple[str, ...]) -> list[str]:
    """Return the names that have results."""
    given = [folder + name for name in names]
    return [name for name in given if (RESULTS / f"{name}.json").exists()]


def best(found: list[dict], unit: str) -> list[dict]:
    """Return, for each work, the comparison with the best other program."""
    chosen: dict[str, dict] = {}
    for c in found:
        if c["unit"] == unit and is_alternative(c):
            before = chosen.setdefault(c["work"], c)
            chosen[c["work"]] = min(before, c, key=lambda one: one["other"])
    return list(chosen.values())


def is_lost(comparison: dict) -> bool:
    """Return True if the other program is ahead, as the table rounds."""
    return round(comparison["ratio"]["median"], 2) > 1


def split_weights(work: str) -> tuple[str, str]:
    """Return a work without its weights, and the weights."""
    for weights in WEIGHTS:
        for end in (f", {weights} weights", f", {weights}"):
            if work.endswith(end):
                return work.removesuffix(end), weights
    return work, "float32"


def is_alternative(comparison: dict) -> bool:
    """Return True if the baseline is another program, not npgpt or a lower bound."""
    return not comparison["beside"].startswith(("npgpt", "lower bound"))


def bytes_at(position: int) -> int:
    """Return the bytes that a new token of the 124M shape reads at this position."""
    config = Config()
    return flops.token_bytes(config) + 4 * 2 * config.n_layer * config.n_embd * position


def printed(show: Callable[[dict], None], name: str) -> str:
    """Return a command's output as a block."""
    found, out = results("profile"), io.StringIO()
    with contextlib.redirect_stdout(out):
        show(found[name])
    return f"```\n{out.getvalue()}```\n\n{machine(found)}.\n"


def machine(found: dict) -> str:
    """Return cores, CPU, versions and commit."""
    about = found["machine"]
    bits = about.get("vector_bits", 512)
    cpu = about["cpu"] + f", vectors of {bits} bits" * (bits < 512)
    on = f"{about['cores']} cores ({cpu}), {versions(about)}"
    return f"{on}, commit {commit_of(found)}"


def machine_of(names: list[str]) -> str:
    """Return the machine of the first result, and the commit of each other one that differs."""
    on, first = machine(results(names[0])), commit_of(results(names[0]))
    others: dict[str, list[str]] = {}
    for name in names:
        others.setdefault(commit_of(results(name)), []).append(Path(name).name)
    others.pop(first)
    return on + "".join(f"; {', '.join(some)}: commit {commit}" for commit, some in others.items())


def commit_of(found: dict) -> str:
    """Return the commit that was measured."""
    commit = found["machine"]["commit"] or "unknown"
    return commit[:10] + " and changes" * commit.endswith("-dirty")


def versions(machine: dict) -> str:
    """Return the versions of PyTorch, NumPy and Numba."""
    return f"PyTorch {machine['torch']}, NumPy {machine['numpy']}, Numba {machine['numba']}"


def figures(function: Callable[[], str]) -> str:
    """Return the function's figures, or that nothing was measured yet."""
    try:
        return function()
    except FileNotFoundError as error:
        return f"Not measured yet: there is no benchmarks/results/{Path(error.filename).name}.\n"


def written(page: str) -> str:
    """Return the page with its figures."""
    text, made = (ROOT / page).read_text("utf-8"), ""
    for function in PAGES[page]:
        before, rest = text.split(START, 1)
        text = rest.split(END, 1)[1]
        made += f"{before}{START}{figures(function)}{END}"
    return made + text


def main() -> None:
    for page in PAGES:
        (ROOT / page).write_text(written(page), "utf-8")


if __name__ == "__main__":
    main()
