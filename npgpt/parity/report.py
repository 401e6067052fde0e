"""The report of a diagnosis, as text for a terminal and as JSON."""

import math
import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from npgpt.parity.diagnosis import Diagnosis
from npgpt.parity.findings import Finding
from npgpt.parity.mistakes import Mistake
from npgpt.parity.order import kind_of, step_of
from npgpt.parity.where import describe
from npgpt.system.terminal import number_of, printable_line

INDENT = " " * 8
MAX_NAMES = 8  # right ones listed one by one; more are counted
FEW = 4  # gradients listed one by one
SHOWN = 3  # wrong, unused or loaded ones listed; more are counted
MAX_NAME = 80  # characters of a name of the port
DROPOUT = "docs/backprop/dropout.md"
LOADS = "npgpt.parity.steps:tie"  # where mistakes of loading are edits
KINDS = {  # in the plural
    "param": "parameters", "act": "activations", "dact": "gradients of activations",
    "grad": "gradients", "logits": "logits", "logits_again": "the same forward again",
    "loss": "loss", "after": "optimizer", "cached_logits": "cached logits",
}  # fmt: skip


def text(diagnosis: Diagnosis, width: int | None = None) -> str:
    """Return the report in lines, without control characters.

    `width`: in characters, at which lines end. None: they end nowhere.
    """
    lines = [*diagnosis.notes, *arithmetic(diagnosis), *verdict(diagnosis), *causes(diagnosis)]
    lines += [*ops(diagnosis), *not_checked(diagnosis)]
    lines = [printable_line(line) for line in lines]
    return "\n".join(lines if width is None else (wrap(line, width) for line in lines))


