"""`--map mine=theirs`: a tensor of the port, or a layer, and the tensor of npgpt that it is."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from npgpt.errors import InputError, show
from npgpt.parity.matching.axes import ACTIVATIONS, PARAMETERS, Slot, is_within, without_single
from npgpt.parity.matching.conventions import LEAVES

KIND = re.compile(r"(param|grad|act|dact|mask|after\d{1,6})/(.+)", re.DOTALL)
TARGET = re.compile(r"(h\.(?P<i>\d{1,6}|\{i\}|#)\.)?(?P<rest>.+)")
PART = re.compile(r"attn\.c_attn(\.(?P<part>[qkv]))?(\.(?P<h>\d{1,6}|\{h\}))?(?P<leaf>\.\w+)?")
ACTIVATION_KINDS = "act", "dact", "mask"
EXAMPLES = "h.0.attn.c_proj, h.{i}.mlp.c_fc.weight or h.0.attn.c_attn.q"


@dataclass(frozen=True)
class Rename:
    """One `--map`, read."""

    text: str
    kind: str  # "" for all kinds
    pattern: re.Pattern
    target: str

    def slot(self, kind: str, name: str, sizes: Mapping[str, int]) -> Slot | None:
        """Return the slot of a tensor to which this applies, as `find` has found; None for none.

        The rename of a layer, without a kind, is one of its output too.

        Raises InputError if npgpt has no such tensor.
        """
        found = self.pattern.fullmatch(name)
        assert found is not None
        fields, leaf = found.groupdict(), found["leaf"]
        if not self.target:
            return None
        slot = parse_target(self.target, fields, LEAVES.get(leaf or "", ""), kind)
        if slot is None and not self.kind and kind in ACTIVATION_KINDS and leaf is None:
            layer = parse_target(self.target, fields, "", "param")  # whose output is meant
            if layer is not None and layer.module in ("wte", "wpe", "lm_head"):
                return Slot("logits") if layer.module == "lm_head" else None
        if slot is None or not is_within(slot, sizes):
            raise InputError(
                f"--map {self.text}: npgpt has no {show(self.target)} that {show(name)} could be; "
                f"names are as {EXAMPLES}"
            )
        return without_single(slot, sizes)


def parse(renames: Mapping[str, str]) -> list[Rename]:
    """Return the renames. Raises InputError for one that is not understood."""
    found = []
    for mine, theirs in renames.items():
        text = f"{mine}={theirs}"
        (kind, own), (other, target) = split_kind(mine), split_kind(theirs)
        if not own or (other and kind and other != kind):
            raise InputError(f"--map {text} must be mine=theirs: the port's name and npgpt's")
        parts = re.split(r"(\{[ih]\})", own)
        fields = {"{i}": r"(?P<i>\d{1,6})", "{h}": r"(?P<h>\d{1,6})"}
        try:
            pattern = re.compile(
                "".join(fields.get(part) or re.escape(part) for part in parts)
                + rf"(?:[./](?P<leaf>{'|'.join(LEAVES)}))?"
            )
        except re.error:
            raise InputError(f"--map {text} has a number in braces twice") from None
        found.append(Rename(text, kind or other, pattern, target))
    return found


def split_kind(name: str) -> tuple[str, str]:
    """Return the kind of a name, or "", and the rest: "grad/wte" -> "grad", "wte"."""
    found = KIND.fullmatch(name)
    return (found[1], found[2]) if found else ("", name)


def find(renames: list[Rename], kind: str, name: str) -> Rename | None:
    """Return the rename that applies to a tensor, the last one given, or None."""
    for one in reversed(renames):
        if one.kind in ("", kind) and one.pattern.fullmatch(name):
            return one
    return None


def parse_target(
    target: str, fields: Mapping[str, str | None], leaf: str, kind: str
) -> Slot | None:
    """Return the slot that the right side of a rename names. None if there is no such tensor."""
    read = TARGET.fullmatch(target)
    if read is None:
        return None
    layer, rest, part, head = read["i"], read["rest"], None, None
    if inside := PART.fullmatch(rest):
        part = None if inside["part"] is None else "qkv".index(inside["part"])
        head = fields.get("h") if inside["h"] == "{h}" else inside["h"]
        rest = "attn.c_attn" + (inside["leaf"] or "")
    layer = fields.get("i") if layer == "{i}" else None if layer == "#" else layer
    family = f"h.#.{rest}" if read["i"] else rest
    table = ACTIVATIONS if kind in ACTIVATION_KINDS else PARAMETERS
    if family not in table and leaf:
        family = f"{family}.{leaf}"
    if family not in table and table is PARAMETERS and f"{family}.weight" in table:
        family = f"{family}.weight"
    if family not in table:
        return None
    numbers = [None if text is None else int(text) for text in (layer, head)]
    return Slot(family, numbers[0], part, numbers[1])


def check_used(renames: list[Rename], used: set[str], names: set[str]) -> None:
    """Raise InputError unless every rename applied to a tensor of the dump."""
    for one in renames:
        if one.text not in used:
            mine, _, theirs = one.text.partition("=")
            swapped = split_kind(theirs)[1] in names or theirs in names
            hint = f": is it --map {theirs}={mine}?" if swapped else ""
            raise InputError(f"--map {one.text}: the dump has no tensor {show(mine)}{hint}")
