"""npgpt diagnose with the habits of ports: how they name, share, overwrite and round."""

from dataclasses import replace

import numpy as np
import pytest

from npgpt.errors import InputError
from npgpt.ops import attention
from npgpt.parity import apart, causes, diagnosis, dump, loading, matching, probe, report
from npgpt.parity.compute import compute
from npgpt.parity.mistakes import VARIANTS
from npgpt.parity.mistakes.regions import REGIONS
from npgpt.parity.port import RIGHT
from npgpt.parity.randomness import factor_of_probs
from parity_tests.support.causes import SHORT, port_of

TINY, LABS = probe.make(), []  # runs of mistakes, which all tests share
PASSES = "param", "act", "loss", "logits", "dact", "grad"
OWN_NAMES = {  # of the layers of a block, none of them by a known convention
    "ln_1": "norm_a", "ln_2": "norm_b", "attn.c_attn": "mixer.to_qkv", "attn.c_proj":
    "mixer.to_out", "mlp.c_fc": "ffn.expand", "mlp.c_proj": "ffn.contract",
}  # fmt: skip


def numbers(port, kinds=SHORT):
    return compute(port, TINY, kinds, dtype=np.float32)


def diagnose(tensors, **renames):
    return diagnosis.diagnose(dump.make(tensors), TINY, renames, labs=LABS)


def named(found):
    return [[one.name for one in chain] for chain in found.causes]


def renamed(tensors, word="stack", order=(0, 1)):
    """Return tensors by the names of a port, whose blocks are in another order."""
    found = {}
    for name, x in tensors.items():
        kind, _, rest = name.partition("/")
        if rest.startswith("h."):
            _, block, layer = rest.split(".", 2)
            own, dot, leaf = layer.rpartition(".")
            if leaf not in ("weight", "bias"):
                own, dot, leaf = layer, "", ""
            name = f"{kind}/{word}.{order[int(block)]}.{OWN_NAMES.get(own, own)}{dot}{leaf}"
        found[name] = x
    return found


@pytest.fixture
def few(monkeypatch):
    """A function that leaves of the catalogue these entries and their variants, which is quick."""

    def choose(*names):
        for kind in ("MISTAKES", "VARIANTS"):
            kept = tuple(one for one in getattr(causes, kind) if one.name in names)
            monkeypatch.setattr(causes, kind, kept)
        monkeypatch.setattr(causes, "CHANGES", ())

    return choose


# names


@pytest.mark.parametrize("kinds", [SHORT, PASSES], ids=["gradients", "everything"])
@pytest.mark.parametrize(
    "order", [(0, 1), (1, 0), (1, 2)], ids=["usual", "from the last", "from 1"]
)
def test_an_unknown_word_before_the_number_of_a_block(kinds, order):
    found = diagnose(renamed(numbers(RIGHT, kinds), order=order))
    assert found.agrees, found.first_wrong
    assert found.notes[0].startswith("matched 28 of 28") and not found.unknown
    assert order == (1, 0) or not any("not of" in note for note in found.notes)


def test_a_word_with_few_numbers_is_no_block():
    stacked = {"grad/ln1w", "grad/ln1b", "grad/ln2w", "grad/ln2b", "grad/lnfw"}
    found = matching.names.numbering_of([name[5:] for name in stacked], {"L": 2})
    assert found == matching.names.USUAL


def test_the_rename_of_an_embedding_is_one_of_its_output_too():
    tensors = numbers(RIGHT, (*SHORT, "act"))
    tensors["grad/foo.weight"] = tensors.pop("grad/wte.weight")
    tensors["act/foo"] = tensors["act/embedding"] * 2
    assert diagnose(tensors, foo="wte").agrees
    with pytest.raises(InputError, match="npgpt has no 'wte' that 'foo' could be"):
        diagnose(tensors, **{"act/foo": "wte"})


def test_a_block_that_stands_in_all_places(few):
    """PyTorch names the parameters of a module once."""
    few("last-block-in-all-places", "first-block-in-all-places")
    tensors = numbers(port_of("last-block-in-all-places"))
    moved = {name.replace("h.1", "h.0"): x for name, x in tensors.items() if "/h.1" in name}
    once = {name: x for name, x in (tensors | moved).items() if "/h.1" not in name}
    assert named(diagnose(renamed(once))) == [["last-block-in-all-places"]]


def test_inputs_of_layers_that_a_mistake_moves(few):
    few("post-norm")
    tensors = numbers(port_of("post-norm"), ("act", "loss", "grad"))
    x = tensors.pop("act/embedding")
    tensors["act/h.0.ln_1.in"] = x + tensors["act/h.0.attn.c_proj"]
    found = diagnose(tensors)
    assert (named(found), found.moved) == ([["post-norm"]], 1)
    assert " but 1 input of layers, which it changes" in report.text(found)


def test_two_gradients_of_a_tied_head(few):
    few("head-untied", "head-gradient-missing")
    split = numbers(port_of("head-untied"))
    found = diagnose(split)
    assert named(found) == [["head-untied"]]
    assert found.first_wrong.name == "grad/wte.weight"


# numbers


