"""From a port's name of a tensor to the slots that it can mean, by the tables of conventions.py."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import pairwise, product

from npgpt.parity.matching.axes import PARAMETERS, Slot, is_within
from npgpt.parity.matching.conventions import (
    ACTIVATIONS_OF_LAYER,
    ACTIVATIONS_OUTSIDE,
    CONVENTIONS,
    INPUTS,
    LEAVES,
    LLMC_ACTIVATIONS,
    PREVIOUS,
    WORDS,
    WORDS_OF_LAYER,
)

LEAF = f"(?P<leaf>{'|'.join(LEAVES)})"
BLOCK = {"h", "block", "blocks", "layer", "layers", "resblocks", "l", "blk", "blks", "decoder"}
INPUT_WORDS = " in", " input"  # at the end of a name: what a layer reads
WRAPPED = {"out", "output", "outputs", "normalized"}  # at the end of an activation's name
FIELDS = {
    "{i}": r"(?P<i>\d+)",
    "{h}": r"(?P<h>\d+)",
    "{attention}": r"[a-z0-9 ]*attention[a-z0-9 ]*",
}
GUESSED = 1
TENSORS = 6  # of a block, at least, by which the word before its number is known
LARGEST = 10**6  # of the numbers in names


@dataclass(frozen=True)
class Meaning:
    """A slot that a name can mean. `order` is that of the columns of c_attn, if the name says it.

    A slot of None: a tensor that is known, and not compared. Of several names of one tensor, that
    with the lowest rank counts. Parameters of rank GUESSED are read by words.
    """

    slot: Slot | None
    order: str = ""
    rank: int = 0


@lru_cache(maxsize=1 << 16)
def words(name: str) -> str:
    """Return a name in lower case, split into words and numbers: "h.0.ln_1" -> "h 0 ln 1"."""
    name = re.sub(r":\d+$", "", re.sub(r"(?i)gpt\W?_?2", "gpt", name))
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name.replace("hook_", ""))
    return " ".join(re.findall(r"[a-z]+|\d+", name.lower()))


@cache
def compile_row(pattern: str) -> re.Pattern:
    """Return the regular expression of a row of a convention, for names split into words."""
    parts = re.split(r"(\{\w+\})", pattern)
    text = " ".join(FIELDS.get(part) or words(part) for part in parts if part.strip("._"))
    return re.compile(f"(?:[a-z]+ )*{text}(?: {LEAF})?")


@cache
def rows(convention: str) -> tuple[tuple[re.Pattern, str], ...]:
    """Return the rows of a convention; those of layers also without the number, for a stack."""
    found = []
    for pattern, target in CONVENTIONS[convention].items():
        found.append((compile_row(pattern), target))
        if "{i}" in pattern and target:
            found.append((compile_row(re.sub(r"[._]?\{i\}", "", pattern)), target))
    return tuple(found)


def parse_target(target: str, fields: Mapping[str, str | None]) -> tuple[str, Slot, str] | None:
    """Return the module, its slot without a leaf, and the order of columns, of a row's right side.

    None if a number is too large.
    """
    module, *options = target.split()
    numbers = {key: int(text) for key, text in fields.items() if text and key in "ih"}
    if max(numbers.values(), default=0) > LARGEST:
        return None
    part = head = None
    order = ""
    for option in options:
        if option in ("q", "k", "v"):
            part = "qkv".index(option)
        elif option == "{h}":
            head = numbers.get("h")
        else:
            order = option
    family = module.replace("{i}", "#")
    return family, Slot(family, numbers.get("i"), part, head), order


def parameter_meanings(
    target: str, leaf: str | None, fields: Mapping[str, str | None]
) -> list[Meaning]:
    """Return the parameters that a row's right side means, with a leaf such as "kernel" or none."""
    if not target:
        return [Meaning(None)]
    if (parsed := parse_target(target, fields)) is None:
        return []
    family, slot, order = parsed
    if family in PARAMETERS:
        families = [family] if leaf is None else []
    else:
        leaves = ["weight", "bias"] if leaf is None else [LEAVES[leaf]]
        families = [f"{family}.{one}" for one in leaves if f"{family}.{one}" in PARAMETERS]
    found = [Slot(one, slot.layer, slot.part, slot.head) for one in families]
    return [Meaning(one, order) for one in found]


def by_convention(name: str, convention: str) -> list[Meaning]:
    """Return the parameters that a name means by one convention."""
    text = words(name)
    for pattern, target in rows(convention):
        if (found := pattern.fullmatch(text)) and (
            meanings := parameter_meanings(target, found["leaf"], found.groupdict())
        ):
            return meanings
    return []


