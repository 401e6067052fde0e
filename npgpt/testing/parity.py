"""Parity of a port with GPT-2, as an assertion."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from npgpt.parity import diagnosis, report
from npgpt.parity import dump as dumps
from npgpt.parity import probe as probes
from npgpt.parity.diagnosis import Diagnosis
from npgpt.parity.dump import Dump
from npgpt.parity.probe import Probe

KEPT = 8  # diagnoses
_known: dict[str, Diagnosis] = {}  # by fingerprint: the stages of one dump share a diagnosis


def assert_parity(
    dump: Dump | Mapping[str, Any] | str | Path,
    probe: Probe | str | Path | None = None,
    *,
    renames: Mapping[str, str] | None = None,
) -> None:
    """Raise an AssertionError with the report of `npgpt diagnose` unless a port agrees with GPT-2.

    Parameters
    ----------
    dump : Dump, dict of str to array, str or Path
        The numbers that the port computed with the probe, or a file of them.
    probe : Probe, str, Path or None, default None
        The probe, or its directory, or weights that npgpt reads. None: `npgpt.testing.probe()`.
    renames : dict of str to str or None, default None
        The port's names of tensors and npgpt's, where matching cannot decide: `--map` of
        `npgpt diagnose`.

    Raises
    ------
    AssertionError
        If a tensor is outside its rounding budget. The message is the report.
    InputError
        If the dump cannot be read, or its tensors cannot be matched.
    """
    __tracebackhide__ = True
    found = diagnose(dump, probe, renames=renames)
    if not found.agrees:
        raise AssertionError("\n" + report.text(found))


def diagnose(
    dump: Dump | Mapping[str, Any] | str | Path,
    probe: Probe | str | Path | None = None,
    *,
    renames: Mapping[str, str] | None = None,
) -> Diagnosis:
    """Return the diagnosis of a dump: a Dump, a dict of arrays, or a file."""
    if probe is None:
        probe = probes.make()
    elif not isinstance(probe, Probe):
        probe = probes.read(probe)
    if isinstance(dump, str | Path):
        numbers = dumps.read(dump, probe.config)
    else:
        numbers = as_dump(dump)
    names = dict(renames or {})
    key = fingerprint(numbers, probe, names)
    if key not in _known:
        while len(_known) >= KEPT:
            _known.pop(next(iter(_known)))
        _known[key] = diagnosis.diagnose(numbers, probe, names)
    return _known[key]


def as_dump(found: Dump | Mapping[str, Any]) -> Dump:
    """Return a checked dump of arrays, some of which may be tensors of PyTorch."""
    if isinstance(found, Dump):  # of capture, say, to which tensors have been added
        return dumps.make({**found.tensors, dumps.META: found.meta}, found.path)
    return dumps.make(found)


def fingerprint(dump: Dump, probe: Probe, renames: Mapping[str, str]) -> str:
    """Return a hash of all that a diagnosis depends on."""
    from npgpt.model.params import named

    digest = hashlib.sha256(repr((probe.config, probe.settings, dump.meta, renames)).encode())
    batch = {"tokens": probe.tokens, "targets": probe.targets}
    for tensors in (dump.tensors, batch, dict(named(probe.params))):
        for name, array in tensors.items():
            digest.update(f"{name} {array.dtype} {array.shape};".encode())
            digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
