"""The report of a diagnosis, as text for a terminal and as JSON."""

import math
import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from npgpt.parity.diagnosis import Diagnosis, Finding
from npgpt.parity.mistakes import Mistake
from npgpt.parity.order import kind_of, step_of
from npgpt.system.terminal import number_of, printable_line

INDENT = " " * 8
MAX_NAMES = 8  # listed one by one; more are counted
FEW = 4  # gradients listed one by one
MAX_NAME = 80  # characters of a name of the port
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
    """Return the lines of the right tensors before the first wrong one, and of the wrong ones."""
    first = diagnosis.first_wrong
    if first is None:
        count = number_of(len(diagnosis.findings), "tensor")
        return [f"right   {summary(diagnosis.findings, diagnosis.findings)}",
                f"The port agrees: {count} within the rounding budget."]  # fmt: skip
    start = diagnosis.findings.index(first)
    before, after = diagnosis.findings[:start], diagnosis.findings[start + 1 :]
    lines = []
    if before:
        lines.append(f"right   {summary(before, diagnosis.findings)}")
    also = [one for one in after if not one.is_right]
    more = f"; also {summary(also, also)}" if also else ""
    lines.append(f"WRONG   {describe(first.name)}{theirs(first)}    {size_of(first)}{more}")
    lines.append(INDENT + element(first))
    later = len(after) - len(also)
    if later:
        given = ", given the port's own parameters" if kind_of(first.name) == "param" else ""
        lines.append(f"right   {number_of(later, 'tensor')} after it{given}")
    return lines


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


def describe(name: str) -> str:
    """Return a canonical name in words: "gradient of ln_f.bias" for "grad/ln_f.bias"."""
    kind, _, rest = name.partition("/")
    match kind:
        case "act":
            return rest
        case "param":
            return f"parameter {rest}"
        case "grad":
            return f"gradient of {rest}"
        case "dact":
            return f"gradient of activation {rest}"
    if step_of(name):
        return f"{rest} after {number_of(step_of(name), 'step')}"
    return kind.replace("_", " ")


def summary(findings: Sequence[Finding], among: Sequence[Finding]) -> str:
    """Return the names of tensors by kind. A block is one name if all of `among`'s are in it."""
    parts = []
    for kind, names in by_kind(findings).items():
        short = collapse(names, by_kind(among)[kind])
        if kind == "act" and len(short) <= MAX_NAMES:
            parts.append(", ".join(short))
        elif kind in ("grad", "dact") and len(short) <= FEW:
            parts.append(f"{KINDS[kind]} ({', '.join(short)})")
        elif kind in KINDS and len(names) > 1:
            parts.append(f"{len(names)} {KINDS[kind]}")
        elif k := step_of(kind):
            parts.append(f"{number_of(len(names), 'parameter')} after {number_of(k, 'step')}")
        else:
            parts.append(describe(f"{kind}/{names[0]}" if names[0] else kind))
    return ", ".join(parts)


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
    if diagnosis.first_wrong is None:
        return []
    if not diagnosis.causes:
        last, first = diagnosis.between
        where = f"is between {describe(last)} and" if last else "is at or before"
        lines = [f"cause   no known mistake reproduces it; the error {where} {describe(first)}"]
        if diagnosis.within:
            lines.append(f"{INDENT}products in {diagnosis.within} would explain it: all tensors "
                         "are within its rounding budget")  # fmt: skip
        return lines
    explained = len(diagnosis.findings) - diagnosis.right_cache
    tensors = f"all {number_of(explained, 'tensor')} within rounding"
    if diagnosis.right_cache:
        tensors += " but the cached logits, which are right"
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


def where_of(mistake: Mistake) -> str:
    """Return the right line of code, and the page about the mistake."""
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
        shown = ", ".join(map(describe, names[:MAX_NAMES]))
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        lines.append(f"{INDENT}{op}: {shown}{more}")
    return lines


def not_checked(diagnosis: Diagnosis) -> list[str]:
    """Return the lines of what was not compared, and why."""
    lines = []
    if diagnosis.not_dumped:
        kinds = ", ".join(KINDS[kind] for kind in diagnosis.not_dumped)
        lines.append(f"not checked: {kinds} (not dumped)")
    if diagnosis.unused:
        names = [printable_line(name, MAX_NAME) for name in diagnosis.unused[:MAX_NAMES]]
        more = f" and {len(diagnosis.unused) - MAX_NAMES} more" * (
            len(diagnosis.unused) > MAX_NAMES
        )
        lines.append(f"not used: {', '.join(names)}{more} (no tensor of GPT-2 by value or name)")
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