def by_words(name: str) -> list[Meaning]:
    """Return the parameters that the words of a name suggest."""
    text = words(name)
    leaf = leaf_of(text)
    found: list[Meaning] = []
    for layer, rest in layers_of(text):
        table = WORDS if layer is None and not is_stacked(rest) else WORDS_OF_LAYER
        for pattern, target in table:
            if re.search(pattern, rest):
                for one, head in product(target.split(", "), heads_of(rest)):
                    found += parameter_meanings(one, leaf, {"i": layer, "h": head})
                break
    return [replace(one, rank=GUESSED) for one in dict.fromkeys(found)]


def leaf_of(text: str) -> str | None:
    """Return the word that tells a weight from a bias: "bias", or "b" of "bq"."""
    if found := [word for word in text.split() if word in LEAVES]:
        return found[-1]
    short = re.search(r"\b(be|[wgb])[qkvof]\b", text)
    return short[1] if short else None


def heads_of(rest: str) -> list[str | None]:
    """Return None, and the number of the head, if these words may contain one."""
    found = re.search(r"\bheads? (\d+)\b|\b(?:w|b)?[qkv] (\d+)\b|[ye]s? (\d+)\b", rest)
    return [None, *filter(None, found.groups())] if found else [None]


def is_stacked(rest: str) -> bool:
    """Return True if these words, without a number, are those of a layer within a block."""
    inside = (
        r"\b(attn|attention|att|sa|mlp|ffn?|ffwd|fc|qkv\w*|q|k|v|query|key|value|(ln|norm) ?[12]"
    )
    return re.search(inside + r"|([wgb]|be) ?[qkvo12]|o|fcproj\w*|attproj\w*)\b", rest) is not None


def layers_of(text: str) -> Iterator[tuple[str | None, str]]:
    """Yield the number of the layer, or None, with the words that remain: one or more readings."""
    split = text.split()
    numbers = [i for i, word in enumerate(split) if word.isdecimal()]
    after = [i for i in numbers if i and split[i - 1] in BLOCK]
    if after:
        yield split[after[0]], " ".join(split[after[0] + 1 :])
        return
    yield None, text
    for i in numbers[-1:] if split and split[-1].isdecimal() else numbers:
        yield split[i], " ".join(split[:i] + split[i + 1 :])


@dataclass(frozen=True)
class Numbering:
    """The numbers of a port's blocks in its names.

    word : before the number of a block, if it is none of `BLOCK`: "stack" of "stack.0.norm"
    first : the number of the first block
    order : npgpt's numbers of the port's blocks, counted from 0. Empty: the same
    """

    word: str = ""
    first: int = 0
    order: tuple[int, ...] = ()

    def layer(self, number: int) -> int:
        """Return npgpt's number of a block."""
        own = number - self.first
        return self.order[own] if own < len(self.order) else own


USUAL = Numbering()


@lru_cache(maxsize=1 << 16)
def from_zero(name: str, numbering: Numbering) -> str:
    """Return the words of a name with npgpt's number of its block."""
    split = words(name).split()
    at = block_at(split, numbering.word) if numbering != USUAL else 0
    if at:
        split[at - 1] = split[at - 1] if split[at - 1] in BLOCK else "blocks"
        split[at] = str(numbering.layer(int(split[at])))
    return " ".join(split)


def numbering_of(names: Iterable[str], sizes: Mapping[str, int]) -> Numbering:
    """Return the numbering of a port's blocks, by the names of its parameters."""
    read = [words(name).split() for name in names]
    word = "" if any(block_at(split) for split in read) else block_word(read, sizes["L"])
    numbers = {split[at] for split in read if (at := block_at(split, word))}
    return Numbering(word, int(numbers == numbers_from(1, sizes["L"]) and sizes["L"] > 1))


def numbers_from(first: int, count: int) -> set[str]:
    """Return the numbers of blocks, as words of names."""
    return {str(first + i) for i in range(count)}


def block_word(read: Iterable[Sequence[str]], count: int) -> str:
    """Return the word before the number of a block, "" if no word has the numbers of all blocks.

    Each of them must have many tensors: "ln 1" and "ln 2" are no blocks.
    """
    found: dict[str, dict[str, set[str]]] = {}
    for split in read:
        at = next((i for i, word in enumerate(split) if i and word.isdecimal()), 0)
        if at:
            rest = found.setdefault(split[at - 1], {}).setdefault(split[at], set())
            rest.add(" ".join(split[at + 1 :]))
    every = numbers_from(0, count), numbers_from(1, count), numbers_from(0, 1)  # one for all
    fitting = [word for word, blocks in found.items() if blocks.keys() in every
               and all(len(rest) >= TENSORS for rest in blocks.values())]  # fmt: skip
    return max(fitting, key=lambda word: len(next(iter(found[word].values()))), default="")


