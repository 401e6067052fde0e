"""Diagnose two ports of GPT-2 with each of the planted bugs, and count the causes named rightly.

    python -m parity_tests.support.planted_bugs [NAME ...] [--weights lively,initial]
                                                [--dumps everything,gradients] [--failures]

parity_tests/ports/expected.py says which entry of the catalogue is the cause of each bug. The
bugs are older than that table, and their author had not seen the catalogue.
"""

import argparse
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, product

import numpy as np

from npgpt.gpt import GPT
from npgpt.model.params import named
from npgpt.parity import diagnosis, matching, order, probe
from npgpt.parity.dump import make
from npgpt.parity.probe import Probe
from parity_tests.ports import bugs, files
from parity_tests.ports.expected import EXPECTED
from parity_tests.ports.odd_bugs import HARMLESS

GRADIENTS = ("loss", "grad")
WEIGHTS, DUMPS = ("lively", "initial"), {"everything": files.KINDS, "gradients": GRADIENTS}
SHOWS = 1e-4  # of a tensor's largest number: a smaller difference may be rounding
EXACT = 1e-9  # of a tensor's largest number: a larger difference in float64 is not rounding
SMALL = 1e-3  # of a tensor whose exact value may be 0
LABS: dict = {}  # GPT-2 with each mistake, by weights and settings: computed once for all dumps

VERDICTS = ("named", "named among others", "no cause", "wrong cause", "not seen", "cannot show",
            "error")  # fmt: skip


@dataclass(frozen=True)
class Result:
    """The diagnosis of a port with bugs. `verdict` is one of VERDICTS."""

    names: tuple[str, ...]
    weights: str
    dump: str
    verdict: str
    first: str  # the first wrong tensor that was reported, "" if none
    first_is_right: bool
    causes: tuple[tuple[str, ...], ...]
    wrong_ops: tuple[str, ...] = ()


@cache
def probe_of(weights: str, settings: tuple[tuple[str, object], ...] = ()) -> Probe:
    """Return the tiny probe with lively or GPT-2's initial weights and these settings."""
    made = probe.make()
    if weights == "initial":
        model = GPT(made.config, seed=7, dtype="float32", ops="numpy")
        made = replace(made, params=model.params)
    return replace(made, settings=replace(made.settings, **dict(settings)))


def files_of(made: Probe) -> files.Probe:
    """Return a probe as the ports read it."""
    return files.Probe(
        {**vars(made.config)},
        {**vars(made.settings)},
        dict(named(made.params)),
        made.tokens,
        made.targets,
    )


def run(port, names, weights, kinds, settings=(), dtype="float32"):
    """Return the arrays that a port with these bugs dumps."""
    if dict(settings).get("dropout"):  # each step has masks of its own, which are not dumped
        kinds = {*kinds, "mask"} - {"after"}
    with warnings.catch_warnings():  # bugs overflow
        warnings.simplefilter("ignore")
        return bugs.plant(port, *names).run(files_of(probe_of(weights, settings)), kinds, dtype)


@cache
def clean(port, weights, dump, settings):
    """Return the dump of the clean port in float64, and its names by npgpt's, in order."""
    made = probe_of(weights, settings)
    found = run(port, (), weights, DUMPS[dump], settings, "float64")
    match = matching.match(make(found), made, {})
    ordered = order.sort(match.tensors, made.config)
    return found, {name: port_names(name, match.names.get(name, name)) for name in ordered}


def port_names(name, theirs) -> list[str]:
    """Return the names in the dump of a tensor whose parts are joined by commas."""
    kind, slash, _ = name.partition("/")
    return [f"{kind}/{one.strip()}" for one in theirs.split(",")] if slash else [name]


def differences(names, port, weights, dump, settings) -> dict[str, float]:
    """Return how far bugs move each tensor, as a share of its largest number, in float64.

    By npgpt's names, in the order of computation. A tensor that is missing is inf away.
    """
    right, theirs = clean(port, weights, dump, settings)
    wrong = run(port, names, weights, DUMPS[dump], settings, "float64")
    return {name: max(distance(wrong.get(one), right[one]) for one in own)
            for name, own in theirs.items()}  # fmt: skip


def distance(wrong, right) -> float:
    """Return the largest difference, as a share of the largest number."""
    if wrong is None or wrong.shape != right.shape:
        return np.inf
    found = np.abs(wrong - np.float64(right)).max() / max(np.abs(right).max(), SMALL)
    return found if np.isfinite(found) else np.inf


def is_first(name, moved) -> bool:
    """Return True if a tensor is wrong, and none before it is wrong by more than rounding."""
    before = list(moved)[: list(moved).index(name)] if name in moved else []
    return moved.get(name, 0) > EXACT and all(moved[one] <= SHOWS for one in before)