@pytest.mark.parametrize("name", ["residual-added-in-place", "gelu-slope-at-output"])
def test_activations_that_are_overwritten(name, few):
    few(name)
    one = next(one for one in VARIANTS if one.name == name and one.overwrites)
    found = diagnose(numbers(one.change(RIGHT), ("act", "loss", "grad")))
    assert found.causes == ((one,),)
    assert found.first_wrong.name == f"act/{'h.0.' * ('gelu' in name)}{one.overwrites[0]}"


def test_what_follows_nan_does_not_hide_its_cause(few):
    few("mask-hides-own-position")
    port = RIGHT.edit("npgpt.ops.attention:forward", "S - T, dtype", "S - T - 1, dtype")
    with np.errstate(invalid="ignore"):
        tensors = numbers(port, ("act", *SHORT))
    found = diagnose(tensors)
    text = report.text(found)
    assert "right   embedding, h.0.ln_1, h.0.attn.c_attn\n" in text  # and no blocks are one module
    assert "WRONG   h.0.attn.probs    not a finite number" in text
    assert named(found) == [["mask-hides-own-position"]]


def test_parameters_that_a_step_has_made_nan():
    tensors = numbers(RIGHT, ("param", *SHORT))
    lost = {name: x * np.nan for name, x in tensors.items() if name.startswith("param/h.")}
    found = diagnose(tensors | lost)
    assert found.agrees
    assert any(note.startswith("parameters: nan or infinite in param/h.0") for note in found.notes)


@pytest.mark.parametrize(("part", "kind"), [("attention", "bfloat16"), ("norms", "float16")])
def test_a_part_in_16_bits(part, kind, few):
    """The port rounds at fewer points of it, and in other ways, than npgpt's lines."""
    few()
    one = next(one for one in REGIONS if one.name == f"{part}-computed-in-{kind}")
    fewer = replace(one, edits=one.edits[:-1])
    found = diagnose(numbers(fewer.change(RIGHT)))
    assert found.within == kind and found.causes[0][0].says == one.says
    assert f"{one.says}: reproduces all 29 tensors within rounding of {kind}" in report.text(found)


def test_dropout_of_probabilities_that_are_not_dumped():
    rng, H = np.random.default_rng(0), 2
    qkv = rng.normal(size=(3, 9, 30))
    out, cache = attention.forward(qkv, n_head=H)
    keep = rng.random(cache.probs.shape) >= 0.25
    dropped = attention.merge_heads((cache.probs * keep / 0.75) @ cache.v)
    assert factor_of_probs(qkv, dropped, H) == pytest.approx(1 / 0.75)
    for other in (out, out * 1.5, dropped + 0.01):
        assert factor_of_probs(qkv, other, H) is None


# causes


def test_a_forward_pass_that_hardly_changes_the_loss(few):
    """At initial weights: the gradients alone show another GELU, whose slope fits too."""
    few("gelu-exact", "gelu-slope-of-exact")
    small = probe.of_model(__import__("npgpt").GPT(TINY.config, seed=1))
    quiet = replace(small, tokens=TINY.tokens, targets=TINY.targets)
    tensors = compute(port_of("gelu-exact"), quiet, SHORT, dtype=np.float32)
    found = diagnosis.diagnose(dump.make(tensors), quiet)
    assert found.first_wrong.stage == "backward" and ["gelu-exact"] in named(found)


def test_another_batch_tells_mistakes_apart(few):
    few("accumulated-gradient-summed", "dlogits-averaged-over-t")
    plain = probe.make(ignored=False)
    tensors = compute(
        port_of("accumulated-gradient-summed"), plain, ("act", *PASSES), dtype=np.float32
    )
    tensors |= compute(RIGHT, plain, ("after3", "cached_logits", "logits_again"), dtype=np.float32)
    found = diagnosis.diagnose(dump.make(tensors), plain)
    assert len(found.causes) == 2 and found.tell_apart == apart.OTHER_BATCH


def test_the_loading_of_a_large_model_is_named(monkeypatch):
    monkeypatch.setattr(loading, "KNOWN", 0)
    one = next(one for one in VARIANTS if one.name == "qkv-per-head" and "biases" not in one.says)
    own = {name: (x,) for name, x in numbers(one.change(RIGHT), ("param",)).items()}
    wrong = [f"h.{i}.attn.c_attn.{leaf}" for i in (0, 1) for leaf in ("weight", "bias")]
    assert loading.known(wrong, own, TINY) == one
    assert loading.known(["wte.weight", *wrong], own, TINY) is None


def test_what_follows_nan_may_be_0(few):
    """PyTorch's gradient of a masked score is 0, where 0 * nan is nan here."""
    few("adam-step-from-0", "adam-step-from-0-divides")
    one = next(one for one in VARIANTS if one.name == "adam-step-from-0-divides")
    with np.errstate(invalid="ignore", divide="ignore"):
        tensors = numbers(one.change(RIGHT), (*SHORT, "after1"))
    tensors["after1/ln_f.bias"] = 0 * TINY.params.ln_f.bias
    assert diagnose(tensors).causes == ((one,),)


def test_a_tensor_that_is_a_multiple_of_the_right_one(few):
    few()
    tensors = numbers(RIGHT, ("act", "logits", "loss"))
    tensors["logits"] = tensors["logits"] / np.float32(0.8)
    tensors["loss"] = tensors["loss"] * 2
    assert diagnose(tensors).where.endswith(": its numbers are 1.25 times the right ones")