def block_at(split: Sequence[str], word: str = "") -> int:
    """Return the position of the number of the block among the words of a name, 0 if none.

    `word`: the one before it, if it is none of `BLOCK`.
    """
    found = (i for i, (a, b) in enumerate(pairwise(split), 1)
             if b.isdecimal() and (a == word or a in BLOCK))  # fmt: skip
    return next(found, 0)


def choose_convention(names: Iterable[str], sizes: Mapping[str, int]) -> str:
    """Return the convention that reads the largest number of names; "" if none reads any."""
    names = list(names)
    score = {
        one: sum(any(fits(m, sizes) for m in by_convention(name, one)) for name in names)
        for one in CONVENTIONS
    }
    best = max(score, key=score.__getitem__)
    return best if score[best] else ""


def fits(meaning: Meaning, sizes: Mapping[str, int]) -> bool:
    """Return True unless the slot's numbers are beyond the model's."""
    return meaning.slot is None or is_within(meaning.slot, sizes)


def parameters(
    name: str, convention: str, sizes: Mapping[str, int], numbering: Numbering = USUAL
) -> list[Meaning]:
    """Return the parameters that a name can mean: by its convention, by others, by its words."""
    name = from_zero(name, numbering)
    if convention and (found := [m for m in by_convention(name, convention) if fits(m, sizes)]):
        return found
    found = []
    for other in CONVENTIONS:
        found += [m for m in by_convention(name, other) if fits(m, sizes) and m not in found]
    return found or [m for m in by_words(name) if fits(m, sizes)]


def activation(
    name: str,
    convention: str,
    modules: Mapping[str, Slot],
    sizes: Mapping[str, int],
    numbering: Numbering = USUAL,
) -> Meaning | None:
    """Return the activation that a name means, or None.

    `modules`: the layers of the port whose parameters are known, as slots whose family is a layer.
    """
    found = read_activation(name, convention, modules, numbering)
    if found and found.slot and found.slot.family == PREVIOUS:
        layer = sizes["L"] if found.slot.layer is None else found.slot.layer
        before = Slot("h.#.after_mlp", layer - 1) if layer else Slot("embedding")
        found = replace(found, slot=before)
    return found if found and fits(found, sizes) else None


def read_activation(
    name: str, convention: str, modules: Mapping[str, Slot], numbering: Numbering
) -> Meaning | None:
    """Return the activation that a name means, before its numbers are compared with the model."""
    text = from_zero(name, numbering)
    if name in modules:
        return output_of(Meaning(modules[name]))
    for own, family in LLMC_ACTIVATIONS.items():
        if words(own) == text:
            return Meaning(Slot(family) if family else None)
    start, _, last = text.rpartition(" ")
    if text.endswith(INPUT_WORDS):
        module = modules.get(name[: -len(last) - 1])
        if of := Meaning(module) if module else module_of(start, convention):
            return input_of(of)
    if found := module_of(text, convention):
        return output_of(found)
    layer, rest = next(iter(layers_of(text)))
    table = ACTIVATIONS_OUTSIDE if layer is None else ACTIVATIONS_OF_LAYER
    for rank, (pattern, target) in enumerate(table, 1):
        if re.search(pattern, rest) and (parsed := parse_target(target, {"i": layer})):
            return Meaning(parsed[1], rank=rank)
    if last in WRAPPED:
        return read_activation(start, convention, {}, USUAL)
    for meaning in by_words(text):
        if meaning.slot is not None and layer is not None:
            slot = meaning.slot
            return output_of(Meaning(Slot(slot.module, slot.layer, slot.part, slot.head)))
    return None


def module_of(text: str, convention: str) -> Meaning | None:
    """Return the layer with parameters that these words name, as a slot whose family is it."""
    for one in dict.fromkeys([*filter(None, [convention]), *CONVENTIONS]):
        for pattern, target in rows(one):
            found = pattern.fullmatch(text)
            if found and found["leaf"] is None and target:
                parsed = parse_target(target, found.groupdict())
                if parsed and parsed[0] not in PARAMETERS:
                    return Meaning(parsed[1], parsed[2])
    return None


def output_of(module: Meaning) -> Meaning:
    """Return the activation that is the output of a layer with parameters."""
    slot = module.slot
    if slot is None or slot.family in ("wte", "wpe"):
        return Meaning(None)
    if slot.family == "lm_head":
        return Meaning(Slot("logits"))
    return module


def input_of(module: Meaning) -> Meaning:
    """Return the activation that is the input of a layer with parameters."""
    slot = module.slot
    if slot is None or slot.family not in INPUTS:
        return Meaning(None)
    family = INPUTS[slot.family]
    return Meaning(Slot(family, None if family == "ln_f" else slot.layer), rank=3)
