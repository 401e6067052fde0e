"""The probe that a test of a port computes with."""

from pathlib import Path

from npgpt.parity import probe as probes
from npgpt.parity.probe import Probe


def probe(path: str | Path | None = None) -> Probe:
    """Return a model and a batch for a port to compute with.

    Parameters
    ----------
    path : str or Path or None, default None
        A directory that `npgpt probe` wrote, weights in any format, or the name of a downloaded
        GPT-2. None: the tiny probe.

    Returns
    -------
    Probe
        `config`, `params`, `tokens`, `targets` and `settings`.

    Raises
    ------
    InputError
        If there is no such model, or the probe is damaged.
    """
    return probes.make() if path is None else probes.read(path)