def diagnose(weights, found, settings=()) -> diagnosis.Diagnosis:
    """Return the diagnosis of the arrays that a port dumped."""
    labs = LABS.setdefault((weights, settings), [])
    try:
        return diagnosis.diagnose(make(found), probe_of(weights, settings), labs=labs)
    finally:
        for lab in labs:  # those of two mistakes are too many to keep
            lab.runs = {key: made for key, made in lab.runs.items() if len(key) < 2}


def check(names, weights, dump) -> Result:
    """Return the diagnosis of a port with these bugs."""
    known = bugs.every()
    port = known[names[0]].port
    settings = tuple(setting for name in names for setting in known[name].settings)
    expected = [EXPECTED.get(name, ()) for name in names]
    found = run(port, names, weights, DUMPS[dump], settings)

    moved = differences(names, port, weights, dump, settings)

    def result(verdict, first="", causes=(), wrong_ops=()):
        rights = tuple(one for name in names for one in known[name].first)
        is_right = bool(first) and (first.startswith(rights) or is_first(first, moved))
        return Result(names, weights, dump, verdict, first, is_right, causes, wrong_ops)

    try:
        said = diagnose(weights, found, settings)
    except Exception as error:
        return result("error", f"{type(error).__name__}: {error}")
    causes = tuple(tuple(one.name for one in some) for some in said.causes)
    first = said.first_wrong.name if said.first_wrong else ""
    if said.arithmetic != "float32" and all((said.arithmetic,) in right for right in expected):
        return result("named", first)
    if said.agrees:
        visible = max(moved.values()) > SHOWS
        return result("not seen" if visible else "cannot show")
    verdict = verdict_of(causes, expected)
    return result(verdict, first, causes, tuple(map(str, said.wrong_ops)))


def verdict_of(causes, expected) -> str:
    """Return the verdict on chains of causes. `expected`: for each bug, the chains that are right.

    A chain is right if it has, for every bug, the entries of one of its right chains, and no other.
    """
    if not causes:
        return "no cause"
    rights = {tuple(sorted(chain(*some))) for some in product(*expected)}
    found = [tuple(sorted(one)) in rights for one in causes]
    if all(found):
        return "named"
    return "named among others" if any(found) else "wrong cause"


def main():
    parser = argparse.ArgumentParser(prog="python -m parity_tests.support.planted_bugs")
    parser.add_argument("names", nargs="*", help="bugs, or sets of bugs joined by +")
    parser.add_argument("--weights", default=",".join(WEIGHTS))
    parser.add_argument("--dumps", default=",".join(DUMPS))
    parser.add_argument("--failures", action="store_true", help="print the failures only")
    args = parser.parse_args()
    harmless = {bug.name for bug in HARMLESS}
    chosen = [tuple(name.split("+")) for name in args.names] or [
        *((name,) for name in bugs.every() if name not in harmless),
        *bugs.COMBINATIONS,
    ]
    for weights in args.weights.split(","):
        for dump in args.dumps.split(","):
            report([check(names, weights, dump) for names in chosen], args.failures)


def report(results, failures_only):
    """Print the table of one kind of weights and dump, and the shares."""
    print(f"\n{results[0].weights} weights, {results[0].dump} dumped")
    for one in results:
        odd = all(not EXPECTED.get(name) for name in one.names)
        fine = one.verdict in ("cannot show", "no cause" if odd else "named")
        fine = fine and (one.first_is_right or one.verdict == "cannot show")
        if failures_only and fine:
            continue
        causes = " | ".join("+".join(some) for some in one.causes[:4])
        first = ("" if one.first_is_right else "NOT RIGHT: ") + one.first
        print(f"  {'+'.join(one.names):36} {one.verdict:18} {first:34} {causes}")
    summary("known", [r for r in results if len(r.names) == 1 and EXPECTED.get(r.names[0])])
    summary("unknown", [r for r in results if len(r.names) == 1 and not EXPECTED.get(r.names[0])])
    summary("pairs, triples", [r for r in results if len(r.names) > 1])


def summary(title, results):
    """Print the shares of the verdicts, and of right first tensors."""
    seen = [one for one in results if one.verdict != "cannot show"]
    counts = Counter(one.verdict for one in results)
    shares = ", ".join(f"{counts[name]} {name}" for name in VERDICTS if counts[name])
    rights = sum(one.first_is_right for one in seen)
    print(f"  {title}: {len(results)}: {shares}; first tensor right in {rights} of {len(seen)}")


if __name__ == "__main__":
    main()
