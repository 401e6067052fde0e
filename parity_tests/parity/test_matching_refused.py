"""Tensors that could be several are refused; --map decides; dumps are not trusted."""

import numpy as np
import pytest

from npgpt.errors import InputError
from npgpt.parity.dump import Dump
from npgpt.parity.matching import match
from parity_tests.support.matched import PARAMS, PROBE, check, dump_of


def renamed(changes):
    """The gradients of nanoGPT, of which some have another name."""
    found = dump_of("nanoGPT", grad=PARAMS).tensors
    for old, new in changes.items():
        found[f"grad/{new}"] = found.pop(f"grad/transformer.{old}")
    return found


AMBIGUOUS = [
    ({"h.0.ln_1.weight": "a", "h.1.ln_2.weight": "b"},
     "'a' (10,) could be h.0.ln_1.weight or h.1.ln_2.weight: add --map a=NAME, or --map a= to "
     "leave it out (1 more tensors are undecided)"),
    ({"h.0.ln_1.weight": "foo.g", "h.0.ln_1.bias": "foo.b"},
     "'foo.g' (10,) could be h.0.ln_1.weight or h.0.ln_1.bias: add --map foo.g=NAME"),
    ({"h.0.attn.c_proj.weight": "x", "h.1.attn.c_proj.weight": "y"},
     "'x' (10, 10) could be h.0.attn.c_proj.weight or h.1.attn.c_proj.weight"),
]  # fmt: skip


@pytest.mark.parametrize("changes, says", AMBIGUOUS)
def test_what_cannot_be_decided_is_refused(changes, says):
    with pytest.raises(InputError) as error:
        match(Dump(renamed(changes)), PROBE)
    assert str(error.value).startswith(says)


def test_one_tensor_that_is_left_is_decided():
    check(match(Dump(renamed({"h.1.ln_2.weight": "what"})), PROBE), "grad", PARAMS)


def test_two_tensors_that_could_be_either():
    tensors = dump_of("nanoGPT", grad=PARAMS).tensors
    tensors["grad/blocks.0.ln1.weight"] = np.zeros(10)
    with pytest.raises(InputError, match=r"could both be h\.0\.ln_1\.weight: add --map"):
        match(Dump(tensors), PROBE)


def test_another_model():
    tensors = dump_of("nanoGPT", grad=PARAMS).tensors
    tensors["grad/transformer.wpe.weight"] = np.zeros((11, 16))
    with pytest.raises(InputError) as error:
        match(Dump(tensors), PROBE)
    assert str(error.value) == (
        "'grad/transformer.wpe.weight' is (11, 16), but the probe's wpe.weight is (11, 10): is the "
        "dump of another model?"
    )


# --map


MAPS = [
    {"a": "h.0.ln_1.weight", "b": "h.1.ln_2.weight"},
    {"a": "h.0.ln_1"},
    {"grad/a": "h.0.ln_1.weight"},
    {"b": "grad/h.1.ln_2.weight"},
]


@pytest.mark.parametrize("renames", MAPS)
def test_map_decides(renames):
    tensors = renamed({"h.0.ln_1.weight": "a", "h.1.ln_2.weight": "b"})
    check(match(Dump(tensors), PROBE, renames), "grad", PARAMS)


def test_map_of_layers_parts_and_nothing():
    """A number in braces stands for all layers; a module for weight and bias; q for a part."""
    tensors = dump_of("minGPT", grad=PARAMS).tensors
    tensors = {
        n.replace("attn.query", "s1").replace("ln1", "s2").replace("ln2", "s3"): x
        for n, x in tensors.items()
    }
    tensors |= {"act/blocks.0.s2": np.zeros((3, 9, 10)), "grad/buffer": np.ones(10)}
    renames = {"blocks.{i}.s1": "h.{i}.attn.c_attn.q", "blocks.{i}.s2": "h.{i}.ln_1",
               "blocks.{i}.s3.weight": "h.{i}.ln_2.weight", "buffer": ""}  # fmt: skip
    found = match(Dump(tensors), PROBE, renames)
    check(found, "grad", PARAMS)
    assert found.tensors["act/h.0.ln_1"].shape == (3, 9, 10)
    assert found.unused == ["grad/buffer", "grad/head.weight"]


WRONG_MAPS = [
    ({"nope": "ln_f.weight"}, "--map nope=ln_f.weight: the dump has no tensor 'nope'"),
    ({"h.0.ln_1.weight": "transformer.h.0.ln_1.weight"},
     "--map h.0.ln_1.weight=transformer.h.0.ln_1.weight: the dump has no tensor 'h.0.ln_1.weight': "
     "is it --map transformer.h.0.ln_1.weight=h.0.ln_1.weight?"),
    ({"transformer.ln_f.weight": "h.7.ln_1.weight"},
     "--map transformer.ln_f.weight=h.7.ln_1.weight: npgpt has no 'h.7.ln_1.weight' that "
     "'transformer.ln_f.weight' could be; names are as h.0.attn.c_proj, h.{i}.mlp.c_fc.weight or "
     "h.0.attn.c_attn.q"),
    ({"transformer.ln_f.weight": "wte"},
     "--map transformer.ln_f.weight=wte: 'transformer.ln_f.weight' is (10,), but wte.weight is "
     "(29, 10)"),
    ({"": "wte"}, "--map =wte must be mine=theirs: the port's name and npgpt's"),
    ({"act/x": "grad/wte"}, "--map act/x=grad/wte must be mine=theirs: the port's name and "
     "npgpt's"),
    ({"h.{i}.{i}": "wte"}, "--map h.{i}.{i}=wte has a number in braces twice"),
]  # fmt: skip


@pytest.mark.parametrize("renames, says", WRONG_MAPS)
def test_a_wrong_map_is_one_line(renames, says):
    with pytest.raises(InputError) as error:
        match(dump_of("nanoGPT", grad=PARAMS), PROBE, renames)
    assert str(error.value) == says


# untrusted dumps


def test_names_without_end_are_refused():
    tensors = {f"grad/x{i}": np.zeros(10) for i in range(3000)}
    with pytest.raises(InputError, match="the dump has 3,000 tensors; at most 1,520 are read"):
        match(Dump(tensors), PROBE)


@pytest.mark.parametrize("seed", range(3))
def test_any_names_and_shapes_match_or_are_refused(seed):
    rng = np.random.default_rng(seed)
    words = ["h", "blocks", "0", "1", "99999999999999999", "attn", "q", "c_attn", "weight", "bias",
             "ln", "in", "", "..", "{i}", "é", "heads", "wte", "x" * 90]  # fmt: skip
    kinds = ["param", "grad", "act", "dact", "mask", "after1", "after999999999", "y"]
    shapes = [(), (0,), (10,), (30,), (10, 10), (10, 30), (29, 10), (1,) * 9, (3, 9, 10), (7,),
              (3, 9, 0), (2, 10), (3, 2, 9, 9), (50, 10)]  # fmt: skip
    refused = 0
    for _ in range(100):
        tensors = {}
        for _ in range(rng.integers(1, 4)):
            name = ".".join(rng.choice(words, rng.integers(1, 6)))
            shape = shapes[rng.integers(len(shapes))]
            tensors[f"{rng.choice(kinds)}/{name}"] = rng.normal(size=shape)
        try:
            found = match(Dump(tensors), PROBE)
        except InputError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert len(found.tensors) + len(found.unused) >= len(tensors)
    assert 0 < refused < 100
