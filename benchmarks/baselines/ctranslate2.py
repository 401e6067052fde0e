"""CTranslate2, generating from a model that is converted without transformers."""

from collections.abc import Callable
from pathlib import Path

import ctranslate2
import numpy as np
from ctranslate2.specs import TransformerDecoderModelSpec, common_spec

from npgpt.weights.huggingface import read_huggingface
from npgpt.weights.weight_file import WeightFile


class CTranslate2:
    """A Generator. Its tokens are strings: the ids in decimal."""

    def __init__(self, path: Path, threads: int, weights: str):
        source, folder = read_huggingface(path / "model"), path / "ctranslate2"
        spec = specification(source)
        spec.validate()
        spec.optimize(quantization=weights)
        folder.mkdir()
        spec.save(str(folder))
        self.settings, self.version = (
            f"cache float32, compute type {weights}",
            ctranslate2.__version__,
        )
        pools = dict(inter_threads=1, intra_threads=threads)
        self.generator = ctranslate2.Generator(str(folder), compute_type=weights, **pools)

    def logits(self, prompt: np.ndarray, forced: np.ndarray) -> np.ndarray:
        """(T,), (N,) -> (1 + N, V), after the prompt and after each forced token"""
        tokens = np.concatenate([prompt, forced])
        found = self.generator.forward_batch([[str(token) for token in tokens]])
        return np.array(found)[0, len(prompt) - 1 :]

    def generate(self, tokens: np.ndarray, count: int, after: Callable[[], None]) -> np.ndarray:
        """(B, T) -> `count` new tokens (B, count), greedily"""
        batch = [[str(token) for token in row] for row in tokens]
        chosen = dict(max_length=count, min_length=count, include_prompt_in_result=False)
        callback = {"callback": lambda step: after()} if len(batch) == 1 else {}
        found = self.generator.generate_batch(batch, **chosen, **callback)
        return np.array([result.sequences_ids[0] for result in found])


def specification(source: WeightFile) -> TransformerDecoderModelSpec:
    """Return the model as CTranslate2's converters describe it."""
    config = source.config
    spec = TransformerDecoderModelSpec.from_config(
        config.n_layer, config.n_head, pre_norm=True, activation=common_spec.Activation.GELUTanh
    )

    def norm(layer, name):
        layer.gamma, layer.beta = source.array(f"{name}.weight"), source.array(f"{name}.bias")

    def linear(layer, name):
        layer.weight = np.ascontiguousarray(source.array(f"{name}.weight").T)
        layer.bias = source.array(f"{name}.bias")

    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = decoder.projection.weight = source.array("wte.weight")
    decoder.position_encodings.encodings = source.array("wpe.weight")
    norm(decoder.layer_norm, "ln_f")
    for i, block in enumerate(decoder.layer):
        norm(block.self_attention.layer_norm, f"h.{i}.ln_1")
        linear(block.self_attention.linear[0], f"h.{i}.attn.c_attn")
        linear(block.self_attention.linear[1], f"h.{i}.attn.c_proj")
        norm(block.ffn.layer_norm, f"h.{i}.ln_2")
        linear(block.ffn.linear_0, f"h.{i}.mlp.c_fc")
        linear(block.ffn.linear_1, f"h.{i}.mlp.c_proj")
    spec.register_vocabulary([str(token) for token in range(config.vocab_size)])
    last = str(config.vocab_size - 1)
    spec.config.bos_token = spec.config.eos_token = spec.config.unk_token = last
    return spec
