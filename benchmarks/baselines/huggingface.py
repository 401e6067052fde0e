"""Hugging Face's transformers, generating with its key/value cache."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers


class Transformers:
    """GPT2LMHeadModel, eager, with scaled_dot_product_attention."""

    def __init__(self, path: Path, threads: int, weights: str):
        warnings.simplefilter("ignore", FutureWarning)  # past_key_values is getting another name
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        options = dict(dtype=getattr(torch, weights), attn_implementation="sdpa")
        self.model = transformers.GPT2LMHeadModel.from_pretrained(path / "model", **options).eval()
        self.settings, self.version = f"cache {weights}, eager", transformers.__version__

    def logits(self, prompt: np.ndarray, forced: np.ndarray) -> np.ndarray:
        """(T,), (N,) -> (1 + N, V), after the prompt and after each forced token"""
        found, kv_cache = [], None
        for tokens in (prompt[None], *forced[:, None, None]):
            given = dict(past_key_values=kv_cache, use_cache=True, logits_to_keep=1)
            made = self.model(torch.tensor(tokens), **given)
            kv_cache = made.past_key_values
            found.append(made.logits[0, -1].float().numpy())
        return np.stack(found)

    def generate(self, tokens: np.ndarray, count: int, after: Callable[[], None]) -> np.ndarray:
        """(B, T) -> `count` new tokens (B, count), greedily"""
        tokens = torch.tensor(tokens)
        going = torch.zeros(len(tokens), dtype=torch.bool)

        def never(ids, scores):
            after()
            return going

        chosen = dict(max_new_tokens=count, do_sample=False, use_cache=True, pad_token_id=0)
        chosen["stopping_criteria"] = [never]
        made = self.model.generate(tokens, attention_mask=tokens * 0 + 1, **chosen)
        return made[:, tokens.shape[1] :].numpy()
