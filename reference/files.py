"""Read GPT-2's weight files, each format with its own library, into settings and a state dict.

    OpenAI         hparams.json beside TensorFlow's checkpoint    tensorflow
    Hugging Face   config.json beside one or several safetensors  safetensors
    npgpt          HDF5                                           h5py

Every reader returns the fields of `gpt2.Config` and the tensors under the names of `gpt2.GPT2`.
Libraries are imported by the reader that needs them. Nothing is ever unpickled.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

Weights = tuple[dict, dict[str, Tensor]]  # settings, state dict

FOLDERS = "checkpoint.h5", "model.safetensors", "model.safetensors.index.json", "*.index"
HDF5 = b"\x89HDF\r\n\x1a\n"  # the first bytes of a file
LEVELDB = bytes.fromhex("57fb808b247547db")  # the last bytes of TensorFlow's .index

HPARAMS = {
    "n_vocab": "vocab_size",
    "n_ctx": "context_length",
    "n_embd": "n_embd",
    "n_head": "n_head",
    "n_layer": "n_layer",
}
SIZES = {  # transformers' names and defaults (GPT2Config)
    "vocab_size": ("vocab_size", 50257),
    "n_positions": ("context_length", 1024),
    "n_layer": ("n_layer", 12),
    "n_head": ("n_head", 12),
    "n_embd": ("n_embd", 768),
}
COMPUTED = {  # the only values that gpt2.py computes; the first is transformers' default
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),  # two names of one function
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}


def read(path) -> Weights:
    """Read the model in a file or folder; its contents tell the format, not its name."""
    path = weights_file(Path(path))
    with open(path, "rb") as file:
        head = file.read(9)
        file.seek(-min(8, path.stat().st_size), 2)
        tail = file.read()
    if head.startswith(HDF5):
        settings, tensors = read_npgpt(path)
    elif tail == LEVELDB:
        settings, tensors = read_openai(path)
    elif head[:1] == b"{" or head[8:] == b"{":  # an index of files, or one safetensors file
        settings, tensors = read_huggingface(path)
    else:
        raise ValueError(
            "a weight file must be OpenAI's checkpoint, safetensors or npgpt's HDF5; this one "
            f"begins with {head!r}. Pickles are not read"
        )
    return settings, {name: widen(name, tensor) for name, tensor in tensors.items()}


def weights_file(path: Path) -> Path:
    """Return the file in a folder that holds the weights, or lists the files that hold them."""
    for pattern in FOLDERS if path.is_dir() else ():
        if found := sorted(path.glob(pattern)):
            if len(found) > 1:
                raise ValueError(f"a folder must hold one {pattern}, not {len(found)}: name one")
            path = found[0]
            break
    if not path.is_file():
        raise FileNotFoundError(f"expected a weight file, or a folder with {' or '.join(FOLDERS)}")
    return path


def widen(name: str, tensor: Tensor) -> Tensor:
    """Return float16 and bfloat16 as float32, which holds both exactly; others as they are."""
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point, not {tensor.dtype}")
    return tensor.float() if tensor.element_size() == 2 else tensor


def unique(pairs: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Return the pairs as a dict. A name that occurs twice is an error."""
    found: dict[str, Tensor] = {}
    for name, tensor in pairs:
        if name in found:
            raise ValueError(f"{name} must be stored once, not under two names")
        found[name] = tensor
    return found


# OpenAI