def wrap(line: str, width: int) -> str:
    """Return a line in lines of a width, the later ones indented as the report's columns are."""
    return textwrap.fill(line, width, subsequent_indent=INDENT,
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip


def arithmetic(diagnosis: Diagnosis) -> list[str]:
    """Return a line if the port multiplies in 16 bits."""
    if diagnosis.arithmetic == "float32":
        return []
    return [f"products are in {diagnosis.arithmetic}: its rounding budget applies"]


def verdict(diagnosis: Diagnosis) -> list[str]:
    """Return the lines of the right tensors before the first wrong one, and of the wrong ones.

    Wrong parameters have lines of their own: all else is compared as the port has loaded them.
    """
    findings = diagnosis.findings
    if diagnosis.agrees:
        count = number_of(len(findings), "tensor")
        return [f"right   {summary(findings, findings)}",
                f"The port agrees: {count} within the rounding budget."]  # fmt: skip
    if all(one.is_right for one in diagnosis.parameters):
        return lines_of(findings)
    lines = lines_of(diagnosis.parameters) + loaded(diagnosis)
    if diagnosis.first_computed_wrongly is None:
        count = number_of(len(diagnosis.computed), "other tensor")
        whose = "the probe's" if diagnosis.is_overwritten else "the port's own"
        return [*lines, f"right   {count}, given {whose} parameters"]
    return [*lines, "given the port's own parameters:", *lines_of(diagnosis.computed)]


def lines_of(findings: Sequence[Finding]) -> list[str]:
    """Return the lines of some tensors, of which one at least is wrong."""
    start = next(i for i, one in enumerate(findings) if not one.is_right)
    first, before, after = findings[start], findings[:start], findings[start + 1 :]
    lines = [f"right   {summary(before, findings)}"] if before else []
    also = [one for one in after if not one.is_right]
    more = f"; also {few(parts_of(also, after))}" if also else ""
    lines.append(f"WRONG   {describe(first.name)}{theirs(first)}    {size_of(first)}{more}")
    lines.append(INDENT + element(first))
    if later := [one for one in after if one.is_right]:
        if kind_of(first.name) == "param":
            shown = number_of(len(later), "parameter")
        elif len(later) > SHOWN:
            shown = number_of(len(later), "tensor")
        else:
            shown = ", ".join(describe(one.name) for one in later)
        lines.append(f"right   {shown} after it")
    return lines


def loaded(diagnosis: Diagnosis) -> list[str]:
    """Return a line for each way in which parameters were loaded wrongly."""
    return [f"loaded  {few([(name, 1) for name in one.names])}: {one.says}"
            for one in diagnosis.loaded]  # fmt: skip


def few(parts: Sequence[tuple[str, int]]) -> str:
    """Return the first parts of a list, and how many tensors the rest has. Each has a number."""
    rest = sum(count for _, count in parts[SHOWN:])
    return ", ".join(text for text, _ in parts[:SHOWN]) + (f" and {rest} more" if rest else "")


def theirs(finding: Finding) -> str:
    """Return the port's name of a tensor in parentheses, if it differs."""
    bare = finding.name.partition("/")[2]
    if finding.port_name in ("", finding.name, bare):
        return ""
    return f" ({printable_line(finding.port_name, MAX_NAME)})"


def size_of(finding: Finding) -> str:
    """Return how far outside of the rounding budget a tensor is."""
    if not math.isfinite(finding.factor):
        return "not a finite number"
    return f"{finding.factor:.2g} x the rounding budget"


def element(finding: Finding) -> str:
    """Return the first wrong element with both numbers."""
    index = f"at [{', '.join(map(str, finding.at))}]: " if finding.at else ""
    return f"{index}{finding.found:.7g}, expected {finding.expected:.7g}"


def summary(findings: Sequence[Finding], among: Sequence[Finding]) -> str:
    """Return the names of tensors by kind. A block is one name if all of `among`'s are in it."""
    return ", ".join(text for text, _ in parts_of(findings, among))


def parts_of(findings: Sequence[Finding], among: Sequence[Finding]) -> list[tuple[str, int]]:
    """Return the parts of a summary, each with its number of tensors."""
    parts = []
    for kind, names in by_kind(findings).items():
        short = collapse(names, by_kind(among)[kind])
        if kind == "act" and len(short) <= MAX_NAMES:
            inside = [sum(is_in(name, one) for name in names) for one in short]
            parts += list(zip(short, inside, strict=True))
            continue
        if kind in ("grad", "dact") and len(short) <= FEW:
            text = f"{KINDS[kind]} ({', '.join(short)})"
        elif kind in KINDS and len(names) > 1:
            text = f"{len(names)} {KINDS[kind]}"
        elif k := step_of(kind):
            text = f"{number_of(len(names), 'parameter')} after {number_of(k, 'step')}"
        else:
            text = describe(f"{kind}/{names[0]}" if names[0] else kind)
        parts.append((text, len(names)))
    return parts


def is_in(name: str, part: str) -> bool:
    """Return True if an activation is a part of a summary: itself, or one of "h.0 to h.2"."""
    block, bounds = block_of(name), [part] if " to " not in part else part.split(" to ")
    if block is None or name == part:
        return name == part
    numbers = [int(one[2:]) for one in bounds if one[2:].isdecimal()]
    return bool(numbers) and numbers[0] <= block <= numbers[-1]


def by_kind(findings: Sequence[Finding]) -> dict[str, list[str]]:
    """Return names without their kind, by kind, in the order of computation."""
    found: dict[str, list[str]] = {}
    for one in findings:
        found.setdefault(kind_of(one.name), []).append(one.name.partition("/")[2])
    return found


def collapse(names: Sequence[str], among: Sequence[str]) -> list[str]:
    """Return names, with "h.0 to h.2" for blocks of which all names among `among` are included."""
    present, found, blocks = set(names), [], list[int]()

    def end() -> None:
        if blocks:
            first, last = min(blocks), max(blocks)
            found.append(f"h.{first}" if first == last else f"h.{first} to h.{last}")
            blocks.clear()

    for block, group in groupby(names, key=block_of):
        own = list(group)
        if block is not None and len(own) == len([n for n in among if block_of(n) == block]):
            blocks.append(block)
            continue
        end()
        found += own
    end()
    return found if present else []


def block_of(name: str) -> int | None:
    """Return the number of the block that a tensor belongs to, or None."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "h" and len(parts) > 2 else None


def causes(diagnosis: Diagnosis) -> list[str]:
    """Return the lines of the causes, or of where the error is if none is known."""
    if diagnosis.agrees:
        return []
    if diagnosis.randomness and (diagnosis.randomness.dropped or not diagnosis.causes):
        return random(diagnosis)
    if not diagnosis.causes:
        return unknown(diagnosis)
    explained = len(diagnosis.findings) - diagnosis.right_cache - diagnosis.randomness.again
    explained -= diagnosis.moved
    tensors = f"all {number_of(explained, 'tensor')} within rounding"
    if diagnosis.within:
        tensors += f" of {diagnosis.within}"
    if diagnosis.moved:
        moved = number_of(diagnosis.moved, "input")
        tensors += f" but {moved} of layers, which it changes"
    if diagnosis.right_cache:
        tensors += " but the cached logits, which are right"
    if diagnosis.randomness.again:
        tensors += " but logits again, which differ from the logits"
    lines = []
    if len(diagnosis.causes) > 1:
        apart = f"; {describe(diagnosis.tell_apart)} would" if diagnosis.tell_apart else ""
        count = len(diagnosis.causes)
        lines.append(f"cause   one of {count}, which this dump cannot tell apart{apart}")
    for chain in diagnosis.causes:
        head = INDENT if lines else "cause   "
        if len(chain) > 1:
            lines.append(f"{head}{len(chain)} mistakes, which together reproduce {tensors}")
            for mistake in chain:
                lines += [f"{INDENT}- {mistake.says}", f"{INDENT}  {where_of(mistake)}"]
        else:
            lines += [f"{head}{chain[0].says}: reproduces {tensors}", INDENT + where_of(chain[0])]
    return lines


def unknown(diagnosis: Diagnosis) -> list[str]:
    """Return the lines of where the error is, if no mistake is known that explains it."""
    if diagnosis.is_overwritten and diagnosis.loaded:
        return ["cause   the dump, not the port: all else is right with the probe's parameters",
                f"{INDENT}Were the port's changed later, by a step (dump copies)? Does it keep "
                "them in another form?"]  # fmt: skip
    if diagnosis.is_overwritten:
        return ["cause   the dump, not the port: all that is computed from these tensors is right",
                f"{INDENT}Were they overwritten later, as by x += ... (dump copies)? Are they not "
                "what their names say (--map)?"]  # fmt: skip
    if diagnosis.first_computed_wrongly is None:
        return ["cause   parameters are loaded wrongly, as said above: all else is right with them"]
    lines = [f"cause   no known mistake reproduces it; {diagnosis.where}"]
    if diagnosis.loaded:
        lines = ["cause   parameters are loaded wrongly, as said above, and there is another error",
                 INDENT + lines[0].removeprefix("cause   ")]  # fmt: skip
    if diagnosis.within:
        lines.append(f"{INDENT}products in {diagnosis.within} would explain it: all tensors "
                     "are within its rounding budget")  # fmt: skip
    if diagnosis.is_before_backward and (more := would_show(diagnosis)):
        lines.append(f"{INDENT}to find it, dump {', '.join(more)}")
    return lines


def would_show(diagnosis: Diagnosis) -> list[str]:
    """Return the tensors that are not in the dump and would tell more of a wrong forward pass."""
    names = {one.name for one in diagnosis.findings}
    more = []
    if not diagnosis.parameters:
        more.append("param/* (are parameters loaded wrongly?)")
    if "act" in diagnosis.not_dumped:
        more.append("act/* (which layer is the first wrong one?)")
    if not {"logits", "logits_again"} <= names and "cached_logits" not in names:
        more.append("logits and logits_again (is dropout on?)")
    return more


def random(diagnosis: Diagnosis) -> list[str]:
    """Return the lines of a forward pass that is random."""
    signs = diagnosis.randomness
    if signs.dropped:
        names = few([(name, 1) for name in signs.dropped])
        text = f"dropout is on: some numbers of {names} are 0, the others scaled by 1 / (1 - rate)"
        text += f" (rate {signs.rate:.2g})"
    else:
        text = "dropout is on, or something else is random"
    again = "; logits and logits_again, the same forward pass twice, differ" * signs.again
    return [f"cause   {text}{again}",
            f"{INDENT}Compute without it: model.eval(), or a rate of 0   {DROPOUT}"]  # fmt: skip


def where_of(mistake: Mistake) -> str:
    """Return the right line of code, and the page about the mistake. Loading has no line."""
    if mistake.right.where == LOADS:
        return mistake.page
    return f"{line_of(mistake)}   {mistake.page}"


def line_of(mistake: Mistake) -> str:
    """Return the file and the line of the right code: "npgpt/ops/attention.py:39"."""
    return f"{mistake.right.module.replace('.', '/')}.py:{mistake.right.line()}"


def ops(diagnosis: Diagnosis) -> list[str]:
    """Return the lines of the ops that are wrong on the port's own inputs."""
    if not diagnosis.wrong_ops:
        return []
    lines = ["wrong, given the port's own inputs:"]
    by_op: dict[str, list[str]] = {}
    for one in diagnosis.wrong_ops:
        by_op.setdefault(one.op, []).append(one.name)
    for op, names in by_op.items():
        lines.append(f"{INDENT}{op}: {few([(describe(name), 1) for name in names])}")
    return lines


def not_checked(diagnosis: Diagnosis) -> list[str]:
    """Return the lines of what was not compared, and why."""
    lines = []
    if diagnosis.not_dumped:
        kinds = ", ".join(KINDS[kind] for kind in diagnosis.not_dumped)
        lines.append(f"not checked: {kinds} (not dumped)")
    if diagnosis.unknown:
        names = [(printable_line(name, MAX_NAME), 1) for name in diagnosis.unknown]
        lines.append(f"not used: {few(names)} (no tensor of GPT-2 by value or name: see --map)")
    return lines


def as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the report as an object of JSON, without nan."""
    first = diagnosis.first_wrong
    return {
        "agrees": first is None,
        "matching": list(diagnosis.notes),
        "arithmetic": diagnosis.arithmetic,
        "within_arithmetic": diagnosis.within or None,
        "first_wrong": None if first is None else first.name,
        "between": list(diagnosis.between),
        "where": diagnosis.where,
        "loaded": [{"parameters": list(one.names), "says": one.says} for one in diagnosis.loaded],
        "dropped": list(diagnosis.randomness.dropped),
        "logits_differ_again": diagnosis.randomness.again,
        "is_overwritten": diagnosis.is_overwritten,
        "tensors": [finding_json(one) for one in diagnosis.findings],
        "causes": [[mistake_json(one) for one in chain] for chain in diagnosis.causes],
        "tell_apart": diagnosis.tell_apart,
        "wrong_ops": [
            {"op": one.op, "tensor": one.name, "since": one.since} for one in diagnosis.wrong_ops
        ],
        "not_dumped": list(diagnosis.not_dumped),
        "unused": list(diagnosis.unused),
    }


def finding_json(finding: Finding) -> dict[str, Any]:
    """Return one tensor as an object of JSON."""
    found: dict[str, Any] = {
        "name": finding.name, "port_name": finding.port_name, "stage": finding.stage,
        "right": finding.is_right, "factor": finite(finding.factor),
    }  # fmt: skip
    if not finding.is_right:
        found |= {
            "at": list(finding.at),
            "found": finite(finding.found),
            "expected": finite(finding.expected),
        }
    return found


def finite(number: float) -> float | None:
    """Return None for nan and infinity: JSON has neither."""
    return number if math.isfinite(number) else None


def mistake_json(mistake: Mistake) -> dict[str, Any]:
    """Return one cause as an object of JSON."""
    return {
        "name": mistake.name, "stage": mistake.stage, "says": mistake.says,
        "line": line_of(mistake), "page": mistake.page,
    }  # fmt: skip
