"""A directory that transformers, and the programs that build on it, open without npgpt.

model.safetensors and config.json are npgpt/weights/huggingface.py's. Beside them: the tokenizer,
generation_config.json, and a model card.
"""

from pathlib import Path

from npgpt.config import Config
from npgpt.data.tokenizer import Tokenizer
from npgpt.export.model_card import model_card
from npgpt.export.tokenizer_files import encode_json, make_files
from npgpt.model.params import Params
from npgpt.weights.huggingface import write_huggingface

USUAL = 512  # tokens of context that transformers' pipelines take for granted: 256 are new


def write(
    directory: Path, config: Config, tree: Params, found: Tokenizer | None, *, dtype: str
) -> None:
    """Write the directory: all files, read back and compared, or nothing.

    `found`: the model's tokenizer, None if it is unknown. Raises as `write_huggingface`.
    """
    files = {"README.md": model_card(config, found, dtype=dtype).encode()}
    eot_token = None if found is None else found.eot_token
    files["generation_config.json"] = encode_json(generation_values(config, eot_token))
    if found is not None:
        files |= make_files(found, config.context_length)
    write_huggingface(
        directory,
        config,
        tree,
        None if found is None else found.origin,
        dtype=dtype,
        eot_token=eot_token,
        files=files,
    )


def generation_values(config: Config, eot_token: int | None) -> dict[str, int]:
    """Return the values of generation_config.json.

    A length is given only if it is needed: transformers warns if a caller gives another.
    """
    values = {"max_length": config.context_length} if config.context_length < USUAL else {}
    if eot_token is not None:  # a batch is padded after the end of a text
        values |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), eot_token)
    return values