def read_openai(index: Path) -> Weights:
    """Read the variables under model/ of a TensorFlow checkpoint, given its .index file."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise ImportError("OpenAI's checkpoint needs TensorFlow: pip install tensorflow") from error
    hparams = read_json(index.with_name("hparams.json"))
    settings = {own: hparams[name] for name, own in HPARAMS.items()}
    reader = tf.train.load_checkpoint(str(index.with_suffix("")))
    return settings, unique(
        (openai_name(name), squeezed(torch.from_numpy(reader.get_tensor(name))))
        for name in sorted(reader.get_variable_to_shape_map())
        if name.startswith("model/")
    )


def openai_name(name: str) -> str:
    """model/h3/attn/c_attn/w -> h.3.attn.c_attn.weight"""
    *parts, last = re.sub(r"^model/h(\d+)/", r"model/h/\1/", name).split("/")[1:]
    ending = {"g": "weight", "w": "weight", "b": "bias"}.get(last)
    return ".".join([*parts, ending or f"{last}.weight"])  # wte and wpe have no ending


def squeezed(tensor: Tensor) -> Tensor:
    """(1, in, out), a convolution of width 1 -> (in, out); others as they are"""
    return tensor.squeeze(0) if tensor.ndim == 3 else tensor


# Hugging Face


def read_huggingface(path: Path) -> Weights:
    """Read a safetensors file, or all files that an index lists, with config.json beside them."""
    tensors = unique(
        (name.removeprefix("transformer."), tensor)
        for name, tensor in read_safetensors(path).items()
    )
    # older versions of transformers saved the causal mask with each block
    masks = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
    tensors = {name: tensor for name, tensor in tensors.items() if not masks.fullmatch(name)}
    settings = read_config(path.with_name("config.json"))
    settings["qkv_bias"] = "h.0.attn.c_attn.bias" in tensors
    if settings["tied"] and "lm_head.weight" in tensors:
        head = tensors.pop("lm_head.weight")
        if "wte.weight" in tensors and not torch.equal(head, tensors["wte.weight"]):
            raise ValueError("lm_head.weight must equal wte.weight: config.json ties the two")
    return settings, tensors


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file, or of all files of an index, under the names that they have."""
    from safetensors.torch import load_file

    with open(path, "rb") as file:
        if file.read(1) != b"{":
            return load_file(path)
    tensors, files = {}, read_json(path)["weight_map"]
    for file in sorted(set(files.values())):
        if Path(file).name != file:
            raise ValueError(f"the index must name files of its own folder, not {file!r}")
        loaded = load_file(path.with_name(file)).items()
        tensors |= {name: tensor for name, tensor in loaded if files.get(name) == file}
    return tensors


def read_config(path: Path) -> dict:
    """Read config.json. A model that gpt2.py does not compute is an error."""
    values = read_json(path)
    for name, allowed in COMPUTED.items():
        if (value := values.get(name, allowed[0])) not in allowed:
            raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, not {value!r}")
    settings = {own: values.get(name, default) for name, (own, default) in SIZES.items()}
    if values.get("n_inner") not in (None, 4 * settings["n_embd"]):
        raise ValueError(f"n_inner must be 4 * n_embd, not {values['n_inner']!r}")
    # transformers has three rates and gpt2.py one: three different rates are none
    rates = {values.get(f"{part}_pdrop", 0.1) for part in ("embd", "attn", "resid")}
    settings["dropout"] = rates.pop() if len(rates) == 1 else 0.0
    settings["tied"] = values.get("tie_word_embeddings", True)
    return settings


def read_json(path: Path) -> dict:
    """Read a JSON file that holds an object."""
    values = json.loads(path.read_text("utf-8"))
    if not isinstance(values, dict):
        raise ValueError(f"{path.name} must hold a JSON object, not {type(values).__name__}")
    return values


# npgpt


def read_npgpt(path: Path) -> Weights:
    """Read the model in npgpt's own checkpoint. Its checksums are left to npgpt."""
    import h5py

    with h5py.File(path, "r") as file:
        form = file.attrs.get("format"), file.attrs.get("version")
        if form != ("npgpt", 1):
            raise ValueError(f"format and version must be 'npgpt' and 1, not {form}")
        stored = dict(file["parameters"].items())
        size = sum(dataset.nbytes for dataset in stored.values())
        if size > path.stat().st_size:  # datasets may claim more than the file holds
            raise ValueError(f"the parameters must fit into the file, but have {size:,} bytes")
        tensors = {name: torch.from_numpy(dataset[()]) for name, dataset in stored.items()}
        return json.loads(file.attrs["config"]), tensors
