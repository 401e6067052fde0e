"""Load a model: a checkpoint, a weight file of any format, or a downloaded GPT-2 by its name."""

from pathlib import Path

from npgpt.backends import Backend
from npgpt.config_checks import is_one_of
from npgpt.data.tokenizer_choice import choose
from npgpt.download.resolve import resolve
from npgpt.errors import InputError, show
from npgpt.gpt import GPT
from npgpt.model.inputs import check_path
from npgpt.quantized_matrix import KINDS
from npgpt.weights import formats

WEIGHTS = "float32", *KINDS


def load(
    path: str | Path,
    *,
    weights: str | None = None,
    ops: Backend | str | None = None,
    tokenizer: str | Path | None = None,
) -> GPT:
    """Load a model.

    float32 parameters in GPT-2's layout are mapped copy-on-write: pages are read on first access,
    and writing to the parameters does not change the file.

    Parameters
    ----------
    path : str or Path
        A checkpoint, a weight file or directory in any supported format, or the name of a
        downloaded model ("gpt2-small").
    weights : {"float32", "bfloat16", "int8"} or None, default None
        How the matrices are stored in memory. Quantized models generate and evaluate only, on the
        backend npgpt.mixed. None: as `npgpt quantize` wrote them, else float32.
    ops : Backend or str or None, default None
        The backend. None: npgpt.fused, or npgpt.mixed if the matrices are quantized.
    tokenizer : str or Path or None, default None
        Name or path of the model's tokenizer, as for `npgpt.tokenizer`. None: as recorded in the
        file, else from the tokenizer's files beside the weights; GPT-2's for a released GPT-2.

    Returns
    -------
    GPT
        Its `tokenizer` is None if the tokenizer is unknown.

    Raises
    ------
    InputError
        If the file is missing, incomplete or invalid, or was made with another tokenizer.
    """
    if weights is not None and not is_one_of(weights, WEIGHTS):
        raise InputError(f"weights is {show(weights)}, but must be {' or '.join(WEIGHTS)}")
    check_path(path)
    source = formats.open_weights(resolve(path))
    found = choose(source, tokenizer).tokenizer
    model = GPT.from_params(source.config, source.params(weights), ops=ops, tokenizer=found)
    model.path = Path(path)
    return model
