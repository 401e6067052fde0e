"""A probe and the dump of a port that computed with it: read together, checked with each other."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from npgpt.arrays import Array
from npgpt.errors import InputError, show
from npgpt.model.finite import ignore_overflow
from npgpt.model.params import named
from npgpt.parity import dump as dumps
from npgpt.parity import probe as probes
from npgpt.parity.dump import Dump
from npgpt.parity.probe import SETTINGS, Probe
from npgpt.quantized_matrix import from_bfloat16, to_bfloat16

SMALL = 1 << 16  # numbers of the parameters by which another model is recognized
SHARE = 0.1  # of their numbers must be the probe's; a port may have changed, or lost, the others


def read(probe_path: str | Path, dump_path: str | Path) -> tuple[Probe, Dump]:
    """Return a probe and a dump that fit each other.

    In place of the probe, a model in any format: its batch is then the dump's tokens and targets.
    Raises InputError if one cannot be read, or if the dump is of another batch or model.
    """
    probe = probes.read(probe_path)
    dump = dumps.read(dump_path, probe.config)
    if not (Path(probe_path) / SETTINGS).is_file():
        probe = with_batch_of(dump, probe)
    return probe, check(dump, probe)


def with_batch_of(dump: Dump, probe: Probe) -> Probe:
    """Return the probe of a model with the batch of a dump, if that has one."""
    names = [name for name in ("tokens", "targets") if name in dump.tensors]
    if len(names) == 1:
        raise InputError(
            f"{dump.path} has {names[0]} alone: beside a model, it must hold tokens and targets"
        )
    try:
        return probe.with_batch(*(dump.tensors[name] for name in names)) if names else probe
    except InputError as error:
        raise InputError(f"{dump.path} is of another model: {error}") from None


def check(dump: Dump, probe: Probe) -> Dump:
    """Return the dump with arrays in place of other numbers.

    Raises InputError unless it can be compared with what the probe's model computes.
    """
    dump = dumps.make({**dump.tensors, dumps.META: dump.meta}, dump.path)
    if not any(name == "loss" or name.startswith("grad/") for name in dump.tensors):
        raise InputError(
            f"{dump.path} has neither loss nor gradients (grad/*), of which it needs one: "
            "see README.txt in the probe's directory"
        )
    check_finite(dump)
    check_batch(dump, probe)
    check_model(dump, probe)
    return dump


def check_finite(dump: Dump) -> None:
    """Raise InputError if parameters and the loss are nan or infinite: then everything is.

    Parameters alone were changed after the forward pass, and before they were dumped.
    """
    loss = dump.tensors.get("loss")
    if loss is not None and np.isfinite(loss).all():
        return
    for name, array in dump.tensors.items():
        if name.startswith("param/") and array.dtype.kind == "f" and not np.isfinite(array).all():
            found = ~np.isfinite(array)
            at = f", the first at {first_index(found)}" if found.ndim else ""
            raise InputError(
                f"{dump.path}: {name} has {np.count_nonzero(found):,} of {found.size:,} numbers "
                f"that are nan or infinite{at}. Dump parameters before any step of training"
            )


def first_index(found: Array) -> tuple[int, ...]:
    """Return the index of the first True."""
    return tuple(map(int, np.unravel_index(int(np.argmax(found)), found.shape)))


def check_batch(dump: Dump, probe: Probe) -> None:
    """Raise InputError if the dump's tokens or targets are not the probe's."""
    for name, expected in (("tokens", probe.tokens), ("targets", probe.targets)):
        found = dump.tensors.get(name)
        if found is None:
            continue
        if found.size != expected.size or found.shape[-1:] != expected.shape[-1:]:
            raise InputError(
                f"{dump.path} is of another batch: its {name} have the shape {found.shape}, the "
                f"probe's {expected.shape}"
            )
        differs = found.reshape(expected.shape) != expected
        if differs.any():
            raise InputError(
                f"{dump.path} is of another batch: {int(differs.sum())} of {found.size} {name} are "
                f"not the probe's, the first at {first_index(differs)}"
            )


def check_model(dump: Dump, probe: Probe) -> None:
    """Raise InputError if the dump's heads, logits or parameters are not of the probe's model."""
    heads = dump.meta.get("n_head", probe.config.n_head)  # the weights do not tell
    if heads != probe.config.n_head:
        raise InputError(
            f"{dump.path} is of another model: in its meta, n_head is {show(heads)}, but the "
            f"probe's is {probe.config.n_head}"
        )
    logits, V = dump.tensors.get("logits"), probe.config.vocab_size
    if logits is not None and logits.size < probe.tokens.size * V:
        raise InputError(
            f"{dump.path} is of another model: its logits have the shape {logits.shape}, but the "
            f"probe's vocabulary is {V}"
        )
    sizes = [a.size for n, a in dump.tensors.items() if n.startswith(("param/", "grad/"))]
    if sizes and np.isin(sizes, [*possible_sizes(probe)]).mean() < SHARE:
        raise InputError(
            f"{dump.path} is of another model: parameters and gradients (param/*, grad/*) do not "
            f"have the sizes of the probe's, whose n_embd is {probe.config.n_embd}"
        )
    found = distinctive(a for n, a in dump.tensors.items() if n.startswith("param/"))
    own = distinctive(array for _, array in named(probe.params))
    with ignore_overflow():
        halves = own.astype(np.float16).astype(np.float32), from_bfloat16(to_bfloat16(own))
    if found.size and own.size and np.isin(found, [own, *halves]).mean() < SHARE:
        raise InputError(
            f"{dump.path} is of another model: its parameters (param/*) are not the probe's. Load "
            "them, and dump them before any step of training"
        )


def possible_sizes(probe: Probe) -> set[int]:
    """Return how many numbers a parameter may have, also where q, k, v or heads are apart."""
    C, D = probe.config.n_embd, probe.config.n_embd // probe.config.n_head
    return {array.size for _, array in named(probe.params)} | {C * C, C * D, D}


def distinctive(arrays: Iterable[Array]) -> Array:
    """Return the numbers of small parameters, but not those of untrained ones: 0 and 1."""
    small = [np.ravel(array) for array in arrays if array.dtype.kind == "f" and array.size <= SMALL]
    with ignore_overflow():
        numbers = np.concatenate([np.empty(0), *small]).astype(np.float32)
    return numbers[(numbers != 0) & (numbers != 1) & np.isfinite(numbers)]
